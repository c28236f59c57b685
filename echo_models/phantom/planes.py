"""Where the probe is held for each of the twelve B-mode views, and the plane it cuts.

Windows and planes follow Mitchell C et al., "Guidelines for performing a comprehensive transthoracic
echocardiographic examination in adults", J Am Soc Echocardiogr 32:1-64 (2019). A plane is the probe's place,
the direction of its middle beam, and the direction that is shown to the right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from echo_models.phantom.anatomy import AORTIC_VALVE, MITRAL_VALVE, ROOT_AXIS, SUPERIOR, Heart, body
from echo_models.phantom.arrays import FloatArray, unit, vector
from echo_models.phantom.errors import UnknownViewError
from echo_models.views import B_MODE_VIEWS

__all__ = ["ScanPlane", "hold_probe"]


@dataclass(frozen=True)
class ScanPlane:
    """A scan plane in heart coordinates.

    Attributes:
        origin: Place of the probe's face, mm.
        beam: Unit vector of the middle beam.
        lateral: Unit vector shown to the right of it.
        usual_depth_mm: Depth at which this view is usually shown.
    """

    origin: FloatArray
    beam: FloatArray
    lateral: FloatArray
    usual_depth_mm: float

    def points(self, angles: FloatArray, ranges_mm: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Give the place of every sample of a sector.

        Args:
            angles: Angle of each line from the middle beam in radians, [L].
            ranges_mm: Distance of each sample from the origin, [S].

        Returns:
            Three coordinates in mm, [L, S], float32.
        """
        forward = np.cos(angles)[:, None] * ranges_mm[None, :]
        sideways = np.sin(angles)[:, None] * ranges_mm[None, :]
        x, y, z = (
            np.asarray(
                float(self.origin[k]) + float(self.beam[k]) * forward + float(self.lateral[k]) * sideways,
                np.float32,
            )
            for k in range(3)
        )
        return x, y, z


def _plane(origin: FloatArray, target: FloatArray, right: FloatArray, depth_mm: float) -> ScanPlane:
    beam = unit(target - origin)
    lateral = unit(right - beam * float(np.dot(right, beam)))
    return ScanPlane(np.asarray(origin, np.float32), beam, lateral, depth_mm)


def _around(azimuth_degrees: float) -> FloatArray:
    """Direction across the LV's long axis by its azimuth seen from the apex, 0 lateral, 90 anterior."""
    azimuth = math.radians(azimuth_degrees)
    return vector([math.cos(azimuth), math.sin(azimuth), 0])


_Jitter = Callable[[float], float]
_Window = Callable[[Heart, _Jitter], ScanPlane]


def _apical(heart: Heart, jitter: _Jitter) -> FloatArray:
    return vector([0, 0, heart.apex + 0.6 * heart.subject.chest_wall_mm + abs(jitter(9))])


def _parasternal(heart: Heart, azimuth_degrees: float, height_mm: float) -> FloatArray:
    distance_mm = 66 * heart.subject.size_ratio + 0.9 * heart.subject.chest_wall_mm + 0.7 * heart.septal_shift
    return _around(azimuth_degrees) * distance_mm + vector([0, 0, height_mm])


def _a4c(heart: Heart, jitter: _Jitter) -> ScanPlane:
    target = MITRAL_VALVE + vector([-12 + jitter(10), jitter(4), 0])
    return _plane(_apical(heart, jitter), target, _around(12 + jitter(9)), 185)


def _a5c(heart: Heart, jitter: _Jitter) -> ScanPlane:
    target = AORTIC_VALVE + vector([jitter(4), jitter(2.5), -6])
    return _plane(_apical(heart, jitter), target, _around(4 + jitter(9)), 185)


def _a2c(heart: Heart, jitter: _Jitter) -> ScanPlane:
    target = MITRAL_VALVE + vector([jitter(4), jitter(8), 0])
    return _plane(_apical(heart, jitter), target, _around(80 + jitter(9)), 180)


def _a3c(heart: Heart, jitter: _Jitter) -> ScanPlane:
    between = np.float32(0.5) * (MITRAL_VALVE + AORTIC_VALVE)
    target = np.asarray(between + vector([jitter(3), jitter(3), 0]), np.float32)
    return _plane(_apical(heart, jitter), target, _around(136 + jitter(6)), 180)


def _plax(heart: Heart, jitter: _Jitter) -> ScanPlane:
    origin = _parasternal(heart, 137 + jitter(4), 24 + jitter(14))
    target = vector([-4, 4, 6 + jitter(9)])
    ascending = AORTIC_VALVE + ROOT_AXIS * 18  # the hand turns the probe until the root is seen lengthwise
    right = unit(ascending - vector([0, 0, 0.5 * heart.length]))
    return _plane(origin, target, right + vector([jitter(0.06), jitter(0.06), 0]), 150)


def _rv_inflow(heart: Heart, jitter: _Jitter) -> ScanPlane:
    origin = _parasternal(heart, 137 + jitter(4), 16 + jitter(7))
    shift = 0.7 * heart.septal_shift
    target = vector([-46 - shift + jitter(4), -12 + jitter(5), 6 + jitter(8)])
    return _plane(origin, target, vector([0.10 + jitter(0.08), jitter(0.08), -1]), 145)


def _psax_base(heart: Heart, jitter: _Jitter) -> ScanPlane:
    origin = _parasternal(heart, 124 + jitter(6), 12 + jitter(4))
    aside = vector([4 + jitter(5), -6, 0])
    target = np.asarray(AORTIC_VALVE + ROOT_AXIS * np.float32(5 + jitter(5)) + aside, np.float32)
    across = np.asarray(np.cross(unit(target - origin), ROOT_AXIS), np.float32)
    return _plane(origin, target, np.asarray(across + jitter(0.12) * ROOT_AXIS, np.float32), 140)


def _psax_mid(heart: Heart, jitter: _Jitter) -> ScanPlane:
    height_mm = heart.length * (0.40 + jitter(0.15))
    azimuth = 118 + jitter(8)
    origin = _parasternal(heart, azimuth, height_mm + jitter(7))
    right = _around(azimuth - 90) + vector([0, 0, jitter(0.12)])
    return _plane(origin, vector([-4 + jitter(6), jitter(4), height_mm]), right, 140)


def _sc4c(_: Heart, jitter: _Jitter) -> ScanPlane:
    origin = body(20 + jitter(6), 46, -74 + jitter(4))
    target = vector([-8 + jitter(6), -2 + jitter(5), 14 + jitter(10)])
    return _plane(origin, target, vector([0.15, 0.1 + jitter(0.12), 1]), 175)


def _sc_ivc(_: Heart, jitter: _Jitter) -> ScanPlane:
    origin = body(40 + jitter(3), 46 + jitter(5), -86 + jitter(12))
    target = body(42 + jitter(2), -17, -62 + jitter(10))
    return _plane(origin, target, -SUPERIOR + jitter(0.08) * body(1, 0, 0), 150)


def _sc_aorta(_: Heart, jitter: _Jitter) -> ScanPlane:
    origin = body(4 + jitter(3), 44 + jitter(6), -100 + jitter(10))
    target = body(2 + jitter(2), -48, -98 + jitter(10))
    return _plane(origin, target, -SUPERIOR + jitter(0.06) * body(1, 0, 0), 150)


def _suprasternal(_: Heart, jitter: _Jitter) -> ScanPlane:
    origin = body(11 + jitter(3), 2 + jitter(4), 134 + jitter(5))
    target = body(4 + jitter(4), -20 + jitter(6), 74)
    return _plane(origin, target, body(-30 + jitter(6), -60, 0), 125)


_WINDOWS: Final[dict[str, _Window]] = {
    "plax": _plax,
    "rv_inflow": _rv_inflow,
    "psax_base": _psax_base,
    "psax_mid": _psax_mid,
    "a2c": _a2c,
    "a3c": _a3c,
    "a4c": _a4c,
    "a5c": _a5c,
    "sc4c": _sc4c,
    "sc_ivc": _sc_ivc,
    "sc_aorta": _sc_aorta,
    "suprasternal": _suprasternal,
}


_SHOWS_AORTIC_VALVE: Final = {"a2c": False, "a3c": True, "a4c": False, "a5c": True}
"""What names an apical plane, whatever it was meant to be: four chambers and the aortic valve are five."""

_CUT_RATIO: Final = 0.6
"""A plane that passes this near to the valve's centre, of its radius, shows it."""

_MISSED_RATIO: Final = 1.1
"""One that passes farther away than this does not; in between the view has no name."""

_MOST_HOLDS: Final = 60
"""A sonographer who does not find the view gives up in the end."""


def hold_probe(heart: Heart, view: str, rng: np.random.Generator, *, severity: float = 1.0) -> ScanPlane:
    """Put the probe where a sonographer holds it for a view, with the scatter of many hands.

    An apical plane is sought until it shows the aortic valve, or does not, as its name wants.

    Args:
        heart: Whose heart.
        view: One of the twelve B-mode views.
        rng: Source of the scatter.
        severity: Multiplies the scatter; 0 is the textbook plane.

    Raises:
        UnknownViewError: The view is no B-mode view.
    """
    if view not in _WINDOWS:
        raise UnknownViewError(
            f"A scan plane needs a B-mode view, one of {', '.join(B_MODE_VIEWS)}; got {view!r}."
        )
    plane = _hold_once(heart, view, rng, severity)
    for _ in range(_MOST_HOLDS):
        if _has_its_name(heart, view, plane):
            break
        plane = _hold_once(heart, view, rng, severity)
    size = np.float32(heart.subject.size_ratio)
    return replace(
        plane,
        origin=np.asarray(plane.origin * size, np.float32),
        usual_depth_mm=plane.usual_depth_mm * float(size),
    )


def _hold_once(heart: Heart, view: str, rng: np.random.Generator, severity: float) -> ScanPlane:
    """Hold the probe somewhere near the right place, in the template's mm."""

    def jitter(spread: float) -> float:
        return severity * spread * float(np.clip(rng.normal(0, 0.7), -1.6, 1.6))

    plane = _WINDOWS[view](heart, jitter)
    slide = vector([jitter(4), jitter(4), jitter(4)])  # off-axis: the probe itself is a little off
    tilt = math.radians(jitter(6))
    normal = np.cross(plane.beam, plane.lateral)
    lateral = unit(np.asarray(plane.lateral + math.tan(tilt) * normal, np.float32))
    return replace(plane, origin=np.asarray(plane.origin + slide, np.float32), lateral=lateral)


def _has_its_name(heart: Heart, view: str, plane: ScanPlane) -> bool:
    """Say whether an apical plane shows the aortic valve where it should, and only there."""
    if view not in _SHOWS_AORTIC_VALVE:
        return True
    normal = unit(np.cross(plane.beam, plane.lateral).astype(np.float32))
    passes_mm = abs(float(np.dot(normal, AORTIC_VALVE - plane.origin)))
    passes_ratio = passes_mm / float(heart.aorta.radii[1])
    return passes_ratio < _CUT_RATIO if _SHOWS_AORTIC_VALVE[view] else passes_ratio > _MISSED_RATIO
