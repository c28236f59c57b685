"""The one heart and torso that every view is cut from.

Heart coordinates, in mm: the origin lies on the long axis of the left ventricle (LV) at the mitral
annulus; z runs to the apex; seen from the apex, x points to the lateral wall and y to the anterior wall.
Body directions (right, anterior, superior) are three unit vectors in these coordinates: the LV points left,
forward and down, by about 46, 32 and 29 degrees, the mean of adult hearts (Engblom H et al., Clin Physiol
Funct Imaging 25:182-188, 2005).

Inside `Heart` all lengths are those of a template: mm divided by the subject's size.

Everything is drawn in its end-diastolic place. Motion is an inverse warp: a point in space is led back to
where its tissue was at end-diastole (`Heart.to_reference`), and both the label and the scatterers are looked
up there. So speckle moves with the tissue.

Sizes: chambers Lang 2015 (Tables 2, 4, 8 and 9), aorta Goldstein 2015, veins Rudski 2010; see `subject`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from echo_models.phantom import cycle
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray, unit, vector
from echo_models.phantom.subject import SEPTAL_AZIMUTH, Subject, apical_wall, long_axis, septal_weight
from echo_models.phantom.tissue import Tissue

__all__ = [
    "ANTERIOR",
    "AORTIC_VALVE",
    "MITRAL_VALVE",
    "RIGHT",
    "SUPERIOR",
    "TRICUSPID_VALVE",
    "Heart",
    "TissueMap",
]

# Right-handed (right, anterior, superior), orthonormal; the third column is the LV's long axis.
RIGHT: Final = vector([-0.717, -0.044, -0.695])
ANTERIOR: Final = vector([-0.557, 0.635, 0.535])
SUPERIOR: Final = vector([0.418, 0.771, -0.480])

MITRAL_VALVE: Final = vector([3, -4, 0])
AORTIC_VALVE: Final = vector([-15, 14, -8])
TRICUSPID_VALVE: Final = vector([-46, 0, 4])
ROOT_AXIS: Final = unit(vector([-0.12, 0.50, -0.86]))

Points = tuple[FloatArray, FloatArray, FloatArray]
_EPSILON = 1e-3


def body(right: float, anterior: float, superior: float) -> FloatArray:
    """Give the heart coordinates of a place told in body directions."""
    return np.asarray(right * RIGHT + anterior * ANTERIOR + superior * SUPERIOR, np.float32)


@dataclass(frozen=True)
class Tube:
    """A vessel: a chain of tapering capsules with a wall."""

    centres: FloatArray
    radii: FloatArray

    @staticmethod
    def through(*stations: tuple[FloatArray, float]) -> "Tube":
        """Make a vessel through (centre, radius) stations."""
        return Tube(np.stack([centre for centre, _ in stations]), vector([radius for _, radius in stations]))

    def scaled(self, radius_ratio: float) -> "Tube":
        """Give the same course with another calibre."""
        return Tube(self.centres, np.asarray(self.radii * radius_ratio, np.float32))

    def level(self, points: "Points", reach_mm: float) -> FloatArray:
        """Give the distance to the lumen's surface in mm, negative inside.

        Segments that lie farther than `reach_mm` from all points cost nothing: there the answer is infinite.
        """
        extents = [(float(axis.min()), float(axis.max())) for axis in points]
        level = np.full(points[0].shape, np.inf, np.float32)
        for index in range(len(self.radii) - 1):
            start, end = self.centres[index], self.centres[index + 1]
            radii = float(self.radii[index]), float(self.radii[index + 1])
            reach = max(radii) + reach_mm
            near = all(
                low - reach < max(start[k], end[k]) and high + reach > min(start[k], end[k])
                for k, (low, high) in enumerate(extents)
            )
            if near:
                level = np.minimum(level, _capsule(points, start, end, *radii))
        return level


@dataclass(frozen=True)
class TissueMap:
    """What is where, for one set of points at one instant.

    Attributes:
        labels: `Tissue` of each point, uint8.
        reference: End-diastolic place of each point's tissue, three float32 arrays.
        lv_level: Distance-like, negative inside the LV's epicardium between annulus and apex.
    """

    labels: ByteArray
    reference: Points
    lv_level: FloatArray


class Heart:
    """The anatomy of one subject, asked for the tissue at points in space.

    Args:
        subject: Whose heart.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        size = subject.size_ratio
        self.radius = subject.cavity_diameter_mm / 2 / size
        self.length = subject.cavity_length_mm / size
        self.centre, self.semi = long_axis(self.length)
        self.septum = subject.septum_mm / size
        self.posterior_wall = subject.posterior_wall_mm / size
        self.apex = self.length + apical_wall(self.posterior_wall)
        # Neighbours make room for a larger ventricle: the template's outer radius is 33.
        self.septal_shift = self.radius + self.septum - 33.0
        self.vessels = _vessels(subject)
        self.aorta = _aorta(subject)
        self._waves = _irregularity(subject.subject_id)

    def to_reference(self, points: Points, phase: FloatArray) -> Points:
        """Lead points in space back to the end-diastolic place of the tissue that is there now.

        The annulus descends, the cavity narrows, and the wall around it keeps its cross-section, so it
        thickens; what is around follows less and less with distance.

        Args:
            points: Coordinates in mm, broadcastable float32 arrays.
            phase: Phase of the cycle, broadcastable with the points.
        """
        x, y, z = (axis * np.float32(1 / self.subject.size_ratio) for axis in points)
        systole = np.asarray(cycle.contraction(phase), np.float32)
        annulus = self.subject.annular_excursion_mm / self.subject.size_ratio * systole
        above = (z - annulus) * (self.length / (self.length - annulus))
        below = (z + 65) * (65 / (65 + annulus)) - 65
        z_reference = np.where(
            z > annulus, np.minimum(above, np.maximum(z, self.length)), np.where(z < -65, z, below)
        )
        rho_squared = x * x + y * y + _EPSILON
        narrowing = 1 - self.subject.shortening_ratio * systole * np.clip(1 + z_reference / 18, 0, 1)
        along = (z_reference - self.centre) / self.semi
        inner_squared = self.radius**2 * np.clip(1 - along * along, 0, 1)
        now_squared = inner_squared * narrowing * narrowing
        outside = np.clip(rho_squared - now_squared, 0, None)
        grown = (inner_squared - now_squared) * np.exp(-outside / 3500)
        inside = rho_squared < now_squared
        factor = np.where(inside, 1 / narrowing, np.sqrt(1 + grown / rho_squared))
        return self._uneven((x * factor, y * factor, z_reference))

    def _uneven(self, points: Points) -> Points:
        """Bend smooth template surfaces into the irregular ones of a body.

        Each step slides the tissue along a plane wave's crests, which keeps every volume as it was.
        """
        x, y, z = points
        for wave, slide, shift in self._waves:
            swing = np.sin(x * wave[0] + y * wave[1] + z * wave[2] + shift)
            x, y, z = x + slide[0] * swing, y + slide[1] * swing, z + slide[2] * swing
        return x, y, z

    def tissue(self, points: Points, phase: FloatArray | float) -> TissueMap:
        """Label points in space at a phase of the cardiac cycle.

        Args:
            points: Coordinates in mm, broadcastable float32 arrays.
            phase: Phase, 0 at end-diastole, broadcastable with the points.
        """
        phase = np.asarray(phase, np.float32)
        reference = self.to_reference(points, phase)
        x, y, z = (
            np.broadcast_to(axis, np.broadcast_shapes(*(a.shape for a in reference))) for axis in reference
        )
        lv_inner, lv_outer = self._left_ventricle(x, y, z)
        labels = _surroundings(x, y, z)
        chambers = self._chambers(x, y, z, phase)
        around = lv_outer
        for level, _ in chambers:
            around = np.minimum(around, level)
        labels[around < 8.5] = Tissue.FAT
        labels[around < 6.0] = Tissue.PERICARDIUM
        labels[around < 4.4] = Tissue.FAT
        for level, wall in chambers:
            labels[level < wall] = Tissue.ATRIAL_WALL if wall < 3 else Tissue.MYOCARDIUM
        (left, _), (right, _) = chambers[1:]
        labels[(np.maximum(left, right) < _SEPTAL_REACH_MM) & (z < 0)] = Tissue.ATRIAL_SEPTUM
        myocardium = (lv_outer < 0) & (z > -3)
        for level, _ in chambers:
            labels[(level < 0) & ~myocardium] = Tissue.BLOOD
        labels[myocardium] = Tissue.MYOCARDIUM
        labels[_fibrous_skeleton(x, y, z)] = Tissue.VALVE
        cavity = (lv_inner < 0) & (z > -1)
        labels[cavity] = Tissue.BLOOD
        for vessel, wall in self.vessels:
            level = vessel.level((x, y, z), wall)
            labels[(level < wall) & (labels != Tissue.BLOOD)] = Tissue.VESSEL_WALL
            labels[level < 0] = Tissue.BLOOD
        level = self.aorta.level((x, y, z), 2.4)
        labels[(level < 2.4) & ~cavity] = Tissue.VESSEL_WALL
        labels[level < 0] = Tissue.BLOOD
        self._paint_muscles(labels, cavity, x, y, z)
        self._paint_valves(labels, x, y, z, phase)
        return TissueMap(labels, (x, y, z), np.maximum(lv_outer, -z))

    def _left_ventricle(self, x: FloatArray, y: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        rho = np.sqrt(x * x + y * y + _EPSILON)
        cosine = (x * math.cos(SEPTAL_AZIMUTH) + y * math.sin(SEPTAL_AZIMUTH)) / rho
        wall = self.posterior_wall + (self.septum - self.posterior_wall) * septal_weight(cosine)
        along = z - self.centre
        inner = np.sqrt((rho / self.radius) ** 2 + (along / self.semi) ** 2)
        outer_radius = self.radius + wall
        outer = np.sqrt((rho / outer_radius) ** 2 + (along / (self.semi + self.apex - self.length)) ** 2)
        return (
            np.asarray((inner - 1) * self.radius, np.float32),
            np.asarray((outer - 1) * outer_radius, np.float32),
        )

    def _chambers(
        self, x: FloatArray, y: FloatArray, z: FloatArray, phase: FloatArray
    ) -> list[tuple[FloatArray, float]]:
        """Levels in mm (negative inside) and wall thickness of right ventricle, left and right atrium."""
        subject = self.subject
        right = subject.right_heart_ratio
        atrium = subject.atrial_ratio * (1 - 0.06 * cycle.atrial_kick(phase))
        shift = self.septal_shift
        lean = np.clip(z, 0, None) * (14 / self.length)
        rv = np.maximum(
            _ellipsoid(
                x - lean, y, z, (-30 - shift, 4, 10), (33 * right, 35 * right, 0.80 * self.length - 10)
            ),
            3 - z,
        )
        rv = np.minimum(rv, _OUTFLOW.level((x, y, z), 4.0))
        la = np.maximum(_ellipsoid(x, y, z, (4, -8, -21), (21 * atrium, 19 * atrium, 30 * atrium)), z - 2)
        ra = np.maximum(
            _ellipsoid(x, y, z, (-43 - 0.5 * shift, -5, -15), (21 * right, 20 * right, 26 * right)), z - 4
        )
        return [(rv, 4.0), (la, 2.4), (ra, 2.4)]

    def _paint_muscles(
        self, labels: ByteArray, cavity: BoolArray, x: FloatArray, y: FloatArray, z: FloatArray
    ) -> None:
        """Put in the papillary muscles, their chords and the moderator band."""
        radius, length = self.radius, self.length
        for azimuth in (math.radians(32), math.radians(242)):
            ray = vector([math.cos(azimuth), math.sin(azimuth), 0])
            root = ray * (0.84 * radius) + vector([0, 0, 0.70 * length])
            tip = ray * (0.60 * radius) + vector([0, 0, 0.40 * length])
            leaflet = MITRAL_VALVE + ray * 7 + vector([0, 0, 13])
            muscle = _capsule((x, y, z), root, tip, 0.22 * radius, 0.15 * radius)
            labels[(muscle < 0) & cavity] = Tissue.MYOCARDIUM
            chord = _capsule((x, y, z), tip, leaflet, 0.7, 0.7)
            labels[(chord < 0) & cavity] = Tissue.ATRIAL_WALL
        shift = self.septal_shift
        band = _capsule(
            (x, y, z),
            vector([-26 - shift, -4, 0.52 * length]),
            vector([-48 - shift, 6, 0.62 * length]),
            2.4,
            2.2,
        )
        labels[(band < 0) & (labels == Tissue.BLOOD)] = Tissue.MYOCARDIUM

    def _paint_valves(
        self, labels: ByteArray, x: FloatArray, y: FloatArray, z: FloatArray, phase: FloatArray
    ) -> None:
        opening = np.asarray(cycle.mitral_opening(phase), np.float32)
        # Anterior mitral leaflet about 24 mm, posterior 13 mm; the anterior one hangs at the aortic root.
        mitral = _leaflets(
            (x - MITRAL_VALVE[0], y - MITRAL_VALVE[1], z),
            16,
            (19, 5),
            math.radians(135),
            opening,
        )
        labels[mitral] = Tissue.VALVE
        centre_x = TRICUSPID_VALVE[0] + 1.0 - 0.8 * self.septal_shift
        tricuspid = _leaflets(
            (x - centre_x, y - TRICUSPID_VALVE[1], z - TRICUSPID_VALVE[2]),
            16,
            (15, 1.0),
            math.radians(200),
            opening,
        )
        labels[tricuspid & (labels == Tissue.BLOOD)] = Tissue.VALVE
        ejection = np.asarray(cycle.semilunar_opening(phase), np.float32)
        for centre, axis, radius in (
            (AORTIC_VALVE, ROOT_AXIS, float(self.aorta.radii[1])),
            (_PULMONARY_VALVE, _PULMONARY_AXIS, 11.5),
        ):
            labels[_cusps((x, y, z), centre, axis, radius, ejection)] = Tissue.VALVE


_SEPTAL_REACH_MM: Final = 7.0
"""What is nearer than this to both atria is the wall between them, and no sac is there."""

_PULMONARY_VALVE: Final = vector([3, 36, -8])
_PULMONARY_AXIS: Final = unit(vector([0.42, -0.35, -0.83]))


def _irregularity(seed: int) -> list[tuple[FloatArray, FloatArray, np.float32]]:
    """Draw plane waves (wave vector, slide across it in mm, phase) that make a subject's shapes their own."""
    rng = np.random.default_rng([0x1BBE, seed])
    waves = []
    for _ in range(5):
        direction = unit(vector(rng.standard_normal(3).tolist()))
        aside = np.cross(direction, rng.standard_normal(3))
        wave = direction * np.float32(2 * math.pi / rng.uniform(38, 95))
        slide = unit(np.asarray(aside, np.float32)) * np.float32(rng.uniform(0.5, 2.2))
        waves.append((wave, slide, np.float32(rng.uniform(0, 2 * math.pi))))
    return waves


_OUTFLOW: Final = Tube.through(
    (vector([-32, 22, 20]), 14), (vector([-17, 36, 2]), 13), (_PULMONARY_VALVE, 12)
)
"""Outflow tract of the right ventricle; 30 mm wide at its end (Lang 2015, Table 8: 21 to 35 mm)."""


def _vessels(subject: Subject) -> list[tuple[Tube, float]]:
    """Courses of the pulmonary artery, the great veins and small arteries, with their wall thickness.

    Diameters: main pulmonary artery 24, its branches 18 mm, vena cava up to 21 mm (Rudski 2010).
    """
    trunk = Tube.through((_PULMONARY_VALVE, 12.5), (body(2, 2, 47), 13), (body(0, -12, 54), 12))
    right_branch = Tube.through((body(0, -12, 54), 9.5), (body(22, -22, 55), 9), (body(46, -26, 52), 8))
    left_branch = Tube.through((body(0, -12, 54), 9.5), (body(-22, -32, 58), 8.5), (body(-40, -42, 54), 7))
    cava = Tube.through(
        (body(46, 0, -24), 1.12),
        (body(44, -14, -50), 1.0),
        (body(40, -22, -95), 0.95),
        (body(36, -26, -170), 0.95),
    ).scaled(subject.vena_cava_mm / 2 / subject.size_ratio)
    superior_cava = Tube.through((body(46, -2, 16), 9), (body(40, -6, 60), 8.5), (body(36, 0, 95), 8))
    hepatic = Tube.through((body(44, -12, -56), 4.5), (body(34, 12, -78), 3.8), (body(24, 30, -100), 3))
    mesenteric = Tube.through((body(2, -50, -92), 4), (body(2, -34, -108), 3.4), (body(4, -30, -150), 3))
    branches = [
        Tube.through((body(14, 1, 88), 6), (body(17, 8, 122), 5)),
        Tube.through((body(6, -17, 96), 4.5), (body(3, -12, 128), 4)),
        Tube.through((body(-2, -33, 93), 5), (body(-10, -30, 125), 4)),
    ]
    sinus = Tube.through((vector([-22, -30, -6]), 4.5), (vector([8, -33, -4]), 3.5))
    return [
        (left_branch, 1.6),
        (right_branch, 1.6),
        (trunk, 1.8),
        (superior_cava, 1.4),
        (cava, 1.5),
        (hepatic, 1.0),
        (sinus, 1.0),
        *((branch, 1.5) for branch in branches),
        (mesenteric, 1.3),
    ]


def _aorta(subject: Subject) -> Tube:
    """Course of the aorta, root to abdomen.

    Diameters: sinuses 34, ascending 30, arch 27, descending 24, abdominal 20 mm (Goldstein 2015).
    """
    return Tube.through(
        (AORTIC_VALVE - ROOT_AXIS * 7, 0.42),
        (AORTIC_VALVE, 0.44),
        (AORTIC_VALVE + ROOT_AXIS * 11, 0.50),
        (AORTIC_VALVE + ROOT_AXIS * 22, 0.43),
        (body(23, 12, 52), 0.44),
        (body(17, 7, 80), 0.43),
        (body(8, -12, 95), 0.41),
        (body(-4, -38, 92), 0.39),
        (body(-8, -56, 72), 0.37),
        (body(-6, -61, 30), 0.35),
        (body(-5, -62, -15), 0.34),
        (body(0, -54, -65), 0.31),
        (body(3, -44, -110), 0.29),
        (body(5, -40, -170), 0.26),
    ).scaled(subject.aortic_root_mm / subject.size_ratio)


def _surroundings(x: FloatArray, y: FloatArray, z: FloatArray) -> ByteArray:
    """Label what lies around the heart: lungs, mediastinum, liver, stomach, spine."""
    right = x * RIGHT[0] + y * RIGHT[1] + z * RIGHT[2]
    anterior = x * ANTERIOR[0] + y * ANTERIOR[1] + z * ANTERIOR[2]
    superior = x * SUPERIOR[0] + y * SUPERIOR[1] + z * SUPERIOR[2]
    labels = np.full(x.shape, Tissue.LUNG, np.uint8)
    labels[np.abs(right - 8) < 34] = Tissue.MEDIASTINUM
    dome = -50 - 0.0022 * ((right - 30) ** 2 + (anterior - 5) ** 2)
    below = superior < dome
    labels[below] = Tissue.LIVER
    labels[below & (right < -32)] = Tissue.GAS
    labels[below & (superior > dome - 3)] = Tissue.PERICARDIUM
    behind = anterior < -66 + 22 * np.clip((-40 - superior) / 70, 0, 1)
    labels[behind & (np.abs(right - 4) < 40)] = Tissue.MEDIASTINUM
    vertebrae = (anterior < -78 + 24 * np.clip((-40 - superior) / 70, 0, 1)) & (np.abs(right - 6) < 20)
    labels[vertebrae & (np.abs((superior + 300) % 34 - 17) < 12)] = Tissue.BONE
    return labels


def _ellipsoid(
    x: FloatArray, y: FloatArray, z: FloatArray, centre: Sequence[float], semi: Sequence[float | FloatArray]
) -> FloatArray:
    """Level of an ellipsoid in mm, negative inside, right near the surface."""
    q = np.sqrt(
        ((x - centre[0]) / semi[0]) ** 2 + ((y - centre[1]) / semi[1]) ** 2 + ((z - centre[2]) / semi[2]) ** 2
    )
    return np.asarray((q - 1) * ((semi[0] + semi[1] + semi[2]) / 3), np.float32)


def _capsule(
    points: Points, start: FloatArray, end: FloatArray, start_radius: float, end_radius: float
) -> FloatArray:
    """Level of a tapering capsule in mm, negative inside."""
    x, y, z = (axis - float(origin) for axis, origin in zip(points, start, strict=True))
    dx, dy, dz = (float(step) for step in end - start)
    squared = dx * dx + dy * dy + dz * dz
    along = np.clip((x * dx + y * dy + z * dz) / squared, 0, 1)
    x, y, z = x - along * dx, y - along * dy, z - along * dz
    return np.asarray(
        np.sqrt(x * x + y * y + z * z) - (start_radius + along * (end_radius - start_radius)), np.float32
    )


def _fibrous_skeleton(x: FloatArray, y: FloatArray, z: FloatArray) -> BoolArray:
    """Say where the bright fibrous ring of the mitral annulus and the crux are."""
    rho = np.sqrt((x - MITRAL_VALVE[0]) ** 2 + (y - MITRAL_VALVE[1]) ** 2)
    ring = (rho - 18.5) ** 2 + (z + 1) ** 2
    crux = (x + 22) ** 2 + (y + 6) ** 2 / 4 + z * z
    return np.asarray((ring < 8) | (crux < 20))


def _leaflets(
    points: Points, radius: float, lengths: tuple[float, float], azimuth: float, opening: FloatArray
) -> BoolArray:
    """Say where the leaflets of an atrioventricular valve are.

    The leaflets are a funnel hinged at the annulus; its wall is longer on the side of `azimuth`.

    Args:
        points: Coordinates relative to the centre of the annulus.
        radius: Radius of the annulus in mm.
        lengths: Mean leaflet length and half the difference between its longest and shortest, in mm.
        azimuth: Direction of the longest leaflet.
        opening: 0 closed to 1 open.
    """
    x, y, z = points
    rho = np.sqrt(x * x + y * y + _EPSILON)
    cosine = (x * math.cos(azimuth) + y * math.sin(azimuth)) / rho
    length = lengths[0] + lengths[1] * cosine
    angle = np.radians(14 + 56 * opening)
    sine, cos = np.sin(angle), np.cos(angle)
    from_hinge = radius - rho
    along = cos * from_hinge + sine * z
    across = -sine * from_hinge + cos * z
    return np.asarray((np.abs(across) < 0.85) & (along > -0.5) & (along < length))


def _cusps(
    points: Points, centre: FloatArray, axis: FloatArray, radius: float, opening: FloatArray
) -> BoolArray:
    """Say where the three cusps of a semilunar valve are: a star when closed, a tube when open."""
    x, y, z = (coordinate - float(origin) for coordinate, origin in zip(points, centre, strict=True))
    height = x * float(axis[0]) + y * float(axis[1]) + z * float(axis[2])
    first = unit(np.cross(axis, vector([0.3, 0.2, 1.0])).astype(np.float32))
    second = np.cross(axis, first)
    u = x * float(first[0]) + y * float(first[1]) + z * float(first[2])
    v = x * float(second[0]) + y * float(second[1]) + z * float(second[2])
    rho = np.sqrt(u * u + v * v + _EPSILON)
    star = np.full(rho.shape, np.inf, np.float32)
    for spoke in range(3):
        angle = math.radians(20 + 120 * spoke)
        ahead = u * math.cos(angle) + v * math.sin(angle)
        beside = np.abs(v * math.cos(angle) - u * math.sin(angle))
        star = np.minimum(star, np.where(ahead > -0.5, beside, np.inf))
    closed = (star < 0.9) & (opening < 0.5)
    opened = (np.abs(rho - 0.82 * radius) < 0.9) & (opening >= 0.5)
    inside = (rho < radius) & (height > 0) & (height < 10)
    return np.asarray(inside & (closed | opened))
