"""Frames that are no transthoracic view of a heart: what an open-set score must tell from the fifteen views.

Other organs are scanned by the phantom's own machine, so that speckle, gain, shadows and the screen are those
of the views and only the anatomy is foreign. Sizes are those of adults: kidney 11 x 5 x 4 cm, portal vein
12 mm, carotid artery 6 to 7 mm, thyroid lobe 2 cm, filled bladder 7 cm (Rumack CM, Levine D, "Diagnostic
Ultrasound", 5th ed., 2018, chapters 4, 8, 9, 19 and 26). A transoesophageal plane cuts the phantom's own
heart from behind the left atrium (Hahn RT et al., J Am Soc Echocardiogr 26:921-964, 2013, Table 4). None of
it is drawn to be learned from: it only measures what a model does with what it was never shown.
"""

import dataclasses
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from echo_models.phantom.anatomy import MITRAL_VALVE, Heart, Points, TissueMap
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray, unit, vector
from echo_models.phantom.b_mode_screen import SectorPainter
from echo_models.phantom.drawing import draw_polyline, draw_text
from echo_models.phantom.errors import InvalidRequestError
from echo_models.phantom.overlays import draw_fan_marks, draw_screen_furniture
from echo_models.phantom.planes import ScanPlane
from echo_models.phantom.scene import Finish, Scene, fit_fan
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Box, Raster
from echo_models.phantom.sector import Sector, random_settings
from echo_models.phantom.subject import random_subject
from echo_models.phantom.tissue import Tissue

__all__ = ["FOREIGN_KINDS", "ForeignFrame", "render_foreign"]


class ForeignFrame(NamedTuple):
    """One frame of what is no view.

    Attributes:
        frame: [H, W], uint8, as on the screen.
        fov_mask: [H, W], bool, True in its field of view.
    """

    frame: ByteArray
    fov_mask: BoolArray


def render_foreign(kind: str, *, seed: int, rows: int = 120, columns: int = 160) -> ForeignFrame:
    """Render one frame of something that is no transthoracic view.

    Args:
        kind: one of `FOREIGN_KINDS`.
        seed: of everything random; the same seed gives the same bytes.
        rows: height of the raster.
        columns: width of the raster.

    Raises:
        InvalidRequestError: the kind is unknown, or a size is below 1.
    """
    if kind not in FOREIGN_KINDS:
        raise InvalidRequestError(f"The kind must be one of {', '.join(FOREIGN_KINDS)}; got {kind!r}.")
    if min(rows, columns) < 1:
        raise InvalidRequestError(f"Rows and columns must be 1 or more; got {rows} and {columns}.")
    rng = np.random.default_rng([0xF0E1, FOREIGN_KINDS.index(kind), seed])
    raster = Raster(rows, columns)
    if kind in _SCREENS:
        return _look(raster, *_SCREENS[kind](rng))
    return _scan(rng, raster, kind, _SCANS[kind])


# --- scanned with the phantom's machine ---------------------------------------------------------------


class _Probe(NamedTuple):
    """A way to scan.

    Attributes:
        anatomy: labels points [L, S] in mm: right, towards the body's inside, out of the plane.
        depth_mm: usual depth.
        half_angle: half of the opening, radians; None for that of a heart probe.
        radius_mm: of the probe's face; None for that of a heart probe.
        covering_mm: of skin, fat and muscle before it; None for the subject's chest wall.
    """

    anatomy: Callable[[Points, np.random.Generator], ByteArray] | None
    depth_mm: float
    half_angle: float | None = None
    radius_mm: float | None = None
    covering_mm: float | None = None


class _OtherBody(Heart):
    """A body of which the probe sees another part."""

    def __init__(
        self,
        heart: Heart,
        rng: np.random.Generator,
        anatomy: Callable[[Points, np.random.Generator], ByteArray],
    ) -> None:
        super().__init__(heart.subject)
        self._anatomy, self._seed = anatomy, int(rng.integers(2**31))

    def tissue(self, points: Points, phase: FloatArray | float) -> TissueMap:
        """Label points in space; nothing of it beats."""
        bent = self._uneven(points)
        # Drawn anew from one seed: the organ is the same each time it is asked for.
        labels = self._anatomy(bent, np.random.default_rng(self._seed))
        return TissueMap(labels, points, np.full(labels.shape, np.inf, np.float32))


def _scan(rng: np.random.Generator, raster: Raster, kind: str, probe: _Probe) -> ForeignFrame:
    subject = random_subject(int(rng.integers(2**31)))
    if probe.covering_mm is not None:
        subject = dataclasses.replace(subject, chest_wall_mm=probe.covering_mm)
    heart = Heart(subject)
    if probe.anatomy is None:
        plane = _behind_the_atrium(heart, rng, probe.depth_mm)
    else:
        heart = _OtherBody(heart, rng, probe.anatomy)
        plane = ScanPlane(vector([0, 0, 0]), vector([0, 1, 0]), vector([1, 0, 0]), probe.depth_mm)
    settings = random_settings(rng, plane.usual_depth_mm, 1.0)
    if probe.half_angle is not None and probe.radius_mm is not None:
        wide = float(rng.uniform(0.8, 1.2))
        settings = dataclasses.replace(
            settings,
            half_angle=wide * probe.half_angle,
            radius_mm=probe.radius_mm,
            depth_mm=float(rng.uniform(0.8, 1.2)) * probe.depth_mm,
        )
    scene = Scene(subject, heart, kind, rng, raster, 1.0, vector([float(rng.random())]))
    box = Box(int(rng.integers(12, 75)), int(rng.integers(510, 598)), int(rng.integers(0, 110)), 780)
    marks = np.zeros((SCREEN_ROWS, SCREEN_COLUMNS), np.uint8)
    draw_screen_furniture(marks, rng)
    fan = fit_fan(rng, settings, box, severity=1.0)
    draw_fan_marks(marks, fan, rng)
    painter = SectorPainter(scene, Sector(heart, plane, settings, rng), fan, marks, colour=False)
    image = scene.empty_image()
    painter.paint(image, float(scene.phases[0]), 0)
    return ForeignFrame(Finish(scene, marks)(image, float(scene.phases[0]), 0), painter.sampler.mask)


def _behind_the_atrium(heart: Heart, rng: np.random.Generator, depth_mm: float) -> ScanPlane:
    """Hold a transoesophageal probe: four-chamber, two-chamber or long-axis plane, as the array is turned."""
    turned = np.radians(rng.choice([12, 80, 136]) + rng.normal(0, 8))
    origin = MITRAL_VALVE + vector([rng.normal(0, 5), -6 + rng.normal(0, 5), -52 + rng.normal(0, 5)])
    beam = unit(vector([rng.normal(0, 6), rng.normal(0, 6), 60]) - origin)
    across = vector([np.cos(turned), np.sin(turned), 0])
    lateral = unit(across - beam * float(np.dot(across, beam)))
    return ScanPlane(np.asarray(origin * heart.subject.size_ratio, np.float32), beam, lateral, depth_mm)


def _ellipse(
    points: Points, centre: tuple[float, float], semi: tuple[float, float], turn: float
) -> FloatArray:
    """Level of a long body cut across: below 1 inside."""
    x, y = points[0] - centre[0], points[1] - centre[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.asarray(np.hypot(along / semi[0], across / semi[1]), np.float32)


def _vessel(labels: ByteArray, points: Points, rng: np.random.Generator, radius_mm: float) -> None:
    """Put a vessel with its wall somewhere into the picture, round or cut along."""
    centre = (float(rng.uniform(-50, 50)), float(rng.uniform(35, 120)))
    semi = (radius_mm * float(rng.uniform(1, 9)), radius_mm)
    turn = float(rng.uniform(0, np.pi))
    labels[_ellipse(points, centre, (semi[0] + 1.3, semi[1] + 1.3), turn) < 1] = Tissue.VESSEL_WALL
    labels[_ellipse(points, centre, semi, turn) < 1] = Tissue.BLOOD


def _liver(points: Points, rng: np.random.Generator) -> ByteArray:
    labels = np.full(points[0].shape, Tissue.LIVER, np.uint8)
    for _ in range(int(rng.integers(3, 8))):
        _vessel(labels, points, rng, float(rng.uniform(2, 6)))
    middle, radius = float(rng.uniform(-60, 60)), float(rng.uniform(110, 150))
    dome = np.hypot(points[0] - middle, points[1] - float(rng.uniform(-10, 30))) - radius
    labels[dome > 0] = Tissue.LUNG
    labels[np.abs(dome) < 1.6] = Tissue.PERICARDIUM  # the diaphragm
    return labels


def _kidney(points: Points, rng: np.random.Generator) -> ByteArray:
    labels = _liver(points, rng)
    centre = (float(rng.uniform(-25, 25)), float(rng.uniform(65, 100)))
    turn, size = float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.85, 1.15))
    for semi, tissue in (
        ((58, 28), Tissue.FAT),
        ((55, 25), Tissue.MYOCARDIUM),
        ((34, 10), Tissue.MEDIASTINUM),
    ):
        labels[_ellipse(points, centre, (semi[0] * size, semi[1] * size), turn) < 1] = tissue
    return labels


def _pelvis(points: Points, rng: np.random.Generator) -> ByteArray:
    labels = np.full(points[0].shape, Tissue.MEDIASTINUM, np.uint8)
    filled, turn = float(rng.uniform(0.5, 1.2)), float(rng.normal(0, 0.2))
    bladder = _ellipse(points, (float(rng.normal(0, 8)), 30 + 25 * filled), (38 * filled, 24 * filled), turn)
    labels[_ellipse(points, (float(rng.normal(0, 10)), 40 + 60 * filled), (40, 22), turn) < 1] = (
        Tissue.MYOCARDIUM
    )
    labels[bladder < 1.06] = Tissue.VESSEL_WALL
    labels[bladder < 1] = Tissue.BLOOD
    return labels


def _neck(points: Points, rng: np.random.Generator) -> ByteArray:
    labels = np.full(points[0].shape, Tissue.MYOCARDIUM, np.uint8)
    for depth_mm in np.sort(rng.uniform(3, 40, 5)):
        labels[np.abs(points[1] - depth_mm - float(rng.normal(0, 0.05)) * points[0]) < 0.5] = (
            Tissue.VESSEL_WALL
        )
    side = float(rng.choice([-1, 1]))
    labels[_ellipse(points, (-side * 4, 17), (11, 9), 0.3) < 1] = Tissue.LIVER
    artery, vein = ((side * 11, 19.0), (3.4, 3.4)), ((side * 16, 14.0), (6.0, 3.4))
    for centre, semi in (artery, vein):
        labels[_ellipse(points, centre, (semi[0] + 0.7, semi[1] + 0.7), 0.0) < 1] = Tissue.VESSEL_WALL
        labels[_ellipse(points, centre, semi, 0.0) < 1] = Tissue.BLOOD
    return labels


def _lung(points: Points, rng: np.random.Generator) -> ByteArray:
    pleura_mm = float(rng.uniform(18, 32))
    labels = np.full(points[0].shape, Tissue.LUNG, np.uint8)
    labels[points[1] < pleura_mm] = Tissue.CHEST_WALL
    for repeat in range(1, 6):  # the pleura, and its echoes: A-lines
        labels[np.abs(points[1] - repeat * pleura_mm) < 1.4 / repeat] = Tissue.PERICARDIUM
    first = float(rng.uniform(0, 28))
    for rib in range(-3, 4):
        labels[_ellipse(points, (first + 28 * rib, 0.6 * pleura_mm), (7, 3.5), 0.0) < 1] = Tissue.BONE
    return labels


def _air(points: Points, rng: np.random.Generator) -> ByteArray:
    """Give what a probe sees that lies on its table: its own echo, again and again."""
    return np.full(points[0].shape, Tissue.GAS if rng.random() < 0.5 else Tissue.LUNG, np.uint8)


def _quality_phantom(points: Points, rng: np.random.Generator) -> ByteArray:
    """Give the block of jelly with wires and cysts that machines are tested with."""
    labels = np.full(points[0].shape, Tissue.LIVER, np.uint8)
    shift = float(rng.uniform(-20, 20))
    for wire_mm in range(20, 200, 20):
        labels[_ellipse(points, (shift, wire_mm), (1.2, 1.2), 0.0) < 1] = Tissue.PERICARDIUM
    for row, depth_mm in enumerate((40.0, 80.0, 120.0)):
        labels[_ellipse(points, (shift + 30, depth_mm), (3 + 2 * row, 3 + 2 * row), 0.0) < 1] = Tissue.BLOOD
    return labels


_CURVED: Final = {"half_angle": 0.55, "radius_mm": 50.0}
_LINEAR: Final = {"half_angle": 0.025, "radius_mm": 800.0}
_SCANS: Final[dict[str, _Probe]] = {
    "air": _Probe(_air, 150, covering_mm=1.0),
    "lung": _Probe(_lung, 120),
    "liver": _Probe(_liver, 160, **_CURVED),
    "kidney": _Probe(_kidney, 150, **_CURVED),
    "pelvis": _Probe(_pelvis, 150, **_CURVED),
    "neck": _Probe(_neck, 40, **_LINEAR, covering_mm=5.0),
    "tee": _Probe(None, 125, covering_mm=3.0),
    "quality_phantom": _Probe(_quality_phantom, 160, **_CURVED, covering_mm=1.0),
}


# --- screens without a scan ---------------------------------------------------------------------------

_Screen = tuple[ByteArray, Box]


def _look(raster: Raster, screen: ByteArray, box: Box) -> ForeignFrame:
    shown = np.zeros_like(screen)
    shown[box.top : box.bottom, box.left : box.right] = 1
    return ForeignFrame(raster.look(screen), raster.look(shown).astype(bool))


def _any_box(rng: np.random.Generator) -> Box:
    top, left = int(rng.integers(0, 120)), int(rng.integers(0, 160))
    return Box(top, int(rng.integers(420, SCREEN_ROWS)), left, int(rng.integers(560, SCREEN_COLUMNS)))


def _blank(rng: np.random.Generator) -> _Screen:
    level = int(rng.integers(1, 60)) if rng.random() < 0.5 else 0
    return np.full((SCREEN_ROWS, SCREEN_COLUMNS), level, np.uint8), _any_box(rng)


def _noise(rng: np.random.Generator) -> _Screen:
    grain = float(rng.uniform(0, 12))
    field = gaussian_filter(rng.standard_normal((SCREEN_ROWS, SCREEN_COLUMNS)), grain)
    grey = float(rng.uniform(30, 160)) + float(rng.uniform(15, 60)) * field / field.std()
    return np.clip(grey, 0, 255).astype(np.uint8), _any_box(rng)


def _test_pattern(rng: np.random.Generator) -> _Screen:
    """Give a pattern of bars, squares or a grid, as monitors are tested with."""
    rows, columns = np.mgrid[:SCREEN_ROWS, :SCREEN_COLUMNS]
    step = int(rng.integers(25, 120))
    patterns = (
        (columns // step * int(rng.integers(20, 60))) % 256,
        ((rows // step + columns // step) % 2) * int(rng.integers(80, 256)),
        np.where((rows % step < 6) | (columns % step < 6), int(rng.integers(80, 256)), 20),
    )
    return patterns[int(rng.integers(len(patterns)))].astype(np.uint8), _any_box(rng)


def _report(rng: np.random.Generator) -> _Screen:
    """Give a page of measurements: lines of text and a curve."""
    ground, ink = (15, 210) if rng.random() < 0.7 else (225, 30)
    screen = np.full((SCREEN_ROWS, SCREEN_COLUMNS), ground, np.uint8)
    words = ("LVIDd", "IVSd", "LVPWd", "EF", "LA Diam", "E/A", "TR Vmax", "AV VTI", "TAPSE", "MV Dec")
    for row in range(int(rng.integers(30, 60)), 560, int(rng.integers(24, 44))):
        text = f"{words[int(rng.integers(len(words)))]}  {rng.uniform(0, 99):.1f}  {rng.uniform(0, 9):.2f} cm"
        draw_text(screen, row, int(rng.integers(20, 60)), text, scale=int(rng.integers(2, 4)), level=ink)
    across = np.arange(430, 760, dtype=np.float32)
    wave = 250 + 90 * np.sin(across / float(rng.uniform(15, 60)))
    draw_polyline(screen, wave.astype(np.float32), across, ink, width=3)
    return screen, Box(0, SCREEN_ROWS, 0, SCREEN_COLUMNS)


_SCREENS: Final[dict[str, Callable[[np.random.Generator], _Screen]]] = {
    "blank": _blank,
    "noise": _noise,
    "test_pattern": _test_pattern,
    "report": _report,
}

FOREIGN_KINDS: Final = (*_SCANS, *_SCREENS)
"""A probe in air, other organs, transoesophageal planes, tests of machines, and other screens."""
