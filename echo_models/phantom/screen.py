"""The machine's screen: where a sector lies on it, and the raster that looks at it.

The screen is 600 rows by 800 columns, the size of the paper's originals. A raster of 120 x 160 looks at the
very points that nearest-neighbour down-sampling keeps; nothing else is computed.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray, IntArray

__all__ = ["SCREEN_COLUMNS", "SCREEN_ROWS", "Box", "Fan", "FanSampler", "Raster"]

SCREEN_ROWS: Final = 600
SCREEN_COLUMNS: Final = 800


class Box(NamedTuple):
    """A box of the screen in pixels; bottom and right are the first outside."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Raster:
    """Nearest-neighbour sampling of the screen at some size."""

    rows: int
    columns: int

    @property
    def screen_rows(self) -> IntArray:
        """Screen row of each raster row, [rows]."""
        return ((np.arange(self.rows) + 0.5) * SCREEN_ROWS / self.rows).astype(np.int64)

    @property
    def screen_columns(self) -> IntArray:
        """Screen column of each raster column, [columns]."""
        return ((np.arange(self.columns) + 0.5) * SCREEN_COLUMNS / self.columns).astype(np.int64)

    def look(self, screen: ByteArray) -> ByteArray:
        """Sample a full screen [600, 800] to [rows, columns]."""
        return screen[self.screen_rows[:, None], self.screen_columns[None, :]]


@dataclass(frozen=True)
class Fan:
    """A sector on the screen.

    Attributes:
        apex_row: Row where the lines meet, screen pixels; may lie off the screen.
        apex_column: Column where they meet.
        px_per_mm: Zoom.
        radius_mm: Radius of the probe's face: the lines begin there, so the apex is cut off.
        depth_mm: Depth counted from the face.
        half_angle: Half of the opening, radians.
        mirrored: Left and right exchanged.
        upside_down: Apex shown at the bottom.
        box: What of the screen the sector may fill.
    """

    apex_row: float
    apex_column: float
    px_per_mm: float
    radius_mm: float
    depth_mm: float
    half_angle: float
    mirrored: bool
    upside_down: bool
    box: Box

    def polar(self, rows: FloatArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Give angle (radians, as scanned) and depth (mm from the face) of screen places."""
        down = (rows - self.apex_row) / self.px_per_mm
        sideways = (columns - self.apex_column) / self.px_per_mm
        if self.upside_down:
            down = -down
        if self.mirrored:
            sideways = -sideways
        return np.arctan2(sideways, down), np.hypot(sideways, down) - self.radius_mm

    def place(self, angle: FloatArray, depth_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Give the screen row and column of a place in the sector; the inverse of `polar`."""
        radius = (depth_mm + self.radius_mm) * self.px_per_mm
        sideways = radius * np.sin(angle) * (-1 if self.mirrored else 1)
        down = radius * np.cos(angle) * (-1 if self.upside_down else 1)
        return self.apex_row + down, self.apex_column + sideways

    def inside(self, raster: Raster) -> BoolArray:
        """Say which raster pixels the sector covers, [rows, columns]."""
        rows = raster.screen_rows[:, None].astype(np.float32)
        columns = raster.screen_columns[None, :].astype(np.float32)
        angle, depth = self.polar(rows, columns)
        box = self.box
        in_box = (rows >= box.top) & (rows < box.bottom) & (columns >= box.left) & (columns < box.right)
        return np.asarray(
            (np.abs(angle) <= self.half_angle) & (depth >= 0) & (depth < self.depth_mm) & in_box
        )


class FanSampler:
    """Scan conversion: looks a polar field up at the raster's points, with weights computed once.

    Args:
        fan: The sector on the screen.
        raster: The points.
        lines: Number of lines of the polar grid.
        samples: Number of samples of a line.
    """

    def __init__(self, fan: Fan, raster: Raster, lines: int, samples: int) -> None:
        self.mask = fan.inside(raster)
        at_rows, at_columns = np.nonzero(self.mask)
        angle, depth = fan.polar(
            raster.screen_rows[at_rows].astype(np.float32),
            raster.screen_columns[at_columns].astype(np.float32),
        )
        line = (angle / fan.half_angle + 1) * 0.5 * (lines - 1)
        sample = depth / fan.depth_mm * samples - 0.5
        first = np.clip(line.astype(np.int64), 0, lines - 2)
        second = np.clip(sample.astype(np.int64), 0, samples - 2)
        self._index = first * samples + second
        self._samples = samples
        self._line_weight = np.clip(line - first, 0, 1).astype(np.float32)
        self._sample_weight = np.clip(sample - second, 0, 1).astype(np.float32)

    def __call__(self, field: FloatArray) -> FloatArray:
        """Interpolate a polar field [L, S] at the pixels of `mask`, [number of pixels]."""
        flat = field.ravel()
        index, across, along = self._index, self._line_weight, self._sample_weight
        left = flat[index] * (1 - along) + flat[index + 1] * along
        right = flat[index + self._samples] * (1 - along) + flat[index + self._samples + 1] * along
        return np.asarray(left * (1 - across) + right * across, np.float32)
