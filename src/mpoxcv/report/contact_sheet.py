"""Pictures side by side with their names, by Pillow: matplotlib takes five times as long."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from mpoxcv.evaluation.predictions import is_synthetic, most_confident_mistakes
from mpoxcv.report.figures import DPI, PAPER, describe, title_lines
from mpoxcv.report.fonts import drawable

# In pixels: width and height of a picture with its caption; a picture's longer side, and spaces.
PLACE = (262, 330)
SIDE, GAP = 248, 5
# Of letters.
CAPTION, TITLE = 15, 23
# Each uint8 (height, width, 3).
Pictures = Sequence[np.ndarray | None]


def contact_sheet(
    pictures: Pictures, captions: Sequence[str], title: str, synthetic: bool, columns: int = 5
) -> Image.Image:
    """Show pictures in rows of ``columns``, each under its caption of up to three lines.

    A line that is too long is cut; a picture that is None leaves its place empty.
    """
    width, rows = PLACE[0] * columns, max(1, -(-len(pictures) // columns))
    heading = "\n".join([*title_lines(title, synthetic, width / DPI), *["none"] * (not pictures)])
    head = (heading.count("\n") + 2) * (TITLE + GAP)
    sheet = Image.new("RGB", (width, head + rows * PLACE[1]), PAPER[synthetic])
    _write(sheet, heading, (width // 2, TITLE), TITLE, "ma", width)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        if picture is None:
            continue
        row, column = divmod(number, columns)
        middle, bottom = PLACE[0] * column + PLACE[0] // 2, head + PLACE[1] * (row + 1) - GAP
        scale = SIDE / max(picture.shape[:2])
        h, w = (max(1, round(scale * length)) for length in picture.shape[:2])
        scaled = Image.fromarray(picture).resize((w, h), Image.Resampling.NEAREST)
        sheet.paste(scaled, (middle - w // 2, bottom - SIDE))
        _write(sheet, caption, (middle, bottom - SIDE - GAP), CAPTION, "md", PLACE[0])
    return sheet


def mistakes_sheet(
    predictions: pd.DataFrame, picture_of: Callable[[pd.Series], np.ndarray], most: int = 15
) -> Image.Image:
    """Show the most confident mistakes; ``picture_of`` gives a row's, uint8 (height, width, 3)."""
    wrong = most_confident_mistakes(predictions, most)
    files = [image.partition("/")[2] for image in wrong["image"]]
    caption = "{file}\n{label}\ncalled {prediction} ({confidence:.2f})"
    captions = [caption.format_map(row) for _, row in wrong.assign(file=files).iterrows()]
    total = int((predictions["label"] != predictions["prediction"]).sum())
    title = f"Most confident mistakes: {len(wrong)} of {total}\n{describe(predictions)}"
    pictures = [picture_of(row) for _, row in wrong.iterrows()]
    return contact_sheet(pictures, captions, title, is_synthetic(predictions))


def _write(
    sheet: Image.Image, text: str, place: tuple[int, int], size: int, anchor: str, width: int
) -> None:
    """Write lines around a place, cut to so many pixels, in one font: of several the first's."""
    text, fonts = drawable(text)
    file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    font = ImageFont.truetype(fonts[0].fname if fonts else file, size)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        while font.getlength(lines[number]) > width - GAP:
            line = line[: min(len(line), 99) - 1]
            lines[number] = f"{line}…"
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text(place, "\n".join(lines), "black", font, anchor, GAP, "center")
