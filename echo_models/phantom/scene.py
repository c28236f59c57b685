"""What all renderers of a clip share: the scene, its regions, the fit of a sector, the finish of a frame."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from echo_models.phantom.anatomy import Heart
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.overlays import EcgStrip, random_ecg_strip
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Box, Fan, Raster
from echo_models.phantom.sector import MachineSettings
from echo_models.phantom.sites import HOME, Site
from echo_models.phantom.subject import Subject

__all__ = ["Finish", "Rendered", "Scene", "UltrasoundRegion", "fan_region", "fit_fan", "screen_region"]


@dataclass(frozen=True)
class UltrasoundRegion:
    """One box of the screen with its meaning, in DICOM's own terms (PS3.3 C.8.5.5).

    Attributes:
        min_x0: Left column in pixels of the clip's raster.
        min_y0: Top row.
        max_x1: Right column, inclusive.
        max_y1: Bottom row, inclusive.
        spatial_format: 1 two-dimensional, 2 M-mode, 3 spectral.
        data_type: 1 tissue, 2 colour flow, 3 pulsed-wave, 4 continuous-wave Doppler.
        physical_delta_x: Size of a pixel to the right: cm (two-dimensional) or s (M-mode and spectral).
        physical_delta_y: Size of a pixel downwards: cm, or cm/s (spectral).
    """

    min_x0: int
    min_y0: int
    max_x1: int
    max_y1: int
    spatial_format: int
    data_type: int
    physical_delta_x: float
    physical_delta_y: float


@dataclass(frozen=True)
class Scene:
    """One scan to be rendered.

    Attributes:
        subject: Who is scanned.
        heart: The subject's anatomy.
        view: One of the fifteen views.
        rng: Source of everything random about the clip, drawn from in a fixed order.
        raster: The points of the screen that are computed.
        severity: Strength of scatter and artefacts.
        phases: Cardiac phase of each frame, [N].
        site: Whose machine and screen.
    """

    subject: Subject
    heart: Heart
    view: str
    rng: np.random.Generator
    raster: Raster
    severity: float
    phases: FloatArray
    site: Site = HOME

    def empty_image(self) -> FloatArray:
        """Give a black image, [H, W]."""
        return np.zeros((self.raster.rows, self.raster.columns), np.float32)


class Rendered(NamedTuple):
    """What a renderer gives back; see `PhantomClip` for the arrays."""

    frames: ByteArray
    fov_mask: BoolArray
    lv_masks: BoolArray
    regions: tuple[UltrasoundRegion, ...]


def fit_fan(
    rng: np.random.Generator, settings: MachineSettings, box: Box, *, severity: float, mirrored: bool = False
) -> Fan:
    """Fit a sector into a box of the screen, a little off and sometimes zoomed beyond it."""
    height = box.bottom - box.top
    zoom = 1.0
    if rng.random() < 0.14 * severity:
        zoom = float(rng.uniform(1.12, 1.6))
    elif rng.random() < 0.5:
        zoom = float(rng.uniform(0.75, 1.0))
    px_per_mm = zoom * height / (settings.depth_mm + 4)
    slack = height - px_per_mm * settings.depth_mm
    apex_row = box.top + 2 - settings.radius_mm * px_per_mm
    apex_row += float(rng.uniform(0, 0.8 if slack > 0 else 1)) * slack
    apex_column = (box.left + box.right) / 2 + float(rng.normal(0, 0.04 * (box.right - box.left)))
    upside_down = bool(rng.random() < 0.02 * severity)
    return Fan(
        apex_row=(box.top + box.bottom) - apex_row if upside_down else apex_row,
        apex_column=apex_column,
        px_per_mm=px_per_mm,
        radius_mm=settings.radius_mm,
        depth_mm=settings.depth_mm,
        half_angle=settings.half_angle,
        mirrored=mirrored,
        upside_down=upside_down,
        box=box,
    )


def screen_region(
    raster: Raster, box: Box, *, spatial_format: int, data_type: int, deltas: tuple[float, float]
) -> UltrasoundRegion:
    """Declare a box of the screen in pixels of the raster.

    Args:
        raster: The clip's raster.
        box: The box on the screen.
        spatial_format: See `UltrasoundRegion`.
        data_type: See `UltrasoundRegion`.
        deltas: Physical size of a screen pixel to the right and downwards.
    """
    down, over = raster.rows / SCREEN_ROWS, raster.columns / SCREEN_COLUMNS
    return UltrasoundRegion(
        min_x0=int(box.left * over),
        min_y0=int(box.top * down),
        max_x1=max(int(box.right * over), 1) - 1,
        max_y1=max(int(box.bottom * down), 1) - 1,
        spatial_format=spatial_format,
        data_type=data_type,
        physical_delta_x=deltas[0] / over,
        physical_delta_y=deltas[1] / down,
    )


def fan_region(raster: Raster, fan: Fan, *, colour: bool) -> UltrasoundRegion:
    """Declare the box of a sector."""
    cm_per_px = 0.1 / fan.px_per_mm
    return screen_region(
        raster, fan.box, spatial_format=1, data_type=2 if colour else 1, deltas=(cm_per_px, cm_per_px)
    )


class Finish:
    """Lays the screen's marks over the image, adds what lossy compression adds, and gives bytes.

    Args:
        scene: The scan.
        marks: The screen's marks, [600, 800], 0 is see-through.
    """

    def __init__(self, scene: Scene, marks: ByteArray) -> None:
        rng = scene.rng
        self._raster = scene.raster
        self._black = np.float32(scene.site.black_grey)
        self._marks = marks
        self._ecg: EcgStrip | None = random_ecg_strip(rng) if rng.random() < 0.6 else None
        self._progress = float(rng.uniform(0, 2))
        self._spread = float(scene.severity * rng.uniform(0, 2.0))
        self._seed = int(rng.integers(2**31))

    def __call__(self, image: FloatArray, phase: float, index: int) -> ByteArray:
        """Finish one frame.

        Args:
            image: Grey of the sector or strip, [H, W].
            phase: Cardiac phase, for the ECG.
            index: Number of the frame in its clip, for the sweep.
        """
        screen = self._marks
        if self._ecg is not None:
            screen = screen.copy()
            self._ecg.draw(screen, phase, self._progress + 0.012 * index)
        marks = self._raster.look(screen)
        noise = np.random.default_rng([self._seed, index]).standard_normal(image.shape, np.float32)
        image = np.where(marks > 0, marks, image)
        image = image + np.float32(self._spread) * noise * (image > 2)
        return np.clip(np.round(image), self._black, 255).astype(np.uint8)
