"""The sheet shows every frame, in its place, with its outlines."""

import numpy as np

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS
from beam_jobs.sheet import (
    COLUMNS,
    FOV_COLOUR,
    GAP_PX,
    HEAD_PX,
    LV_COLOUR,
    SCALE,
    TITLE_PX,
    Tile,
    draw_sheet,
    outline,
)

SHAPE = (FRAME_ROWS, FRAME_COLUMNS)


def tile(level: int) -> Tile:
    fov, lv = np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)
    fov[10:110, 20:140] = True
    lv[40:80, 60:100] = True
    return Tile(np.full(SHAPE, level, np.uint8), fov, lv, "a caption", "a4c 0.93")


def test_an_outline_is_the_rim_of_the_mask_and_inside_it() -> None:
    mask = np.zeros((6, 7), np.bool_)
    mask[1:5, 2:6] = True
    rim = mask.copy()
    rim[2:4, 3:5] = False
    assert (outline(mask) == rim).all()


def test_the_rim_of_a_mask_that_fills_the_picture_is_the_picture_s_edge() -> None:
    rim = outline(np.ones((4, 5), np.bool_))
    assert rim.sum() == 14
    assert not rim[1:3, 1:4].any()


def test_frames_lie_in_rows_with_both_outlines_in_their_colours() -> None:
    sheet = np.asarray(draw_sheet([tile(level) for level in range(1, COLUMNS + 2)], "legend"))
    for place in range(COLUMNS + 1):
        row, column = divmod(place, COLUMNS)
        top = HEAD_PX + row * (FRAME_ROWS * SCALE + TITLE_PX + GAP_PX) + TITLE_PX
        left = GAP_PX + column * (FRAME_COLUMNS * SCALE + GAP_PX)
        frame = sheet[top : top + FRAME_ROWS * SCALE, left : left + FRAME_COLUMNS * SCALE]
        assert (frame[0, 0] == place + 1).all()
        assert (frame[10 * SCALE, 30 * SCALE] == FOV_COLOUR).all()
        assert (frame[40 * SCALE, 70 * SCALE] == LV_COLOUR).all()
        assert (frame[60 * SCALE, 80 * SCALE] == place + 1).all()


def test_a_sheet_of_nothing_is_still_a_picture() -> None:
    assert draw_sheet([], "legend").size[0] == COLUMNS * (FRAME_COLUMNS * SCALE + GAP_PX) + GAP_PX
