"""What a vendor writes around and over the image: text, scales, marks, bars, the ECG.

Drawn on a full 600 x 800 screen where 0 is see-through, so that a small raster sees of the letters what
down-sampling leaves of them.
"""

import math
from dataclasses import dataclass

import numpy as np

from echo_models.phantom import cycle
from echo_models.phantom.arrays import ByteArray, FloatArray
from echo_models.phantom.drawing import draw_disc, draw_polyline, draw_rectangle, draw_text, text_width
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Fan

__all__ = ["EcgStrip", "draw_fan_marks", "draw_screen_furniture", "random_ecg_strip"]

_WORDS = (
    "2D", "CF", "HGen", "C 50", "P Low", "Gen THI", "Adult Echo", "S5-1", "X5-1", "P21", "Crd", "PLA", "M3", "M4",
    "TIS 0.7", "MI 0.9", "MI 1.3", "FR 52Hz", "18Hz", "15cm", "16 cm", "Harm", "Store", "HR 72", "75 bpm", "Res",
    "Vivid", "3Sc-RS", "4V1C", "Gain 10", "68%", "59%", "WF 384Hz", "2.5MHz", "1.7/3.4", "DR 60", "PHILIPS", "TEST",
    "Page 1/3", "MB Off", "12:41:07", "ID 004711", "TIB1.2", "Temp 37.1", "Dist 4.2", "EF 61%",
)  # fmt: skip


@dataclass(frozen=True)
class EcgStrip:
    """An ECG at the bottom of the screen: place, sweep and brightness."""

    top: int
    height: int
    left: int
    right: int
    beats: float
    level: int

    def draw(self, screen: ByteArray, phase: float, progress: float) -> None:
        """Draw the trace up to the sweep's place.

        Args:
            screen: Where to draw, [600, 800].
            phase: Cardiac phase now.
            progress: How far the sweep has come, in widths; only its fraction matters.
        """
        columns = np.arange(self.left, self.right, dtype=np.float32)
        share = (columns - self.left) / (self.right - self.left)
        now = progress % 1.0
        age = now - share
        gap = (age < 0) & (age > -0.06)
        phases = np.asarray(phase - np.where(age >= 0, age, age + 1) * self.beats, np.float32)
        rows = self.top + self.height * (0.78 - 0.72 * cycle.ecg(phases))
        past = age >= 0
        draw_polyline(screen, rows[past], columns[past], self.level, width=2) if past.sum() > 1 else None
        ahead = ~past & ~gap
        if progress >= 1 and ahead.sum() > 1:
            draw_polyline(screen, rows[ahead], columns[ahead], self.level, width=2)


def random_ecg_strip(rng: np.random.Generator) -> EcgStrip:
    """Place an ECG where a vendor may have it."""
    left = int(rng.integers(0, 120))
    height = int(rng.integers(30, 75))
    return EcgStrip(
        top=int(rng.integers(SCREEN_ROWS - 110, SCREEN_ROWS - height)),
        height=height,
        left=left,
        right=int(rng.integers(left + 150, SCREEN_COLUMNS)),
        beats=float(rng.uniform(0.9, 4)),
        level=int(rng.integers(70, 256)),
    )


def draw_screen_furniture(screen: ByteArray, rng: np.random.Generator) -> None:
    """Write text blocks, bars and logos at the rim of the screen."""
    level = int(rng.integers(90, 256))
    scale = int(rng.choice([1, 2, 2, 2, 3]))
    pitch = 7 * scale + int(rng.integers(3, 9))
    for side in ("left", "right"):
        if rng.random() < 0.75:
            top = int(rng.integers(0, 140))
            for line in range(int(rng.integers(1, 14))):
                if rng.random() < 0.8:
                    word = str(rng.choice(_WORDS))
                    column = (
                        int(rng.integers(2, 24))
                        if side == "left"
                        else SCREEN_COLUMNS - text_width(word, scale) - 6
                    )
                    draw_text(screen, top + line * pitch, column, word, scale=scale, level=level)
    if rng.random() < 0.3:  # a header
        height = int(rng.integers(18, 46))
        draw_rectangle(screen, 0, 0, height, SCREEN_COLUMNS, int(rng.integers(1, 120)))
        for column in range(8, SCREEN_COLUMNS - 100, int(rng.integers(130, 260))):
            draw_text(screen, height // 2 - 7, column, str(rng.choice(_WORDS)), scale=2, level=level)
    if rng.random() < 0.25:  # soft keys
        top = SCREEN_ROWS - int(rng.integers(24, 44))
        left, right = sorted(rng.integers(0, SCREEN_COLUMNS, 2).tolist())
        draw_rectangle(screen, top, left, SCREEN_ROWS, right, int(rng.integers(1, 70)))
        draw_rectangle(screen, top, left, top + 2, right, int(rng.integers(60, 160)))
        for column in range(left + 10, right - 60, int(rng.integers(80, 150))):
            draw_text(screen, top + 10, column, str(rng.choice(_WORDS)), scale=2, level=level)
    for _ in range(int(rng.integers(0, 5))):
        draw_text(
            screen, int(rng.integers(SCREEN_ROWS - 90, SCREEN_ROWS)), int(rng.integers(0, SCREEN_COLUMNS)),
            str(rng.choice(_WORDS)), scale=scale, level=level,
        )  # fmt: skip
    if rng.random() < 0.55:
        _draw_level_bar(screen, rng)


def _draw_level_bar(screen: ByteArray, rng: np.random.Generator) -> None:
    """Draw the bar of greys, or the bar of colours in their luminance."""
    width, height = int(rng.integers(8, 42)), int(rng.integers(60, 240))
    top = int(rng.integers(20, 300))
    left = int(rng.choice([rng.integers(4, 60), SCREEN_COLUMNS - width - rng.integers(2, 60)]))
    ramp = np.linspace(255, 1, height)
    if rng.random() < 0.5:
        ramp = 1 + 250 * np.abs(np.linspace(-1, 1, height)) ** rng.uniform(0.5, 1.5)
    bar = np.repeat(ramp[:, None], width, axis=1)
    if rng.random() < 0.4:
        bar[:, : width // 3] = np.linspace(255, 1, height)[:, None]
    screen[top : top + height, left : left + width] = bar[: SCREEN_ROWS - top].astype(np.uint8)


def draw_fan_marks(screen: ByteArray, fan: Fan, rng: np.random.Generator) -> None:
    """Draw the depth scale, the orientation mark and, sometimes, the outline of the sector."""
    level = int(rng.integers(90, 256))
    count = max(2, int(fan.depth_mm // 10))
    depths = np.arange(0, count + 1, dtype=np.float32) * 10
    style = rng.random()
    if style < 0.4:  # dots along an edge of the sector
        edge = float(rng.choice([-1, 1])) * (fan.half_angle + math.radians(1.5))
        for index, depth in enumerate(depths):
            row, column = fan.place(np.float32(edge), depth)
            draw_disc(screen, float(row), float(column), 3.5 if index % 5 == 0 else 1.6, level)
    elif style < 0.85:  # ticks in a column
        column_px = int(
            rng.choice([rng.integers(20, 120), rng.integers(SCREEN_COLUMNS - 150, SCREEN_COLUMNS - 14)])
        )
        for index, depth in enumerate(depths):
            row, _ = fan.place(np.float32(0), depth)
            length = 12 if index % 5 == 0 else 5
            draw_rectangle(screen, int(row), column_px, int(row) + 2, column_px + length, level)
            if index and index % 5 == 0:
                draw_text(screen, int(row) - 7, column_px + 14, str(index), scale=2, level=level)
    if rng.random() < 0.7:
        row, column = fan.place(np.float32(0), np.float32(-6))
        column = column + float(rng.choice([-1, 1])) * rng.uniform(20, 70)
        draw_disc(screen, float(row), float(column), float(rng.uniform(5, 13)), level)
    if rng.random() < 0.12:
        angles = np.linspace(-fan.half_angle, fan.half_angle, 60, dtype=np.float32)
        outline = [fan.place(angles, np.full_like(angles, fan.depth_mm))]
        for edge in (-fan.half_angle, fan.half_angle):
            outline.append(fan.place(np.full(2, edge, np.float32), np.array([0, fan.depth_mm], np.float32)))
        for rows, columns in outline:
            draw_polyline(screen, rows, columns, level // 2)
    if rng.random() < 0.3:  # a measuring calliper, a cursor or the M-line
        angle = np.full(2, rng.uniform(-0.6, 0.6) * fan.half_angle, np.float32)
        span = np.sort(rng.uniform(0.1, 1, 2)).astype(np.float32) * fan.depth_mm
        rows, columns = fan.place(angle, span)
        draw_polyline(screen, rows, columns, level)


def outline_box(
    screen: ByteArray, fan: Fan, angles: tuple[float, float], depths: tuple[float, float], level: int
) -> None:
    """Outline a colour box in the sector."""
    sweep = np.linspace(angles[0], angles[1], 40, dtype=np.float32)
    for depth in depths:
        draw_polyline(screen, *fan.place(sweep, np.full_like(sweep, depth)), level, width=2)
    for angle in angles:
        draw_polyline(
            screen, *fan.place(np.full(2, angle, np.float32), np.array(depths, np.float32)), level, width=2
        )


def smooth_noise(rng: np.random.Generator, length: int, width: float) -> FloatArray:
    """Give a random curve of unit variance, smooth over a width."""
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    curve = np.convolve(
        rng.standard_normal(length + 2 * reach), kernel / np.sqrt((kernel**2).sum()), mode="valid"
    )
    return np.asarray(curve, np.float32)
