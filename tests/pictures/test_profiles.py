"""Colours of wide profiles become sRGB's, and what profiles give away is said."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_images import RGB, encode
from test_sweep import options

from conftest import CLASSES, write_tree
from mpoxcv.pictures.images import decode

# of a D50 white, the colours' XYZ in columns, as published
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
LEVELS = np.linspace(0, 1, 1024)


def to_linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_linear(values):
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def profile(matrix: np.ndarray | None, curve: np.ndarray) -> bytes:
    """A profile of these colours, or of grey, by the ICC's specification."""

    def xyz(values):
        numbers = [round(v * 65536) for v in values]
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *numbers)

    tone = np.round(curve * 65535).astype(">u2").tobytes()
    tone = b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + tone
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    if matrix is None:
        tags[b"kTRC"] = tone
    else:
        for letter, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
            tags |= {letter + b"XYZ": xyz(column), letter + b"TRC": tone}
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        at = 128 + 4 + 12 * len(tags) + len(body)
        table += name + struct.pack(">II", at, len(content))
        body += content + b"\0" * (-len(content) % 4)
    space = b"GRAY" if matrix is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02100000, b"mntr", space, b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp"
    white = struct.pack(">3i", 63190, 65536, 54061)
    whole = head.ljust(68, b"\0") + white
    whole = whole.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


WIDE = {"Adobe RGB": (ADOBE, LEVELS ** (563 / 256)), "Display P3": (P3, to_linear(LEVELS))}
BROKEN = b"\0\0\2\0lcms" + b"junk" * 50
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("name", WIDE)
def test_wide_colours_are_those_that_the_arithmetic_gives(kind, name):
    matrix, curve = WIDE[name]
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    exact = lossless.get(kind, {})
    bare = decode(encode(Image.fromarray(COLOURS), kind, **exact))
    shown = decode(
        encode(Image.fromarray(COLOURS), kind, icc_profile=profile(*WIDE[name]), **exact)
    )
    linear = np.interp(bare / 255, LEVELS, curve) @ (np.linalg.inv(SRGB) @ matrix).T
    expected = 255 * from_linear(linear.clip(0, 1))
    assert np.abs(shown - expected).max() < 2.5
    assert np.abs(shown.astype(int) - bare).max() > 20


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize(
    "icc",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile(SRGB, to_linear(LEVELS)),
        BROKEN,
        profile(P3, to_linear(LEVELS))[:300],
    ],
    ids=["sRGB", "sRGB by table", "broken", "cut"],
)
def test_srgb_and_broken_profiles_change_no_byte(mode, icc):
    image = RGB.convert(mode)
    assert np.array_equal(decode(encode(image, icc_profile=icc)), decode(encode(image)))
    if mode in ("RGB", "L"):
        jpeg = encode(image, "JPEG", icc_profile=icc)
        assert np.array_equal(decode(jpeg), decode(encode(image, "JPEG")))


def test_modes_take_a_profile_of_their_colours():
    grey = RGB.convert("L")
    dark = profile(None, LEVELS**3.0)
    expected = 255 * from_linear((np.asarray(grey) / 255) ** 3.0)
    assert np.abs(decode(encode(grey, icc_profile=dark))[..., 1] - expected).max() < 2.5
    # one of grey says nothing of colours; one of colours fits what becomes RGB
    assert np.array_equal(decode(encode(RGB, icc_profile=dark)), np.asarray(RGB))
    wide = profile(*WIDE["Display P3"])
    for mode in ("P", "RGBA"):
        image = RGB.convert(mode)
        same = decode(encode(image.convert("RGB"), icc_profile=wide))
        assert np.array_equal(decode(encode(image, icc_profile=wide)), same)


@pytest.mark.slow
def test_the_audit_names_what_profiles_give_away_and_those_that_are_broken(run_script, tmp_path):
    tree = write_tree(tmp_path / "set", pictures=6)
    files = sorted(tree.rglob("COW*.jpg"))
    for number, file in enumerate(files):
        icc = BROKEN if number < 2 else profile(*WIDE["Adobe RGB"])
        with Image.open(file) as image:
            image.save(file, icc_profile=icc, quality=90)
    asked = (f"data.root={tree}", f"data.classes=[{','.join(CLASSES)}]", "folds=2")
    done = run_script("get_data", *asked, next(o for o in options(tree, tree) if "pattern" in o))
    assert done.code == 0, done.err
    assert "told from the colour profile" in " ".join(done.out.split())
    assert "a colour profile that cannot be read" in " ".join(done.out.split())
