"""A B-mode sector: tissue to echo, echo to grey, on a grid of lines and samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from echo_models.phantom.anatomy import Heart, Points
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.artefacts import AS_USUAL, NO_TISSUE, draw_artefacts
from echo_models.phantom.planes import ScanPlane
from echo_models.phantom.speckle import Scatterers, point_spread
from echo_models.phantom.tissue import OBLIQUE_LOSS_DB, Tissue, echogenicity_db

__all__ = ["MachineSettings", "Sector", "SectorFrame", "random_settings"]


@dataclass(frozen=True)
class MachineSettings:
    """How a machine turns echoes into grey.

    Attributes:
        depth_mm: Depth of the sector.
        half_angle: Half of the sector's opening, radians.
        radius_mm: Radius of the probe's face, which cuts the sector's apex off.
        dynamic_range_db: Range of echoes that is shown.
        bright_grey: Grey that the gain gives to the brightest parts, 0 to 255.
        gamma: Exponent of the grey curve.
        reject: Grey share under which black is shown.
        axial_px: Point spread along a line in samples, standard deviation.
        near_lateral_px: Point spread across lines at the probe.
        far_lateral_px: Point spread across lines at full depth.
        compounding_ratio: Share of the echo's power that is averaged over neighbours, as compound imaging
            and persistence do: 0 leaves the full speckle.
    """

    depth_mm: float
    half_angle: float
    radius_mm: float
    dynamic_range_db: float
    bright_grey: float
    gamma: float
    reject: float
    axial_px: float
    near_lateral_px: float
    far_lateral_px: float
    compounding_ratio: float


def random_settings(rng: np.random.Generator, usual_depth_mm: float, severity: float) -> MachineSettings:
    """Draw the settings of one scan around a view's usual depth."""
    dynamic_range = float(np.clip(50 + severity * rng.normal(0, 8), 34, 72))
    return MachineSettings(
        depth_mm=float(np.clip(usual_depth_mm * (1 + severity * rng.normal(0, 0.14)), 90, 240)),
        half_angle=float(np.radians(np.clip(42 + severity * rng.normal(0, 5), 30, 55))),
        radius_mm=float(rng.choice([0.5, 3, 8, 14], p=[0.25, 0.35, 0.3, 0.1])),
        dynamic_range_db=dynamic_range,
        bright_grey=float(np.clip(160 + severity * rng.normal(0, 46), 65, 245)),
        gamma=float(np.clip(1.4 + severity * rng.normal(0, 0.32), 0.75, 2.3)),
        reject=float(severity * rng.uniform(0, 0.08)),
        axial_px=float(rng.uniform(0.5, 1.5)),
        near_lateral_px=float(rng.uniform(1.0, 3.0)),
        far_lateral_px=float(rng.uniform(0.7, 2.4)),
        compounding_ratio=float(rng.uniform(0, 0.9)),
    )


@dataclass(frozen=True)
class SectorFrame:
    """One frame on the polar grid.

    Attributes:
        grey: [L, S], float32, 0 to 255.
        blood: Where there is blood, [L, S].
        lv_level: Negative inside the LV's epicardium, [L, S].
    """

    grey: FloatArray
    blood: BoolArray
    lv_level: FloatArray


class Sector:
    """One probe position with one machine setting, asked for frames at phases of the beat.

    Args:
        heart: Whose heart.
        plane: The scan plane.
        settings: The machine.
        rng: Source of the clip's artefacts.
        severity: Strength of the artefacts.
        artefacts: Strength of single ones, times the severity; see `draw_artefacts`.
        lines: Number of lines.
        samples: Number of samples on a line.
        steer: Angle of all lines alike, for M-mode; None spreads them over the sector.
    """

    def __init__(
        self,
        heart: Heart,
        plane: ScanPlane,
        settings: MachineSettings,
        rng: np.random.Generator,
        *,
        severity: float = 1.0,
        artefacts: Mapping[str, float] = AS_USUAL,
        lines: int = 128,
        samples: int = 256,
        steer: float | None = None,
    ) -> None:
        self.heart = heart
        self.settings = settings
        half = settings.half_angle
        spread = np.linspace(-half, half, lines) if steer is None else np.full(lines, steer)
        self.angles = spread.astype(np.float32)
        self.ranges_mm = (
            (np.arange(samples, dtype=np.float32) + 0.5) * np.float32(settings.depth_mm / samples)
        ).astype(np.float32)
        # The lines begin on the probe's face, a little in front of the point where they meet.
        meeting = plane.origin - plane.beam * np.float32(settings.radius_mm)
        behind = replace(plane, origin=np.asarray(meeting, np.float32))
        self.points: Points = behind.points(self.angles, self.ranges_mm + np.float32(settings.radius_mm))
        self._echogenicity = echogenicity_db(rng, severity)
        self._oblique_db = OBLIQUE_LOSS_DB * np.float32(rng.uniform(0.5, 1.6) * severity)
        # Samples are closer than lines: slopes across lines are brought to the same length.
        apart_mm = (self.ranges_mm + settings.radius_mm) * (2 * half / lines)
        self._line_ratio = np.asarray(settings.depth_mm / samples / np.maximum(apart_mm, 0.2), np.float32)
        self._gain_db: float | None = None
        self._scatterers = Scatterers(rng)
        self._artefacts = draw_artefacts(
            rng,
            across=np.asarray(self.angles / half, np.float32),
            ranges_mm=self.ranges_mm,
            chest_wall_mm=heart.subject.chest_wall_mm,
            severity=severity,
            ratios=artefacts,
        )
        self._clutter = self._still_clutter(rng)
        self._noise_seed = int(rng.integers(2**31))

    def _still_clutter(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        shape = self._artefacts.clutter_db.shape
        amplitude = _amplitude(self._artefacts.clutter_db)
        return amplitude * rng.standard_normal(shape, np.float32), amplitude * rng.standard_normal(
            shape, np.float32
        )

    def frame(self, phase: float, moved: FloatArray | None = None) -> SectorFrame:
        """Scan at a phase of the beat.

        Args:
            phase: 0 at end-diastole.
            moved: Shift of the heart under the probe by breathing, mm, [3].
        """
        shift = np.zeros((3, 1, 1), np.float32) if moved is None else moved.reshape(3, 1, 1)
        return self._scan(np.asarray(phase, np.float32), shift)

    def frame_over_time(self, phases: FloatArray, moved: FloatArray) -> FloatArray:
        """Scan each line at its own instant, as M-mode does.

        Args:
            phases: Phase at each line, [L].
            moved: Shift of the heart under the probe at each line, mm, [3, L].

        Returns:
            Grey [L, S], float32, 0 to 255.
        """
        return self._scan(phases[:, None], moved[:, :, None]).grey

    def _scan(self, phase: FloatArray, moved: FloatArray) -> SectorFrame:
        x, y, z = (axis - shift for axis, shift in zip(self.points, moved, strict=True))
        tissue = self.heart.tissue((x, y, z), phase)
        labels = self._covered(tissue.labels)
        level = self._levels_db(labels, tissue.reference)
        amplitude = _amplitude(level)
        real, imaginary = self._scatterers.amplitudes(tissue.reference)
        noise = np.random.default_rng([self._noise_seed, int(float(phase.flat[0]) * 4096) & 0xFFFF])
        machine_noise = _amplitude(self._artefacts.noise_db)
        power = np.zeros(level.shape, np.float32)
        for part, still in zip((real, imaginary), self._clutter, strict=True):
            echo = self._blur(part * amplitude + still)
            echo += machine_noise * gaussian_filter1d(
                noise.standard_normal(level.shape, np.float32), 0.6, axis=1
            )
            power += echo * echo
        mean = gaussian_filter1d(gaussian_filter1d(power, 0.9, axis=1, truncate=2), 0.9, axis=0, truncate=2)
        grey = self._compress(power + np.float32(self.settings.compounding_ratio) * (mean - power))
        return SectorFrame(grey, labels == Tissue.BLOOD, tissue.lv_level)

    def _covered(self, labels: ByteArray) -> ByteArray:
        """Lay the chest wall over the anatomy, and lung behind it outside the acoustic window."""
        wall, seen = self._artefacts.chest_wall, self._artefacts.seen[:, None]
        labels = np.where(seen, labels, np.uint8(Tissue.LUNG))
        labels = np.where(wall < NO_TISSUE, wall, labels)
        heart = (labels == Tissue.BLOOD) | (labels == Tissue.MYOCARDIUM)
        before = np.cumsum(heart, axis=1) == 0
        labels[(labels == Tissue.LUNG) & before & seen] = Tissue.FAT
        return labels

    def _levels_db(self, labels: ByteArray, reference: Points) -> FloatArray:
        level = self._echogenicity[labels]
        facing = self._facing(level)
        level = level - self._oblique_db[labels] * (1 - facing)
        # A border across the beam is a mirror: it shines.
        edge = np.zeros_like(level)
        edge[:, 1:-1] = np.abs(level[:, 2:] - level[:, :-2])
        level = level + 0.2 * facing * np.minimum(edge, 30) + 2.6 * self._scatterers.unevenness(reference)
        blocked = (labels == Tissue.LUNG) | (labels == Tissue.GAS)
        lost = np.cumsum(blocked, axis=1, dtype=np.float32) * self._artefacts.lung_decay_db
        lost += np.cumsum(labels == Tissue.BONE, axis=1, dtype=np.float32) * 1.2
        return np.asarray(level - lost + self._artefacts.gain_db, np.float32)

    def _facing(self, level: FloatArray) -> FloatArray:
        """Say how much the nearest border lies across the beam: 1 across, 0 along it."""
        smooth = gaussian_filter1d(gaussian_filter1d(level, 3, axis=1, truncate=2), 1.3, axis=0, truncate=2)
        along = np.zeros_like(level)
        across = np.zeros_like(level)
        along[:, 1:-1] = smooth[:, 2:] - smooth[:, :-2]
        across[1:-1] = (smooth[2:] - smooth[:-2]) * self._line_ratio
        along *= along
        across *= across
        return np.asarray(along / (along + across + 0.02), np.float32)

    def _blur(self, signal: FloatArray) -> FloatArray:
        s = self.settings
        echo = point_spread(signal, s.axial_px, s.near_lateral_px, s.far_lateral_px)
        lobes = gaussian_filter1d(signal, 9, axis=0, truncate=2) * (self._artefacts.side_lobe_ratio * 9)
        return np.asarray(echo + lobes, np.float32)

    def _compress(self, power: FloatArray) -> FloatArray:
        s = self.settings
        # The blur of white noise loses power: give it back, so that levels stay what tissue says.
        loss = 4 * np.pi * s.axial_px * 0.5 * (s.near_lateral_px + s.far_lateral_px)
        decibels = 10 * np.log10(power * (loss / 2) + 1e-9)
        if self._gain_db is None:
            # The gain is set by eye: on the first frame the brightest parts come to the wanted grey.
            bright = float(np.quantile(decibels[::2, ::2], 0.97))
            self._gain_db = s.dynamic_range_db * ((s.bright_grey / 255) ** (1 / s.gamma) - 1) - bright
        share = np.clip((decibels + self._gain_db) / s.dynamic_range_db + 1, 0, 1)
        share = np.where(share < s.reject, 0, share) ** s.gamma
        return np.asarray(share * 255, np.float32)


def _amplitude(decibels: FloatArray) -> FloatArray:
    return np.asarray(np.exp(decibels * np.float32(math.log(10) / 20)), np.float32)
