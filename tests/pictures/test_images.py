import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, PngImagePlugin

from mpoxcv.errors import UserError
from mpoxcv.pictures import images
from mpoxcv.pictures.images import MAX_PIXELS, decode, decoded


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


GRADIENT = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
RGB = Image.fromarray(np.stack([GRADIENT, GRADIENT[::-1], GRADIENT.T], axis=2))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_modes_become_what_pillow_makes_of_them(mode):
    image = RGB.convert(mode)
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_the_upper_eight():
    grey = (GRADIENT.astype(np.uint16) << 8) + 77
    assert np.array_equal(decode(encode(Image.fromarray(grey)))[..., 0], GRADIENT)


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown 90 degrees clockwise
    data = encode(RGB.resize((16, 8)), "JPEG", exif=exif, quality=100)
    assert decode(data).shape == (16, 8, 3)


# what each orientation does to (height, width, 3)
UPRIGHT = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: np.rot90,
}
WIDE = RGB.resize((16, 8))
FORM = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF>{}</rdf:RDF></x:xmpmeta>"


def xmp(number: int, element: bool = False) -> bytes:
    tag = f"<tiff:Orientation>{number}</tiff:Orientation>" if element else ""
    attribute = "" if element else f'tiff:Orientation="{number}"'
    return FORM.format(f"<rdf:Description {attribute}>{tag}</rdf:Description>").encode()


def with_orientation(image: Image.Image, kind: str, number: int, where: str) -> bytes:
    """The picture with an orientation in EXIF or XMP, where ``kind`` has it."""
    exact = {"WEBP": {"lossless": True}}.get(kind, {})
    exif = Image.Exif()
    if where == "EXIF":
        exif[0x0112] = number
        return encode(image, kind, exif=exif, **exact)
    text = xmp(number, element=where == "XMP element")
    if kind == "TIFF":
        return encode(image, kind, tiffinfo={700: text})
    if kind != "PNG":
        return encode(image, kind, xmp=text, **exact)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text.decode())
    return encode(image, kind, pnginfo=info)


@pytest.mark.parametrize("where", ["EXIF", "XMP", "XMP element"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_one_rule_of_orientation_for_all_formats(kind, mode, where):
    image = WIDE.convert(mode)
    stored = decode(with_orientation(image, kind, 1, where))
    for number, turn in UPRIGHT.items():
        shown = decode(with_orientation(image, kind, number, where))
        assert np.array_equal(shown, turn(stored)), number


def exif_of(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block of entries (tag, type, count, four bytes of value)."""
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    head = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + head + struct.pack(order + "I", 8) + body + b"\0" * 4


TURNED = (0x0112, 3, 1, b"\6\0")
ODD_TAGS = {
    "an ASCII XResolution": (0x011A, 2, 4, b"300\0"),
    "a byte ResolutionUnit": (0x0128, 1, 1, b"\2"),
    "a signed XResolution": (0x011A, 9, 1, b"\xff" * 4),
    "an ASCII ExifOffset": (0x8769, 2, 3, b"12\0"),
    "an ExifOffset beyond the end": (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
    "a value beyond the end": (0x010F, 2, 99_999, b"\xff\xff\0\0"),
    "an unknown type": (0x0132, 99, 1, b"\1"),
    "no XResolution": (0x011A, 5, 0, b""),
    "a GPS block that is none": (0x8825, 7, 4, b"junk"),
    "a signed short orientation twice": (0x0112, 8, 1, b"\6\0"),
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ODD_TAGS)
def test_odd_tags_beside_the_orientation_do_not_matter(name, mode):
    image = WIDE.convert(mode)
    tags = sorted([TURNED, ODD_TAGS[name]])
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(encode(image, kind, exif=exif_of(*tags))).shape == (16, 8, 3), kind


def test_broken_exif_is_no_reason_to_refuse_a_picture():
    for block in (
        b"Exif\0\0junk",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        exif_of(TURNED)[:20],
    ):
        for kind in ("JPEG", "PNG", "WEBP"):
            assert decode(encode(WIDE, kind, exif=block)).shape == (8, 16, 3)
    both = encode(WIDE, "JPEG", exif=b"Exif\0\0junk", xmp=xmp(6))
    assert decode(both).shape == (16, 8, 3)


def test_transparent_palette_and_animation():
    image = RGB.convert("P")
    data = encode(image, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert tuple(decode(encode(first, "GIF", save_all=True, append_images=[second]))[0, 0]) == (
        255,
        0,
        0,
    )


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 100), st.integers(0, 2), st.booleans(),
    st.sampled_from(["L", "RGB"]), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_jpeg_has_pillows_pixels(
    height, width, quality, subsampling, progressive, mode, smooth, seed
):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image = image.filter(ImageFilter.GaussianBlur(3)) if smooth else image
    data = encode(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_every_real_photograph_has_pillows_pixels(real_data):
    for file in real_data.rglob("*.jpg"):
        assert np.array_equal(
            decode(file.read_bytes()), np.asarray(Image.open(file).convert("RGB"))
        )


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


JPEG = encode(RGB.resize((200, 200)), "JPEG")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"this is a text", "not a picture"),
        (JPEG[: len(JPEG) // 2], "cannot be decoded"),
        (encode(RGB)[:-30], "cannot be decoded"),
        (bomb(), "bomb"),
        (encode(Image.new("1", (17_000, 17_000))), f"17000 x 17000 pixels.* limit of {MAX_PIXELS}"),
        (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_is_no_sound_picture_says_why(data, words):
    with pytest.raises(UserError, match=words):
        decode(data)


@settings(deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=40))
def test_damaged_bytes_give_a_picture_or_a_user_error(position, noise):
    damaged = JPEG[:position] + noise + JPEG[position + len(noise) :]
    try:
        assert np.array_equal(
            decode(damaged), np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB"))
        )
    except UserError:
        pass


def test_absurd_chroma_sampling_gives_a_picture_or_a_user_error():
    at = JPEG.index(b"\xff\xc0") + 11
    for sampling in range(256):
        try:
            assert decode(JPEG[:at] + bytes([sampling]) + JPEG[at + 1 :]).shape == (200, 200, 3)
        except UserError:
            pass


def test_of_large_pictures_there_is_one_at_a_time(monkeypatch):
    monkeypatch.setattr(images, "LARGE", 20 * 20)
    inside, most = [], []

    def use(data):
        with decoded(data) as pixels:
            inside.append(pixels.size)
            time.sleep(0.02)
            most.append(sum(size > 3 * 20 * 20 for size in inside))
            inside.remove(pixels.size)

    large = [encode(RGB.resize((30, 30)), kind) for kind in ("JPEG", "PNG", "WEBP")]
    small = [encode(RGB.resize((20, 20)), "JPEG")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, 3 * large + 3 * small))
        # neither a damaged one nor one that fails in use keeps the others waiting
        list(pool.map(damaged_or_not, [large[1][:-30], large[0]]))
        list(pool.map(use, large))
    assert max(most) == 1


def damaged_or_not(data):
    try:
        with decoded(data):
            raise UserError("cannot be used")
    except UserError:
        pass


def test_a_bomb_is_told_by_its_size_before_a_pixel_is_read():
    jpeg = encode(Image.new("L", (16, 16)), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    for width, height in ((16_384, 16_385), (65_535, 65_535)):
        size = struct.pack(">HH", height, width)
        with pytest.raises(UserError, match=f"{width} x {height} pixels.*Save it smaller"):
            decode(jpeg[:at] + size + jpeg[at + 4 :])


@pytest.mark.slow
def test_200_megapixels_decode():
    data = encode(Image.new("L", (16_320, 12_240), 128), "JPEG")
    pixels = decode(data)
    assert pixels.shape == (12_240, 16_320, 3) and pixels.min() == pixels.max() == 128


def test_a_plain_jpeg_over_the_limit_is_refused_as_any_other(monkeypatch):
    picture = encode(RGB.resize((60, 50)), "JPEG")
    assert decode(picture).shape == (50, 60, 3)
    monkeypatch.setattr(images, "LARGE", 1000)
    assert decode(picture).shape == (50, 60, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 2999)
    with pytest.raises(UserError, match="has 60 x 50 pixels, over the limit of 2999"):
        decode(picture)
    monkeypatch.setattr(images, "MAX_PIXELS", 3000)
    assert decode(picture).shape == (50, 60, 3)


def test_a_format_that_starts_another_program_is_not_even_opened():
    """With EPS among the formats Pillow would open this, and ask for Ghostscript."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "EPS"
    with pytest.raises(UserError, match="is not a picture in a format that Pillow knows"):
        decode(data)
