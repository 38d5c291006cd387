"""Class names in scripts that matplotlib's own font lacks are told apart in every figure."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from PIL import Image

from mpoxcv.report import fonts
from mpoxcv.report.contact_sheet import contact_sheet
from mpoxcv.report.figures import draw_all, save_figure

LACKING = "\u7334\u75d8", "\u6c34\u75d8"


def images_of(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Draw every figure with a class of this name."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 20)
    classes = np.array(["Other", name])
    rows = pd.DataFrame({"image": [f"{i}.jpg" for i in range(20)], "patient": np.arange(20)})
    rows = rows.assign(data="set", fold=1, split="test", label=classes[np.arange(20) % 2])
    rows = rows.assign(prediction=classes[p.argmax(1)])
    rows[["p_Other", f"p_{name}"]] = p
    for title, figure in draw_all(rows).items():
        save_figure(figure, folder / f"{title}.png")
    sheet = contact_sheet([np.zeros((8, 8, 3), np.uint8)], [name], name, False)
    save_figure(sheet, folder / "sheet.png")
    return {file.stem: np.asarray(Image.open(file)) for file in folder.glob("*.png")}


@pytest.mark.parametrize("installed", [True, False])
def test_names_are_told_apart(installed, tmp_path, monkeypatch, capsys):
    """By an installed font, where there is one; else by their codes, with one warning."""
    entries = font_manager.fontManager.ttflist
    if installed and not any("CJK" in file for file in font_manager.findSystemFonts()):
        pytest.skip("no font with Chinese letters: install Debian's package fonts-noto-cjk")
    if not installed:
        own = [entry for entry in entries if "mpl-data" in entry.fname]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    for cached in (fonts.font_for, fonts.drawable, fonts._warn_once):
        cached.cache_clear()
    with warnings.catch_warnings():
        # matplotlib's, of a glyph that is missing
        warnings.simplefilter("error")
        one, other = (images_of(name, tmp_path / str(i)) for i, name in enumerate(LACKING))
    for title in set(one) - {"reliability"}:
        same = one[title].shape == other[title].shape and np.array_equal(one[title], other[title])
        assert not same, title
    said = capsys.readouterr().err
    assert said.count("No installed font") == (not installed)
    assert (fonts.drawable(LACKING[0])[0] == LACKING[0]) == installed
    for cached in (fonts.font_for, fonts.drawable, fonts._warn_once):
        cached.cache_clear()
