"""The screen of a B-mode view: one sector, or two side by side, with marks around them."""

from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter

from echo_models.phantom.anatomy import SUPERIOR
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.overlays import draw_fan_marks, draw_screen_furniture, outline_colour_box
from echo_models.phantom.planes import hold_probe
from echo_models.phantom.scene import Finish, Rendered, Scene, fan_region, fit_fan
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Box, Fan, FanSampler
from echo_models.phantom.sector import Sector, random_settings

__all__ = ["SectorPainter", "render_b_mode"]

_APICAL: Final = frozenset({"a2c", "a3c", "a4c", "a5c"})
_DUAL_SHARE: Final = 0.03
_COLOUR_SHARE: Final = 0.22


def render_b_mode(scene: Scene) -> Rendered:
    """Render a clip of one of the twelve B-mode views."""
    rng = scene.rng
    boxes = [scene.site.placed(_image_box(rng))]
    if rng.random() < _DUAL_SHARE * scene.severity:
        boxes = [Box(90, 470, 4, 398), Box(90, 470, 402, 796)]
    plane = hold_probe(scene.heart, scene.view, rng, severity=scene.severity)
    settings = scene.site.settings(random_settings(rng, plane.usual_depth_mm, scene.severity), rng)
    mirrored = bool(rng.random() < 0.06 * scene.severity) != scene.site.mirrored
    marks = np.zeros((SCREEN_ROWS, SCREEN_COLUMNS), np.uint8)
    draw_screen_furniture(marks, rng)
    painters = []
    for box in boxes:
        fan = fit_fan(rng, settings, box, severity=scene.severity, mirrored=mirrored)
        draw_fan_marks(marks, fan, rng)
        sector = Sector(
            scene.heart, plane, settings, rng, severity=scene.severity, artefacts=scene.site.artefacts
        )
        colour = bool(rng.random() < _COLOUR_SHARE * scene.severity)
        painters.append(SectorPainter(scene, sector, fan, marks, colour=colour))
    finish = Finish(scene, marks)
    frames, lv_masks = [], []
    for index, phase in enumerate(scene.phases):
        image = scene.empty_image()
        # In dual mode the paper outlines the left-most view only.
        left_most, *_ = [painter.paint(image, float(phase), index) for painter in painters]
        lv_masks.append(left_most)
        frames.append(finish(image, float(phase), index))
    return Rendered(
        frames=np.stack(frames),
        fov_mask=np.any([painter.sampler.mask for painter in painters], axis=0),
        lv_masks=np.stack(lv_masks),
        regions=tuple(fan_region(scene.raster, painter.fan, colour=painter.colour) for painter in painters),
    )


def _image_box(rng: np.random.Generator) -> Box:
    return Box(
        top=int(rng.integers(12, 75)),
        bottom=int(rng.integers(510, 598)),
        left=int(rng.integers(0, 110)),
        right=int(rng.integers(690, 800)),
    )


class SectorPainter:
    """Paints one sector of a clip, with its colour box, frame by frame.

    Args:
        scene: The scan.
        sector: Where the frames come from.
        fan: Where the sector lies on the screen.
        marks: Screen that the outline of the colour box is drawn on.
        colour: Whether there is a colour box.
    """

    def __init__(self, scene: Scene, sector: Sector, fan: Fan, marks: ByteArray, *, colour: bool) -> None:
        self.fan, self.colour = fan, colour
        self.sampler = FanSampler(fan, scene.raster, sector.angles.size, sector.ranges_mm.size)
        self._sector = sector
        self._apical = scene.view in _APICAL
        self._breath_mm = float(scene.severity * scene.rng.uniform(0, 5))
        self._breath_phase = float(scene.rng.uniform(0, 2 * np.pi))
        self._box = ColourBox(scene.rng, sector, fan, marks) if colour else None

    def paint(self, image: FloatArray, phase: float, index: int) -> BoolArray:
        """Paint a frame into the image, [H, W]; gives the mask of the left ventricle, [H, W]."""
        breath = SUPERIOR * np.float32(self._breath_mm * np.sin(self._breath_phase + 0.05 * index))
        frame = self._sector.frame(phase, np.asarray(breath, np.float32))
        grey = frame.grey if self._box is None else self._box.lay_over(frame.grey, frame.blood, index)
        mask = self.sampler.mask
        image[mask] = self.sampler(grey)
        lv_mask = np.zeros_like(mask)
        if self._apical:
            lv_mask[mask] = self.sampler(frame.lv_level) < 0
        return lv_mask


class ColourBox:
    """A colour flow box in its luminance: all that a grey frame keeps of it.

    Args:
        rng: Source of randomness.
        sector: The sector it lies in.
        fan: The sector's place on the screen.
        marks: Screen that its outline is drawn on.
    """

    def __init__(self, rng: np.random.Generator, sector: Sector, fan: Fan, marks: ByteArray) -> None:
        half = fan.half_angle
        middle, width = rng.uniform(-0.3, 0.3) * half, rng.uniform(0.25, 0.7) * half
        near = rng.uniform(0.2, 0.55) * fan.depth_mm
        far = min(near + rng.uniform(0.25, 0.5) * fan.depth_mm, 0.97 * fan.depth_mm)
        angles = (float(max(middle - width, -half)), float(min(middle + width, half)))
        outline_colour_box(marks, fan, angles, (float(near), float(far)), int(rng.integers(120, 256)))
        across = (sector.angles > angles[0]) & (sector.angles < angles[1])
        along = (sector.ranges_mm > near) & (sector.ranges_mm < far)
        self._inside = across[:, None] & along[None, :]
        self._level = float(rng.uniform(25, 110))
        self._tissue_ratio = float(rng.uniform(0.4, 1.0))
        self._patch_size = (float(rng.uniform(3, 10)), float(rng.uniform(6, 24)))
        self._threshold = float(rng.uniform(-0.6, 0.8))
        self._seed = int(rng.integers(2**31))

    def lay_over(self, grey: FloatArray, blood: BoolArray, index: int) -> FloatArray:
        """Lay flow over the blood in the box and dim the tissue there; [L, S] all."""
        rng = np.random.default_rng([self._seed, index])
        flow = gaussian_filter(rng.standard_normal(grey.shape, np.float32), self._patch_size)
        flow = 0.5 + 0.35 * flow / flow.std()
        shown = self._inside & blood & (flow > self._threshold)
        dimmed = np.where(self._inside, grey * self._tissue_ratio, grey)
        level = self._level * (0.45 + 0.55 * np.clip(flow, 0, 2))
        return np.asarray(np.where(shown, np.maximum(level, 0.6 * dimmed), dimmed), np.float32)
