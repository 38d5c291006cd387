"""Pictures side by side."""

import numpy as np
import pytest

from mpoxcv.report.contact_sheet import PLACE, SIDE, contact_sheet
from mpoxcv.report.figures import PAPER


def colours_of(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(image.reshape(-1, 3), axis=0).tolist()))


@pytest.mark.parametrize("shape", [(32, 32, 3), (40, 90, 3), (700, 300, 3), (1, 400, 3)])
def test_every_picture_is_shown_whole_in_its_place(shape):
    pictures = [
        np.full(shape, colour, np.uint8) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    ]
    sheet = np.asarray(
        contact_sheet([pictures[0], None, *pictures[1:]], [""] * 4, "title", False, columns=2)
    )
    assert sheet.shape[1] == 2 * PLACE[0]
    height, width = (max(1, round(SIDE * side / max(shape))) for side in shape[:2])
    rows = np.vsplit(sheet[-2 * PLACE[1] :], 2)
    places = [place for row in rows for place in np.hsplit(row, 2)]
    for place, colour in ((0, (250, 0, 0)), (2, (0, 250, 0)), (3, (0, 0, 250))):
        assert (places[place] == colour).all(2).sum() == height * width
    assert colours_of(places[1]) == {(255, 255, 255)}


@pytest.mark.parametrize(
    "caption", ["short", "a_very_long_name_" * 9, "", "a\n" * 3 + "b", "x" * 5000, "图片.jpg"]
)
def test_captions_stay_over_their_picture(caption):
    picture = np.zeros((8, 8, 3), np.uint8)
    sheet = np.asarray(
        contact_sheet([None, picture, None], ["", caption, ""], "title", False, columns=3)
    )
    left, middle, right = np.hsplit(sheet[-PLACE[1] :], 3)
    assert colours_of(left) == colours_of(right) == {(255, 255, 255)}
    assert (len(colours_of(middle[: PLACE[1] - SIDE - 10])) > 1) == bool(caption)


def test_a_sheet_without_pictures_says_so_and_synthetic_ones_have_their_paper():
    assert (0, 0, 0) in colours_of(np.asarray(contact_sheet([], [], "title", False)))
    sheet = contact_sheet([], [], "title", True)
    assert "#{:02X}{:02X}{:02X}".format(*sheet.getpixel((0, 0))) == PAPER[True]
