"""The screen of Doppler and M-mode: a strip that shows time to the right, often under a small sector."""

from typing import Final

import numpy as np

from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.b_mode_screen import SectorPainter
from echo_models.phantom.overlays import draw_fan_marks, draw_screen_furniture, draw_strip_scale
from echo_models.phantom.planes import ScanPlane, hold_probe
from echo_models.phantom.scene import (
    Finish,
    Rendered,
    Scene,
    UltrasoundRegion,
    fan_region,
    fit_fan,
    screen_region,
)
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Box, Raster
from echo_models.phantom.sector import MachineSettings, Sector, random_settings
from echo_models.phantom.strips import m_mode_strip, spectral_strip

__all__ = ["render_strip"]

_PLANES: Final = {
    "pw": ("a4c", "a5c", "a3c", "psax_base", "a4c"),
    "cw": ("a5c", "a4c", "a3c", "psax_base"),
    "mmode": ("plax", "plax", "psax_mid", "a4c", "sc_ivc"),
}
_TOP_SPEED_CM_S: Final = {"pw": 240.0, "cw": 800.0}


def render_strip(scene: Scene) -> Rendered:
    """Render a clip of spectral Doppler or M-mode; the small sector is frozen while the strip runs."""
    rng = scene.rng
    with_sector = bool(rng.random() < 0.8)
    box = Box(
        top=int(rng.integers(215, 330)) if with_sector else int(rng.integers(30, 180)),
        bottom=int(rng.integers(500, 598)),
        left=int(rng.integers(0, 90)),
        right=int(rng.integers(700, 800)),
    )
    plane = hold_probe(scene.heart, str(rng.choice(_PLANES[scene.view])), rng, severity=scene.severity)
    settings = scene.site.settings(random_settings(rng, plane.usual_depth_mm, scene.severity), rng)
    marks = np.zeros((SCREEN_ROWS, SCREEN_COLUMNS), np.uint8)
    draw_screen_furniture(marks, rng)
    strip, region = _strip(scene, plane, settings, box, marks)
    window = _StripWindow(scene.raster, box, strip)
    image, regions, fov_mask = scene.empty_image(), [region], window.mask
    if with_sector:
        fan = fit_fan(rng, settings, Box(int(rng.integers(4, 40)), box.top - 4, 150, 650), severity=0.0)
        draw_fan_marks(marks, fan, rng)
        sector = Sector(
            scene.heart,
            plane,
            settings,
            rng,
            severity=scene.severity,
            artefacts=scene.site.artefacts,
            lines=96,
            samples=128,
        )
        painter = SectorPainter(scene, sector, fan, marks, colour=bool(rng.random() < 0.3))
        painter.paint(image, float(scene.phases[0]), 0)
        fov_mask = fov_mask | painter.sampler.mask
        regions.append(fan_region(scene.raster, fan, colour=painter.colour))
    finish = Finish(scene, marks)
    frames = [
        finish(window.paint(image, index), float(phase), index) for index, phase in enumerate(scene.phases)
    ]
    no_ventricle = np.zeros((len(frames), *image.shape), np.bool_)
    return Rendered(np.stack(frames), fov_mask, no_ventricle, tuple(regions))


def _strip(
    scene: Scene, plane: ScanPlane, settings: MachineSettings, box: Box, marks: ByteArray
) -> tuple[FloatArray, UltrasoundRegion]:
    """Draw the strip at its own resolution, its scale on the screen, and say what it means."""
    beats = float(scene.rng.uniform(1.5, 6))
    phase = float(scene.phases[0])
    s_per_px = beats * 60 / scene.subject.heart_rate_bpm / (box.right - box.left)
    if scene.view == "mmode":
        strip = m_mode_strip(
            scene.heart, plane, settings, scene.rng, columns=220, rows=200, beats=beats, phase=phase,
            severity=scene.severity, artefacts=scene.site.artefacts,
        )  # fmt: skip
        draw_strip_scale(marks, box, None, scene.rng)
        deltas = (s_per_px, settings.depth_mm / 10 / (box.bottom - box.top))
        return strip, screen_region(scene.raster, box, spatial_format=2, data_type=1, deltas=deltas)
    continuous = scene.view == "cw"
    strip, baseline_ratio = spectral_strip(
        scene.rng,
        continuous=continuous,
        rows=150,
        columns=320,
        beats=beats,
        phase=phase,
        severity=scene.severity,
    )
    draw_strip_scale(marks, box, baseline_ratio, scene.rng)
    deltas = (s_per_px, _TOP_SPEED_CM_S[scene.view] / (box.bottom - box.top))
    return strip, screen_region(
        scene.raster, box, spatial_format=3, data_type=4 if continuous else 3, deltas=deltas
    )


class _StripWindow:
    """Shows a strip in its box of the raster, running on from frame to frame."""

    def __init__(self, raster: Raster, box: Box, strip: FloatArray) -> None:
        rows, columns = raster.screen_rows, raster.screen_columns
        in_rows = (rows >= box.top) & (rows < box.bottom)
        in_columns = (columns >= box.left) & (columns < box.right)
        self.mask: BoolArray = in_rows[:, None] & in_columns[None, :]
        self._strip = strip
        self._rows = (rows[in_rows] - box.top) * strip.shape[0] // (box.bottom - box.top)
        self._columns = (columns[in_columns] - box.left) * strip.shape[1] // (box.right - box.left)

    def paint(self, image: FloatArray, index: int) -> FloatArray:
        """Give a copy of the image with the strip in it, moved on by the frames that have passed."""
        image = image.copy()
        columns = (self._columns + 2 * index) % self._strip.shape[1]
        image[self.mask] = self._strip[self._rows[:, None], columns[None, :]].ravel()
        return image
