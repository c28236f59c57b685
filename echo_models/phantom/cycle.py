"""What moves with the heart beat: contraction, valves, the ECG. Phase 0 is end-diastole, the R wave."""

from typing import Final

import numpy as np

from echo_models.phantom.arrays import FloatArray

__all__ = ["atrial_kick", "contraction", "ecg", "mitral_opening", "semilunar_opening"]

END_SYSTOLE: Final = 0.36
"""Share of the cycle that is systole at a usual heart rate."""


def _wrap(phase: FloatArray) -> FloatArray:
    return np.asarray(phase - np.floor(phase), np.float32)


def _ramp(x: FloatArray) -> FloatArray:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def _bump(phase: FloatArray, centre: float, half_width: float) -> FloatArray:
    distance = (phase - centre + 0.5) % 1.0 - 0.5
    return np.asarray(np.clip(1 - (distance / half_width) ** 2, 0, None), np.float32)


def contraction(phase: FloatArray) -> FloatArray:
    """Share of the systolic shape, 0 at end-diastole and 1 at end-systole.

    Falls fast in early filling, rests, and gives the last fifth at the atrial kick.
    """
    phase = _wrap(phase)
    rise = _ramp(phase / END_SYSTOLE)
    early = _ramp((phase - END_SYSTOLE - 0.04) / 0.22)
    late = _ramp((phase - 0.84) / 0.14)
    return np.asarray(np.where(phase < END_SYSTOLE, rise, 1 - 0.8 * early - 0.2 * late), np.float32)


def atrial_kick(phase: FloatArray) -> FloatArray:
    """Share of the atria's contraction, 0 to 1, just before end-diastole."""
    return _bump(_wrap(phase), 0.93, 0.09)


def mitral_opening(phase: FloatArray) -> FloatArray:
    """Opening of the mitral and tricuspid valves, 0 closed to 1: wide early, half shut, wider at the kick."""
    phase = _wrap(phase)
    early = _bump(phase, 0.50, 0.13)
    rest = 0.35 * _ramp((phase - 0.44) / 0.06) * (1 - _ramp((phase - 0.94) / 0.05))
    late = 0.8 * _bump(phase, 0.90, 0.08)
    return np.asarray(np.maximum(np.maximum(early, rest), late), np.float32)


def semilunar_opening(phase: FloatArray) -> FloatArray:
    """Opening of the aortic and pulmonary valves, 0 closed to 1."""
    phase = _wrap(phase)
    return np.asarray(_ramp((phase - 0.05) / 0.05) * (1 - _ramp((phase - 0.32) / 0.05)), np.float32)


def ecg(phase: FloatArray) -> FloatArray:
    """Give one lead of an ECG in units of the R wave's height."""
    phase = _wrap(phase)

    def wave(centre: float, width: float, height: float) -> FloatArray:
        distance = (phase - centre + 0.5) % 1.0 - 0.5
        return np.asarray(height * np.exp(-0.5 * (distance / width) ** 2), np.float32)

    p_and_t = wave(0.86, 0.022, 0.13) + wave(0.30, 0.045, 0.27)
    qrs = wave(0.985, 0.008, -0.13) + wave(0.0, 0.010, 1.0) + wave(0.02, 0.010, -0.24)
    return np.asarray(p_and_t + qrs, np.float32)
