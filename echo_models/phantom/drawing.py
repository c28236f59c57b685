"""Marks on a screen of bytes: text, lines, boxes and discs."""

from functools import lru_cache
from typing import Final

import numpy as np

from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.screen import Box

__all__ = ["draw_disc", "draw_polyline", "draw_rectangle", "draw_text", "text_width"]

_CHARACTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz%.-+/:"
# The usual 5 x 7 dot-matrix letters: five columns of a byte each, lowest bit on top.
_COLUMNS: Final = bytes.fromhex(
    "3E5149453E00427F400042615149462141454B311814127F1027454545393C4A49493001710905033649494936064949291E"
    "7E1111117E7F494949363E414141227F4141221C7F494949417F090909013E4149497A7F0808087F00417F41002040413F01"
    "7F081422417F404040407F020C027F7F0408107F3E4141413E7F090909063E4151215E7F09192946464949493101017F0101"
    "3F4040403F1F2040201F3F4038403F63140814630708700807615149454320545454787F484444383844444420384444487F"
    "3854545418087E0901020C5252523E7F0804047800447D40002040443D007F1028440000417F40007C041804787C08040478"
    "38444444387C14141408081414187C7C080404084854545420043F4440203C4040207C1C2040201C3C4030403C4428102844"
    "0C5050503C4464544C4423130864620060600000080808080808083E080820100804020036360000"
)


@lru_cache(maxsize=512)
def _glyph(character: str, scale: int) -> BoolArray:
    """One character as a grid of 7 by 6 dots, magnified."""
    place = _CHARACTERS.find(character)
    columns = np.frombuffer(_COLUMNS[5 * place : 5 * place + 5] if place >= 0 else bytes(5), np.uint8)
    dots = (columns[None, :] >> np.arange(7, dtype=np.uint8)[:, None]) & 1
    dots = np.pad(dots, ((0, 0), (0, 1)))
    return np.kron(dots, np.ones((scale, scale), np.uint8)).astype(bool)


def text_width(text: str, scale: int) -> int:
    """Width in pixels of a text."""
    return 6 * scale * len(text)


def draw_text(
    screen: ByteArray, row: int, column: int, text: str, *, scale: int = 2, level: int = 200
) -> None:
    """Write a text with its top left corner at a place; what falls off the screen is left out."""
    for character in text:
        glyph = _glyph(character, scale)
        top, left = max(row, 0), max(column, 0)
        window = screen[top : max(row + glyph.shape[0], 0), left : max(column + glyph.shape[1], 0)]
        part = glyph[top - row :, left - column :][: window.shape[0], : window.shape[1]]
        window[part] = level
        column += glyph.shape[1]


def draw_rectangle(screen: ByteArray, box: Box, level: int) -> None:
    """Fill a rectangle; what falls off the screen is left out."""
    screen[max(box.top, 0) : max(box.bottom, 0), max(box.left, 0) : max(box.right, 0)] = level


def draw_disc(screen: ByteArray, row: float, column: float, radius: float, level: int) -> None:
    """Fill a disc."""
    reach = int(radius) + 1
    top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
    window = screen[top : max(int(row) + reach + 1, 0), left : max(int(column) + reach + 1, 0)]
    rows = np.arange(top, top + window.shape[0])[:, None] - row
    columns = np.arange(left, left + window.shape[1])[None, :] - column
    window[rows * rows + columns * columns <= radius * radius] = level


def draw_polyline(
    screen: ByteArray, rows: FloatArray, columns: FloatArray, level: int, *, width: int = 1
) -> None:
    """Draw a line through places; what falls off the screen is left out."""
    steps = np.maximum(np.abs(np.diff(rows)), np.abs(np.diff(columns)))
    distance = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])
    along = np.arange(0, distance[-1] + 0.5, 0.5)
    at_rows = np.round(np.interp(along, distance, rows)).astype(np.int64)
    at_columns = np.round(np.interp(along, distance, columns)).astype(np.int64)
    for i in range(width):
        for j in range(width):
            r, c = at_rows + i, at_columns + j
            seen = (r >= 0) & (r < screen.shape[0]) & (c >= 0) & (c < screen.shape[1])
            screen[r[seen], c[seen]] = level
