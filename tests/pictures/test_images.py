import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from mpoxcv.errors import UserError
from mpoxcv.pictures.images import MAX_PIXELS, decode


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
