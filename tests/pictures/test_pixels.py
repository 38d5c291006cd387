import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from mpoxcv.audit.surface import surface
from mpoxcv.pictures import pixels as module
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.pixels import Form, edges_and_colours, grey, resize

BILINEAR, BOX = Image.Resampling.BILINEAR, Image.Resampling.BOX


def test_where_there_is_a_compiler_it_was_used():
    assert module.C is not None or shutil.which("cc") is None


@pytest.fixture(params=["compiled", "Pillow and numpy"])
def way(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(module, "C", None)
    elif module.C is None:
        pytest.skip("the C file was not compiled")


def check(pixels, size):
    image = Image.fromarray(pixels)
    assert np.array_equal(
        resize(pixels, Form(size)), np.asarray(image.resize((size, size), BILINEAR))
    )
    assert np.array_equal(
        grey(pixels, size), np.asarray(image.convert("L").resize((size, size), BOX))
    )


@given(
    st.integers(1, 260),
    st.integers(1, 260),
    st.integers(1, 250),
    st.sampled_from([0, 250]),
    st.integers(0, 2**32 - 1),
)
def test_resized_and_grey_pictures_are_pillows(height, width, size, least, seed):
    check(np.random.default_rng(seed).integers(least, 256, (height, width, 3), np.uint8), size)


def test_black_white_and_a_part_of_an_array():
    for value in (0, 255):
        check(np.full((224, 224, 3), value, np.uint8), 32)
    check(np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)[10:90:2, ::-1], 32)


def test_every_real_photograph_is_resized_as_by_pillow(real_data):
    for file in real_data.rglob("*.jpg"):
        for size in (32, 128):
            check(decode(file.read_bytes()), size)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (97, 60), (20, 31)])
def test_resize_without_antialiasing_takes_the_four_nearest(height, width):
    """As in OpenCV's resize.

    Out (i, j) is interpolated at ((i + 0.5) height / size - 0.5, (j + 0.5) width / size - 0.5).
    """
    pixels, size = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), 32
    grid = RegularGridInterpolator((np.arange(height), np.arange(width)), pixels.astype(float))
    i, j = (np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1) for n in (height, width))
    expected = grid(np.stack(np.meshgrid(i, j, indexing="ij"), -1))
    nearest = resize(pixels, Form(size, antialias=False))
    assert np.abs(nearest - expected).max() < 1
    if height > 2 * size:
        assert np.abs(resize(pixels, Form(size)).astype(int) - nearest).max() > 100


@pytest.mark.parametrize("shape", [(50, 40), (3, 200), (1, 1), (5, 6)])
def test_edges_and_colours(way, shape):
    pixels = (
        np.random.default_rng(1)
        .choice([3, 15, 16, 100, 239, 240, 255], (*shape, 3))
        .astype(np.uint8)
    )
    pixels[:2], pixels[-1:] = 15, 240
    sides = [pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]]
    edge = np.concatenate([side.reshape(-1, 3) for side in sides]).tolist()
    found = edges_and_colours(pixels, 4).tolist()
    assert found[:2] == [sum(max(p) < 16 for p in edge), sum(min(p) > 239 for p in edge)]
    few = pixels[::4, ::4].reshape(-1, 3).astype(int)
    assert found[2:] == few.sum(0).tolist() + (few**2).sum(0).tolist()


def test_the_surface_is_that_of_the_file(way, tmp_path):
    pixels = np.random.default_rng(2).integers(20, 236, (60, 80, 3), np.uint8)
    pixels[:4] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    few = pixels[::4, ::4].reshape(-1, 3).astype(float)
    expected = [
        len(data),
        80,
        60,
        0,
        (4 * 80 + 2 * 4 * 4) / (8 * 140),
        0,
        *few.mean(0),
        *few.std(0),
        0,
        0,
        0,
    ]
    assert surface(data, pixels) == pytest.approx(expected, rel=1e-12)
