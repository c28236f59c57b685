"""The strips that show time to the right: spectral Doppler (pulsed and continuous wave) and M-mode.

Shapes and speeds of the flows: Quiñones MA et al., "Recommendations for quantification of Doppler
echocardiography", J Am Soc Echocardiogr 15:167-184 (2002); Baumgartner H et al. on aortic stenosis (2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from echo_models.phantom.anatomy import SUPERIOR, Heart
from echo_models.phantom.arrays import FloatArray
from echo_models.phantom.planes import ScanPlane
from echo_models.phantom.sector import MachineSettings, Sector

__all__ = ["m_mode_strip", "spectral_strip"]


@dataclass(frozen=True)
class _Flow:
    """One flow through a gate or along a beam: humps of the envelope in one beat.

    Attributes:
        humps: (centre, half width, height) of each hump; its height is a share of the scale, and negative
            where blood flows away from the probe.
        pointed: Exponent of a hump: 1 is a parabola, above it is pointed.
    """

    humps: tuple[tuple[float, float, float], ...]
    pointed: float = 1.0


_PULSED: Final = (
    _Flow(((0.50, 0.10, 1.0), (0.90, 0.07, 0.75)), 1.1),  # mitral inflow, E and A
    _Flow(((0.20, 0.16, -1.0),), 1.1),  # left ventricular outflow
    _Flow(((0.21, 0.17, -1.0),), 1.0),  # pulmonary outflow
    _Flow(((0.18, 0.13, 0.8), (0.48, 0.09, -1.0), (0.90, 0.06, -0.8)), 1.2),  # tissue Doppler
    _Flow(((0.22, 0.17, 0.8), (0.55, 0.15, 0.6), (0.92, 0.05, -0.4)), 1.0),  # pulmonary veins
    _Flow(((0.20, 0.15, -0.9), (0.52, 0.16, -0.6), (0.92, 0.05, 0.3)), 1.0),  # hepatic veins
    _Flow(((0.20, 0.17, -1.0), (0.55, 0.25, -0.12)), 1.0),  # descending aorta
)
_CONTINUOUS: Final = (
    _Flow(((0.20, 0.19, -1.0),), 0.9),  # aortic stenosis or outflow
    _Flow(((0.22, 0.26, -1.0),), 0.75),  # tricuspid regurgitation
    _Flow(((0.21, 0.25, -1.0),), 0.6),  # mitral regurgitation
    _Flow(((0.68, 0.34, 1.0),), 0.4),  # aortic regurgitation
    _Flow(((0.55, 0.16, 1.0), (0.89, 0.09, 0.9)), 0.9),  # mitral stenosis
    _Flow(((0.20, 0.17, -1.0), (0.50, 0.11, 0.5), (0.90, 0.08, 0.4)), 0.9),  # along outflow and inflow
)


def spectral_strip(
    rng: np.random.Generator,
    *,
    continuous: bool,
    rows: int,
    columns: int,
    beats: float,
    phase: float,
    severity: float,
) -> tuple[FloatArray, float]:
    """Draw a Doppler spectrum over time.

    A pulsed gate sees one speed, so its spectrum is a band under the envelope with a hollow below it; a
    continuous beam sees all speeds on its way, so its spectrum is filled down to the baseline.

    Args:
        rng: Source of randomness.
        continuous: Continuous wave.
        rows: Velocity bins.
        columns: Time steps.
        beats: Heart beats across the strip.
        phase: Cardiac phase of the right end.
        severity: Strength of noise and variation.

    Returns:
        Grey [rows, columns], float32, 0 to 255, and the height of the baseline, 0 at the top to 1.
    """
    flows = _CONTINUOUS if continuous else _PULSED
    flow = flows[int(rng.integers(len(flows)))]
    sign = float(rng.choice([1, 1, 1, -1]))  # inverted spectra happen
    humps = [(centre, half, sign * height) for centre, half, height in flow.humps]
    baseline, room = _baseline(rng, [height for _, _, height in humps])
    time = np.asarray(phase + np.linspace(-beats, 0, columns), np.float32)
    swing = _beat_by_beat(rng, time, severity)
    speed = np.asarray(baseline - (np.arange(rows) + 0.5) / rows, np.float32)[:, None]
    width_ratio = float(rng.uniform(0.08, 0.30))
    intensity = np.zeros((rows, columns), np.float32)
    for centre, half, height in humps:
        distance = (time - centre + 0.5) % 1.0 - 0.5
        hump = np.clip(1 - (distance / half) ** 2, 0, 1) ** flow.pointed
        peak = (abs(height) * room * swing * hump + 1e-4)[None, :]
        under = speed * np.sign(height) / peak
        edge = np.clip((1 - under) * peak * rows / 5, 0, 1) * (under > 0) * (peak > 0.015)
        if continuous:
            filling = 0.45 + 0.35 * under + 0.3 * np.exp(-((under - 0.25) ** 2) / 0.05)
        else:
            filling = np.exp(-0.5 * ((1 - under) / width_ratio) ** 2) + 0.10
        intensity = np.maximum(intensity, edge * filling).astype(np.float32)
    intensity += _wall_motion(rng, speed * rows, speed, time)
    return _develop(rng, intensity, speed[:, 0], severity), baseline


def _baseline(rng: np.random.Generator, heights: list[float]) -> tuple[float, float]:
    """Place zero speed so that the humps have room; gives its height in the strip and the scale of a hump."""
    up, down = max(0.0, *heights), max(0.0, *(-height for height in heights))
    baseline = float(np.clip((up + 0.12) / (up + down + 0.24) + rng.normal(0, 0.09), 0.12, 0.88))
    room = min(baseline / max(up, 1e-3), (1 - baseline) / max(down, 1e-3))
    return baseline, room * float(rng.uniform(0.45, 0.95))


def _beat_by_beat(rng: np.random.Generator, time: FloatArray, severity: float) -> FloatArray:
    """Vary the peak speed a little from beat to beat and, finer, from line to line."""
    beats = np.arange(np.floor(time[0]) - 1, np.ceil(time[-1]) + 2)
    swing = np.interp(time, beats, 1 + 0.08 * severity * rng.standard_normal(beats.size))
    jagged = gaussian_filter1d(rng.standard_normal(time.size), 1.0) * 0.04 * severity
    return np.asarray(swing * (1 + jagged), np.float32)


def _wall_motion(
    rng: np.random.Generator, bins: FloatArray, speed: FloatArray, time: FloatArray
) -> FloatArray:
    """Draw slow, strong echoes of walls and valves, which lie on both sides of zero speed."""
    wall = np.exp(-0.5 * (bins / rng.uniform(3, 9)) ** 2) * rng.uniform(0.1, 0.6)
    clicks = np.zeros(time.shape)
    for instant in rng.choice([0.02, 0.06, 0.34, 0.40, 0.97], 2, replace=False):
        clicks += np.exp(-0.5 * (((time - instant + 0.5) % 1.0 - 0.5) / 0.012) ** 2)
    fading = np.exp(-np.abs(speed) * rng.uniform(3, 14)) * rng.uniform(0, 0.7)
    return np.asarray(wall + clicks[None, :] * fading, np.float32)


def _develop(
    rng: np.random.Generator, intensity: FloatArray, speed: FloatArray, severity: float
) -> FloatArray:
    """Turn spectral power into grey: grain, noise floor, wall filter, mirror image, grey curve."""
    grain = rng.standard_exponential(intensity.shape, np.float32)
    grain = gaussian_filter(grain, (rng.uniform(0.5, 1.2), rng.uniform(0.4, 1.2))) ** 0.7
    floor = rng.uniform(0.004, 0.09) * severity
    shown = np.clip((intensity * rng.uniform(0.5, 1.3) + floor) * grain, 0, 1.2) ** rng.uniform(0.5, 1.0)
    if rng.random() < 0.75:
        shown[np.abs(speed) < rng.uniform(0.005, 0.03)] *= 0.1
    if rng.random() < 0.2:
        shown = np.maximum(shown, rng.uniform(0.15, 0.4) * shown[::-1])
    return np.asarray(np.clip(shown * rng.uniform(120, 255), 0, 255), np.float32)


def m_mode_strip(
    heart: Heart,
    plane: ScanPlane,
    settings: MachineSettings,
    rng: np.random.Generator,
    *,
    columns: int,
    rows: int,
    beats: float,
    phase: float,
    severity: float,
    artefacts: Mapping[str, float],
) -> FloatArray:
    """Scan one line of a sector over and over: depth down, time to the right.

    The line is a sector of no width, each of whose lines sees another phase of the beat.

    Args:
        heart: Whose heart.
        plane: The plane the line lies in.
        settings: The machine.
        rng: Source of randomness.
        columns: Time steps.
        rows: Samples of the line.
        beats: Heart beats across the strip.
        phase: Cardiac phase of the right end.
        severity: Strength of the artefacts.
        artefacts: Strength of single ones, times the severity.

    Returns:
        Grey [rows, columns], float32, 0 to 255.
    """
    angle = float(rng.normal(0, 0.12))
    line = Sector(
        heart,
        plane,
        settings,
        rng,
        severity=severity,
        artefacts=artefacts,
        lines=columns,
        samples=rows,
        steer=angle,
    )
    phases = phase + np.linspace(-beats, 0, columns, dtype=np.float32)
    breath_mm = 2.5 * np.sin(2 * np.pi * np.linspace(0, beats / 4.5, columns) + rng.uniform(0, 6))
    moved = np.asarray(SUPERIOR[:, None] * breath_mm[None, :], np.float32)
    strip = line.frame_over_time(phases, moved)
    return np.asarray(gaussian_filter1d(strip, 0.6, axis=0).T, np.float32)
