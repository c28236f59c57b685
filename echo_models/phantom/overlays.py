"""What a vendor writes around and over the image: text, scales, marks, bars, the ECG.

Drawn on a full 600 x 800 screen where 0 is see-through, so that a small raster sees of the letters what
down-sampling leaves of them.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from echo_models.phantom import cycle
from echo_models.phantom.arrays import ByteArray, vector
from echo_models.phantom.drawing import draw_disc, draw_polyline, draw_rectangle, draw_text, text_width
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Box, Fan

__all__ = [
    "EcgStrip",
    "draw_fan_marks",
    "draw_screen_furniture",
    "draw_strip_scale",
    "outline_colour_box",
    "random_ecg_strip",
]

_WORDS: Final = (
    """
2D|CF|HGen|C 50|P Low|Gen THI|Adult Echo|S5-1|X5-1|P21|Crd|PLA|M3|M4|TIS 0.7|MI 0.9|MI 1.3|FR 52Hz|18Hz|15cm
16 cm|Harm|Store|HR 72|75 bpm|Res|Vivid|3Sc-RS|4V1C|Gain 10|68%|59%|WF 384Hz|2.5MHz|1.7/3.4|DR 60|TEST
Page 1/3|MB Off|12:41:07|ID 004711|TIB1.2|Temp 37.1|Dist 4.2|EF 61%
""".strip()
    .replace("\n", "|")
    .split("|")
)


@dataclass(frozen=True)
class EcgStrip:
    """An ECG at the bottom of the screen.

    Attributes:
        top: Upper row, screen pixels.
        height: Height of the trace.
        left: First column.
        right: First column after it.
        beats: Heart beats over its width.
        level: Grey.
    """

    top: int
    height: int
    left: int
    right: int
    beats: float
    level: int

    def draw(self, screen: ByteArray, phase: float, progress: float) -> None:
        """Draw the trace: new up to the sweep's place, then a gap, then the sweep before.

        Args:
            screen: Where to draw, [600, 800].
            phase: Cardiac phase now.
            progress: How far the sweep has come, in widths; below 1 nothing is left of a sweep before.
        """
        columns = np.arange(self.left, self.right, dtype=np.float32)
        age = progress % 1.0 - (columns - self.left) / (self.right - self.left)
        phases = np.asarray(phase - (age % 1.0) * self.beats, np.float32)
        rows = np.asarray(self.top + self.height * (0.78 - 0.72 * cycle.ecg(phases)), np.float32)
        old = (age < -0.06) & (progress >= 1)
        for shown in (age >= 0, old):
            if shown.sum() > 1:
                draw_polyline(screen, rows[shown], columns[shown], self.level, width=2)


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
    for at_left in (True, False):
        if rng.random() < 0.75:
            _draw_text_block(screen, rng, at_left=at_left, scale=scale, level=level)
    if rng.random() < 0.3:
        height = int(rng.integers(18, 46))
        header = Box(0, height, 0, SCREEN_COLUMNS)
        _draw_text_bar(screen, rng, header, int(rng.integers(1, 120)), level)
    if rng.random() < 0.25:
        left, right = sorted(rng.integers(0, SCREEN_COLUMNS, 2).tolist())
        soft_keys = Box(SCREEN_ROWS - int(rng.integers(24, 44)), SCREEN_ROWS, left, right)
        _draw_text_bar(screen, rng, soft_keys, int(rng.integers(1, 70)), level)
        rim = Box(soft_keys.top, soft_keys.top + 2, left, right)
        draw_rectangle(screen, rim, int(rng.integers(60, 160)))
    for _ in range(int(rng.integers(0, 5))):
        row, column = int(rng.integers(SCREEN_ROWS - 90, SCREEN_ROWS)), int(rng.integers(0, SCREEN_COLUMNS))
        draw_text(screen, row, column, str(rng.choice(_WORDS)), scale=scale, level=level)
    if rng.random() < 0.55:
        _draw_level_bar(screen, rng)


def _draw_text_block(
    screen: ByteArray, rng: np.random.Generator, *, at_left: bool, scale: int, level: int
) -> None:
    top = int(rng.integers(0, 140))
    pitch = 7 * scale + int(rng.integers(3, 9))
    for line in range(int(rng.integers(1, 14))):
        if rng.random() < 0.8:
            word = str(rng.choice(_WORDS))
            column = int(rng.integers(2, 24)) if at_left else SCREEN_COLUMNS - text_width(word, scale) - 6
            draw_text(screen, top + line * pitch, column, word, scale=scale, level=level)


def _draw_text_bar(screen: ByteArray, rng: np.random.Generator, box: Box, ground: int, level: int) -> None:
    draw_rectangle(screen, box, ground)
    row = (box.top + box.bottom) // 2 - 7
    for column in range(box.left + 8, box.right - 80, int(rng.integers(80, 240))):
        draw_text(screen, row, column, str(rng.choice(_WORDS)), scale=2, level=level)


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
    """Draw the depth scale and the orientation mark; sometimes an outline of the sector or a cursor."""
    level = int(rng.integers(90, 256))
    style = rng.random()
    if style < 0.4:
        _draw_edge_dots(screen, fan, rng, level)
    elif style < 0.85:
        _draw_depth_ticks(screen, fan, rng, level)
    if rng.random() < 0.7:
        row, column = fan.place(vector([0]), vector([-6]))
        aside = float(rng.choice([-1, 1])) * float(rng.uniform(20, 70))
        draw_disc(screen, float(row[0]), float(column[0]) + aside, float(rng.uniform(5, 13)), level)
    if rng.random() < 0.12:
        angles = np.linspace(-fan.half_angle, fan.half_angle, 60, dtype=np.float32)
        draw_polyline(screen, *fan.place(angles, np.full_like(angles, fan.depth_mm)), level // 2)
        for edge in (-fan.half_angle, fan.half_angle):
            draw_polyline(screen, *fan.place(vector([edge, edge]), vector([0, fan.depth_mm])), level // 2)
    if rng.random() < 0.3:
        angle = float(rng.uniform(-0.6, 0.6)) * fan.half_angle
        span = np.sort(rng.uniform(0.1, 1, 2)) * fan.depth_mm
        draw_polyline(screen, *fan.place(vector([angle, angle]), vector(span.tolist())), level)


def _depths_of_centimetres(fan: Fan) -> list[float]:
    return [10.0 * centimetre for centimetre in range(max(2, int(fan.depth_mm // 10)) + 1)]


def _draw_edge_dots(screen: ByteArray, fan: Fan, rng: np.random.Generator, level: int) -> None:
    """Draw a dot for each centimetre along an edge of the sector, a large one for each five."""
    depths = _depths_of_centimetres(fan)
    edge = float(rng.choice([-1, 1])) * (fan.half_angle + math.radians(1.5))
    rows, columns = fan.place(vector([edge] * len(depths)), vector(depths))
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        draw_disc(screen, float(row), float(column), 3.5 if index % 5 == 0 else 1.6, level)


def _draw_depth_ticks(screen: ByteArray, fan: Fan, rng: np.random.Generator, level: int) -> None:
    """Draw a column of ticks, one for each centimetre."""
    depths = _depths_of_centimetres(fan)
    left = int(rng.choice([rng.integers(20, 120), rng.integers(SCREEN_COLUMNS - 150, SCREEN_COLUMNS - 14)]))
    rows, _ = fan.place(vector([0] * len(depths)), vector(depths))
    for index, row in enumerate(rows.astype(int).tolist()):
        draw_rectangle(screen, Box(row, row + 2, left, left + (5 if index % 5 else 12)), level)
        if index and index % 5 == 0:
            draw_text(screen, row - 7, left + 14, str(index), scale=2, level=level)


def draw_strip_scale(
    screen: ByteArray, box: Box, baseline_ratio: float | None, rng: np.random.Generator
) -> None:
    """Draw the scale of a Doppler or M-mode strip, and the line of zero speed.

    Args:
        screen: Where to draw.
        box: The strip.
        baseline_ratio: Height of zero speed in the strip, 0 at the top; None for M-mode.
        rng: Source of the vendor's taste.
    """
    level = int(rng.integers(90, 256))
    height = box.bottom - box.top
    if baseline_ratio is not None and rng.random() < 0.6:
        row = box.top + int(baseline_ratio * height)
        draw_rectangle(screen, Box(row, row + int(rng.integers(1, 4)), box.left, box.right), level)
    step = height / float(rng.integers(4, 11))
    at_left = rng.random() < 0.3
    for tick in range(int(height / step) + 1):
        row = box.top + int(tick * step)
        left = box.left + 2 if at_left else box.right - 12
        draw_rectangle(screen, Box(row, row + 2, left, left + 10), level)
        if rng.random() < 0.5:
            draw_text(screen, row - 6, left + (12 if at_left else -26), str(20 * tick), scale=1, level=level)
    if rng.random() < 0.3:  # seconds along the bottom
        for column in range(box.left, box.right, int(rng.integers(40, 160))):
            draw_rectangle(screen, Box(box.bottom - 9, box.bottom, column, column + 2), level)


def outline_colour_box(
    screen: ByteArray, fan: Fan, angles: tuple[float, float], depths_mm: tuple[float, float], level: int
) -> None:
    """Outline a colour box in the sector."""
    sweep = np.linspace(angles[0], angles[1], 40, dtype=np.float32)
    for depth in depths_mm:
        draw_polyline(screen, *fan.place(sweep, np.full_like(sweep, depth)), level, width=2)
    for angle in angles:
        draw_polyline(screen, *fan.place(vector([angle, angle]), vector(depths_mm)), level, width=2)
