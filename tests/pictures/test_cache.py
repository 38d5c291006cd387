import multiprocessing
import os

import numpy as np
import pytest

from conftest import write_picture
from mpoxcv.errors import UserError
from mpoxcv.pictures import cache as cache_module
from mpoxcv.pictures.cache import digest_files, fingerprint, open_cache
from mpoxcv.pictures.images import decode, decoded
from mpoxcv.pictures.pixels import Form, resize


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    paths = [f"{i}.jpg" for i in range(20)]
    for i, path in enumerate(paths):
        write_picture(root / path, i)
    return root, paths


def test_pixels_are_those_of_decode(pictures, tmp_path):
    root, paths = pictures
    cache = open_cache(root, paths, Form(16), tmp_path / "cache")
    for path, row in zip(paths, cache.rows, strict=True):
        assert np.array_equal(
            cache.pixels[row], resize(decode((root / path).read_bytes()), Form(16))
        )


def test_a_picture_in_two_places_is_kept_once(pictures, tmp_path):
    root, paths = pictures
    (root / "copy.jpg").write_bytes((root / "3.jpg").read_bytes())
    cache = open_cache(root, [*paths, "copy.jpg"], Form(16), tmp_path / "cache")
    assert len(cache.pixels) == 20
    assert cache.rows[-1] == cache.rows[3]


def test_a_warm_cache_decodes_nothing(pictures, tmp_path, monkeypatch):
    root, paths = pictures
    cold = open_cache(root, paths, Form(16), tmp_path / "cache", threads=1)
    monkeypatch.setattr(cache_module, "decoded", lambda *_: pytest.fail("decoded again"))
    warm = open_cache(root, paths, Form(16), tmp_path / "cache", threads=3)
    assert np.array_equal(cold.pixels, warm.pixels)


def test_what_another_folds_cache_holds_is_not_decoded_again(pictures, tmp_path, monkeypatch):
    root, paths = pictures
    one, folder = open_cache(root, paths[:15], Form(16), tmp_path / "cache"), tmp_path / "cache"
    seen = []
    monkeypatch.setattr(cache_module, "decoded", lambda data: seen.append(data) or decoded(data))
    two = open_cache(root, paths[5:], Form(16), folder)
    assert sorted(seen) == sorted((root / path).read_bytes() for path in paths[15:])
    assert np.array_equal(one.pixels[one.rows[5:]], two.pixels[two.rows[:10]])
    assert np.array_equal(
        two.pixels[two.rows[-1]], resize(decode((root / paths[-1]).read_bytes()), Form(16))
    )
    for form in (Form(24), Form(16, antialias=False), Form(16, crop=0.5)):
        seen.clear()
        open_cache(root, paths[5:], form, folder)
        assert len(seen) == 15


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-5], lambda data: b"", lambda data: data[32:], lambda data: data[::-1]],
)
def test_damaged_lists_of_other_caches_are_left_out(pictures, tmp_path, damage):
    root, paths = pictures
    open_cache(root, paths[:15], Form(16), tmp_path / "cache")
    [file] = (tmp_path / "cache").glob("*.digests")
    file.write_bytes(damage(file.read_bytes()))
    cache = open_cache(root, paths, Form(16), tmp_path / "cache")
    for path, row in zip(paths, cache.rows, strict=True):
        assert np.array_equal(
            cache.pixels[row], resize(decode((root / path).read_bytes()), Form(16))
        )


def test_content_and_settings_make_another_cache(pictures, tmp_path):
    root, paths = pictures
    folder = tmp_path / "cache"
    before = open_cache(root, paths, Form(16), folder)
    stat = (root / "5.jpg").stat()
    write_picture(root / "5.jpg", 99)
    os.utime(root / "5.jpg", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # content counts, not dates
    after = open_cache(root, paths, Form(16), folder)
    assert not np.array_equal(after.pixels[after.rows[5]], before.pixels[before.rows[5]])
    assert open_cache(root, paths, Form(24), folder).pixels.shape == (20, 24, 24, 3)


def test_the_fingerprint_knows_content_and_names_not_places(pictures, tmp_path):
    def of(paths):
        return fingerprint(paths, digest_files(root, paths))

    root, paths = pictures
    before = of(paths)
    root = root.rename(tmp_path / "moved")
    assert of(paths[::-1]) == before
    (root / "0.jpg").rename(root / "x.jpg")
    assert of(["x.jpg", *paths[1:]]) != before
    (root / "x.jpg").rename(root / "0.jpg")
    write_picture(root / "5.jpg", 99)
    assert of(paths) != before


def test_without_antialiasing_it_is_another_cache(pictures, tmp_path):
    root, paths = pictures
    smooth, plain = (
        open_cache(root, paths, Form(16, choice), tmp_path / "cache") for choice in (True, False)
    )
    assert np.array_equal(
        plain.pixels[plain.rows[0]],
        resize(decode((root / paths[0]).read_bytes()), Form(16, antialias=False)),
    )
    assert not np.array_equal(smooth.pixels, plain.pixels)


def test_bad_pictures_are_all_named_and_leave_nothing(pictures, tmp_path):
    root, paths = pictures
    (root / "2.jpg").write_bytes(b"")
    (root / "7.jpg").write_bytes((root / "7.jpg").read_bytes()[:300])
    with pytest.raises(UserError) as error:
        open_cache(root, paths, Form(16), tmp_path / "cache")
    assert "2.jpg: is empty" in str(error.value)
    assert "7.jpg: cannot be decoded" in str(error.value)
    assert """'data.exclude=["2.jpg","7.jpg"]'""" in str(error.value)
    assert not list((tmp_path / "cache").glob("*.npy")) and not list(
        (tmp_path / "cache").glob("*.partial")
    )


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"x" * len(data)]
)
def test_a_damaged_cache_file_is_made_again(pictures, tmp_path, damage):
    root, paths = pictures
    pixels = open_cache(root, paths, Form(16), tmp_path / "cache").pixels.copy()
    [file] = (tmp_path / "cache").glob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(open_cache(root, paths, Form(16), tmp_path / "cache").pixels, pixels)


def _open(arguments):
    return open_cache(*arguments).pixels.sum()


def test_five_processes_at_once(pictures, tmp_path):
    root, paths = pictures
    with multiprocessing.get_context("forkserver").Pool(5) as pool:
        sums = pool.map(_open, [(root, paths, Form(16), tmp_path / "cache")] * 5)
    assert len(set(sums)) == 1
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
