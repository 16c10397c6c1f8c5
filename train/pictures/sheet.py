"""A grid as one image: tiles pixel by pixel as they are, words around them."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.pictures.grids import Grid

#: In pixels: around everything, between tiles, before a column that stands apart.
_MARGIN, _GAP, _BREAK = 16, 4, 12
#: Heights of letters, in pixels, and colours.
_TITLE, _NOTE, _LABEL = 22, 15, 13
_INK, _SOFT, _PAPER = (20, 24, 31), (90, 99, 110), (255, 255, 255)


def grid_png(grid: Grid) -> bytes:
    """The grid with its title, note and labels, as the bytes of a PNG. Equal grids give equal bytes."""
    buffer = io.BytesIO()
    draw_grid(grid).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def draw_grid(grid: Grid) -> Image.Image:
    """The same as an RGB image."""
    count, _, height, width = grid.tiles.shape
    rows = -(-count // grid.columns)
    gap = 0 if grid.seamless else _GAP
    lefts = _offsets(grid, width, gap)
    note = _wrapped(grid.note, _font(_NOTE), max(lefts[-1] + width, 420))
    beside = max((round(_font(_LABEL).getlength(label)) + 10 for label in grid.rows), default=0)
    above = _MARGIN + _TITLE + 10 + len(note) * (_NOTE + 6) + 8 + (_LABEL + 8 if grid.heads else 0)
    texts = [_font(_TITLE, bold=True).getlength(grid.title), *(_font(_NOTE).getlength(line) for line in note)]
    wide = max(beside + lefts[-1] + width, *map(round, texts)) + 2 * _MARGIN
    sheet = Image.new("RGB", (wide, above + rows * (height + gap) - gap + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), grid.title, _INK, _font(_TITLE, bold=True), anchor="lt")
    for number, line in enumerate(note):
        pen.text((_MARGIN, _MARGIN + _TITLE + 10 + number * (_NOTE + 6)), line, _SOFT, _font(_NOTE), anchor="la")
    left = _MARGIN + beside
    for index, tile in enumerate(grid.tiles.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, grid.columns)
        sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left + lefts[column], above + row * (height + gap)))
    for label, offset in zip(grid.heads, lefts, strict=False):
        pen.text((left + offset + width / 2, above - 6), label, _SOFT, _font(_LABEL), anchor="ms")
    for row, label in enumerate(grid.rows):
        middle = above + row * (height + gap) + height / 2
        pen.text((left - 8, middle), label, _SOFT, _font(_LABEL), anchor="rm")
    return sheet


def _offsets(grid: Grid, width: int, gap: int) -> list[int]:
    """Of each column from the first one's left edge."""
    apart = [sum(column >= start for start in grid.breaks) for column in range(grid.columns)]
    return [column * (width + gap) + count * (_BREAK - gap) for column, count in enumerate(apart)]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib: the same letters on every machine, and as in the charts."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
