"""Who is being scanned: the body and heart dimensions of one synthetic adult.

The numbers are adult reference values: Lang RM et al., "Recommendations for cardiac chamber
quantification by echocardiography in adults", J Am Soc Echocardiogr 28:1-39 (2015), cited below as
Lang 2015 with its table; aorta and great veins from Goldstein SA et al., J Am Soc Echocardiogr
28:119-182 (2015), and Rudski LG et al., J Am Soc Echocardiogr 23:685-713 (2010).
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hypertrophy", "Subject", "random_subject"]

MYOCARDIAL_DENSITY_G_PER_ML: Final = 1.05
LVH_SHARE: Final = 0.2
"""462 of the paper's 2,269 four-chamber frames show hypertrophy (paper, Methods)."""


class Hypertrophy(StrEnum):
    """The grade of left ventricular hypertrophy, in the words of the paper (Methods, "LVH")."""

    NONE = "none"
    MILD_CONCENTRIC = "mild_concentric"
    MODERATE_CONCENTRIC = "moderate_concentric"
    MODERATE_TO_SEVERE_CONCENTRIC = "moderate_to_severe_concentric"
    MILD_ASYMMETRIC = "mild_asymmetric"
    MODERATE_ASYMMETRIC = "moderate_asymmetric"
    MODERATE_TO_SEVERE_ASYMMETRIC = "moderate_to_severe_asymmetric"
    SEVERE_ASYMMETRIC = "severe_asymmetric"
    SEVERE = "severe"

    @property
    def is_lvh(self) -> bool:
        """Say whether the paper counts this grade as LVH."""
        return self in _LVH_GRADES


_LVH_GRADES: Final = frozenset(
    {
        Hypertrophy.MODERATE_TO_SEVERE_ASYMMETRIC,
        Hypertrophy.SEVERE_ASYMMETRIC,
        Hypertrophy.MODERATE_CONCENTRIC,
        Hypertrophy.MODERATE_TO_SEVERE_CONCENTRIC,
        Hypertrophy.SEVERE,
    }
)

# Wall thickness at end-diastole in mm, (septum, posterior wall), as ranges of a man: Lang 2015, Table 6
# (normal 6 to 10, mild 11 to 13, moderate 14 to 16, severe 17 and over; a woman's limits lie 1 mm lower).
_WALLS_MM: Final = {
    Hypertrophy.NONE: ((7.0, 10.0), (7.0, 10.0)),
    Hypertrophy.MILD_CONCENTRIC: ((11.0, 13.0), (11.0, 13.0)),
    Hypertrophy.MODERATE_CONCENTRIC: ((14.0, 16.0), (14.0, 16.0)),
    Hypertrophy.MODERATE_TO_SEVERE_CONCENTRIC: ((15.5, 17.5), (15.5, 17.5)),
    Hypertrophy.MILD_ASYMMETRIC: ((12.0, 14.0), (8.0, 10.0)),
    Hypertrophy.MODERATE_ASYMMETRIC: ((14.0, 16.5), (8.5, 10.5)),
    Hypertrophy.MODERATE_TO_SEVERE_ASYMMETRIC: ((17.0, 20.0), (9.0, 11.5)),
    Hypertrophy.SEVERE_ASYMMETRIC: ((20.0, 26.0), (9.0, 12.5)),
    Hypertrophy.SEVERE: ((17.0, 21.0), (17.0, 20.0)),
}
_GRADES_WITHOUT_LVH: Final = (
    (Hypertrophy.NONE, 0.78),
    (Hypertrophy.MILD_CONCENTRIC, 0.14),
    (Hypertrophy.MILD_ASYMMETRIC, 0.05),
    (Hypertrophy.MODERATE_ASYMMETRIC, 0.03),
)
_GRADES_WITH_LVH: Final = (
    (Hypertrophy.MODERATE_CONCENTRIC, 0.40),
    (Hypertrophy.MODERATE_TO_SEVERE_CONCENTRIC, 0.22),
    (Hypertrophy.SEVERE, 0.14),
    (Hypertrophy.MODERATE_TO_SEVERE_ASYMMETRIC, 0.14),
    (Hypertrophy.SEVERE_ASYMMETRIC, 0.10),
)


SEPTAL_AZIMUTH: Final = math.radians(170)
"""Middle of the septum seen from the apex, anterior up, counter-clockwise from the lateral wall."""


def septal_weight(cosine: NDArray[Any]) -> NDArray[Any]:
    """Give the septum's share in the wall, 0 to 1, by the cosine of the angle to the middle of the septum."""
    half = (1 + cosine) / 2
    return np.asarray(half * half)


def long_axis(cavity_length: float) -> tuple[float, float]:
    """Give centre and semi-axis of the ellipsoid that, cut at the annulus, is the cavity."""
    centre = 0.28 * cavity_length
    return centre, cavity_length - centre


def apical_wall(posterior_wall: float) -> float:
    """Give the thickness of the apex, which is thinner than the walls."""
    return 0.65 * posterior_wall


def _areas_mm2(
    heights_mm: NDArray[Any], centre_mm: float, semi_mm: float, radii_mm: NDArray[Any]
) -> NDArray[Any]:
    """Give the area of an ellipsoid's cross-sections; its equator has a radius for each azimuth."""
    squeeze = np.clip(1 - ((heights_mm - centre_mm) / semi_mm) ** 2, 0, None)
    return np.asarray(math.pi * float(np.mean(radii_mm**2)) * squeeze)


@dataclass(frozen=True)
class Subject:
    """One synthetic adult; every length in mm at end-diastole.

    Attributes:
        subject_id: The seed it was drawn from: two subjects of one seed are the same person.
        hypertrophy: Grade of left ventricular hypertrophy.
        female: Sex, which sets the reference ranges.
        size_ratio: Size of the torso and of all chambers but the left ventricle, 1 for the mean man.
        cavity_diameter_mm: Inner diameter of the left ventricle at its widest.
        cavity_length_mm: Mitral annulus to endocardial apex.
        septum_mm: Thickness of the interventricular septum.
        posterior_wall_mm: Thickness of the wall opposite.
        shortening_ratio: Fractional shortening of the cavity's diameter in systole.
        annular_excursion_mm: Descent of the mitral annulus in systole.
        atrial_ratio: Size of the left atrium relative to the mean.
        right_heart_ratio: Size of the right ventricle and atrium relative to the mean.
        aortic_root_mm: Diameter at the sinuses of Valsalva.
        vena_cava_mm: Diameter of the inferior vena cava.
        chest_wall_mm: Skin, fat and muscle under the probe.
        heart_rate_bpm: Heart rate in beats a minute.
    """

    subject_id: int
    hypertrophy: Hypertrophy
    female: bool
    size_ratio: float
    cavity_diameter_mm: float
    cavity_length_mm: float
    septum_mm: float
    posterior_wall_mm: float
    shortening_ratio: float
    annular_excursion_mm: float
    atrial_ratio: float
    right_heart_ratio: float
    aortic_root_mm: float
    vena_cava_mm: float
    chest_wall_mm: float
    heart_rate_bpm: float

    @property
    def wall_thickness_mm(self) -> float:
        """Give the mean of septum and posterior wall at end-diastole."""
        return (self.septum_mm + self.posterior_wall_mm) / 2

    @property
    def lv_mass_g(self) -> float:
        """Integrate the left ventricle's muscle: volume between epicardium and endocardium times 1.05 g/ml.

        The volume is that of the very surfaces that are drawn (`anatomy.Heart`), so a label made from the
        mass agrees with the picture. Both are truncated at the mitral annulus.
        """
        heights_mm = np.linspace(0.0, self.cavity_length_mm + self.septum_mm, 400)
        azimuths = np.linspace(0.0, 2 * math.pi, 120, endpoint=False)
        walls_mm = self.posterior_wall_mm + (self.septum_mm - self.posterior_wall_mm) * septal_weight(
            np.cos(azimuths - SEPTAL_AZIMUTH)
        )
        centre_mm, semi_mm = long_axis(self.cavity_length_mm)
        inner = _areas_mm2(
            heights_mm, centre_mm, semi_mm, np.full_like(azimuths, self.cavity_diameter_mm / 2)
        )
        outer = _areas_mm2(
            heights_mm,
            centre_mm,
            semi_mm + apical_wall(self.posterior_wall_mm),
            self.cavity_diameter_mm / 2 + walls_mm,
        )
        volume_ml = float(np.trapezoid(outer - inner, heights_mm)) / 1000
        return volume_ml * MYOCARDIAL_DENSITY_G_PER_ML


def random_subject(seed: int, *, lvh: bool | None = None) -> Subject:
    """Draw one adult; the same seed gives the same person.

    Args:
        seed: Seed and identity of the subject.
        lvh: Whether the hypertrophy grade counts as LVH; None draws it in the paper's proportion (1 to 4).
    """
    rng = np.random.default_rng([0x5EED, seed])
    has_lvh = bool(rng.random() < LVH_SHARE) if lvh is None else lvh
    table = _GRADES_WITH_LVH if has_lvh else _GRADES_WITHOUT_LVH
    weights = np.array([weight for _, weight in table])
    grade = table[int(rng.choice(len(table), p=weights / weights.sum()))][0]
    female = bool(rng.random() < 0.5)
    septum_range, posterior_range = _WALLS_MM[grade]
    severity = rng.random()
    less_mm = 1.0 if female else 0.0
    septum_mm = septum_range[0] + severity * (septum_range[1] - septum_range[0]) - less_mm
    posterior_mm = posterior_range[0] + severity * (posterior_range[1] - posterior_range[0]) - less_mm
    posterior_mm += float(rng.normal(0, 0.25))
    # Lang 2015, Table 2: LV internal diameter at end-diastole 50.2 (SD 4.1) mm in men, 45.0 (3.6) in women.
    diameter_mm = rng.normal(45.0, 3.6) if female else rng.normal(50.2, 4.1)
    if grade.is_lvh:
        diameter_mm -= rng.uniform(0, 5)  # concentric remodelling narrows the cavity
    size = float(np.clip(rng.normal(0.95 if female else 1.02, 0.05), 0.82, 1.15))
    return Subject(
        subject_id=seed,
        hypertrophy=grade,
        female=female,
        size_ratio=size,
        cavity_diameter_mm=float(np.clip(diameter_mm, 36, 60)),
        cavity_length_mm=float(np.clip(rng.normal(84, 6) * size, 66, 104)),
        septum_mm=float(septum_mm),
        posterior_wall_mm=float(posterior_mm),
        # Ejection fraction 62 (SD 5) %, Lang 2015, Table 2, with a tail of failing hearts.
        shortening_ratio=float(np.clip(rng.normal(0.31, 0.06), 0.10, 0.42)),
        annular_excursion_mm=float(np.clip(rng.normal(13, 2.5), 5, 18)),
        atrial_ratio=float(np.clip(rng.normal(1.08 if grade.is_lvh else 1.0, 0.10), 0.78, 1.4)),
        right_heart_ratio=float(np.clip(rng.normal(1.02, 0.13), 0.78, 1.45)),
        # Goldstein 2015: sinuses of Valsalva 34 (SD 3) mm in men, 30 (3) in women.
        aortic_root_mm=float(np.clip(rng.normal(30 if female else 34, 3), 24, 42)),
        # Rudski 2010: at most 21 mm.
        vena_cava_mm=float(np.clip(rng.normal(17, 3), 9, 26)),
        chest_wall_mm=float(np.clip(rng.normal(19, 5), 9, 34)),
        heart_rate_bpm=float(np.clip(rng.normal(72, 13), 45, 125)),
    )
