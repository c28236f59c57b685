"""Scatterers that are fixed in the tissue, and the echo that a beam makes of them."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from echo_models.phantom.anatomy import Points
from echo_models.phantom.arrays import FloatArray

__all__ = ["Scatterers", "point_spread"]

_SIDE: Final = 64
_CELL_MM: Final = 0.65
_COARSE_CELL_MM: Final = 5.0


@lru_cache(maxsize=1)
def _lattice() -> tuple[FloatArray, FloatArray, FloatArray]:
    """One period of the scatterers: real and imaginary part of each cell, and smooth unevenness in dB."""
    rng = np.random.default_rng(20180321)
    real, imaginary = (rng.standard_normal(_SIDE**3).astype(np.float32) for _ in range(2))
    uneven = rng.standard_normal((_SIDE, _SIDE, _SIDE)).astype(np.float32)
    for axis in range(3):
        uneven = gaussian_filter1d(uneven, 1.2, axis=axis, mode="wrap")
    return real, imaginary, (uneven / uneven.std()).ravel()


class Scatterers:
    """A periodic random medium, looked up at the end-diastolic place of the tissue.

    A complex normal amplitude in each cell of 0.65 mm gives fully developed (Rayleigh) speckle after the
    point spread; a second, coarse field makes tissue uneven.

    Args:
        rng: Shifts the medium, so that no two subjects' speckle is the same.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._shift_mm = rng.uniform(0, _SIDE * _COARSE_CELL_MM, 3).astype(np.float32)

    def _index(self, reference: Points, cell_mm: float) -> NDArray[np.int32]:
        scale = np.float32(1 / cell_mm)
        i, j, k = (
            ((axis + (shift + 4096)) * scale).astype(np.int32) & (_SIDE - 1)
            for axis, shift in zip(reference, self._shift_mm, strict=True)
        )
        return np.asarray((i * _SIDE + j) * _SIDE + k, np.int32)

    def amplitudes(self, reference: Points) -> tuple[FloatArray, FloatArray]:
        """Give real and imaginary scattering amplitude of tissue, unit variance each."""
        real, imaginary, _ = _lattice()
        index = self._index(reference, _CELL_MM)
        return real[index], imaginary[index]

    def unevenness(self, reference: Points) -> FloatArray:
        """Give slow variation of tissue brightness, unit variance."""
        return _lattice()[2][self._index(reference, _COARSE_CELL_MM)]


def point_spread(
    signal: FloatArray, axial_px: float, near_lateral_px: float, far_lateral_px: float
) -> FloatArray:
    """Blur a complex component as the beam does: along the line by the pulse, across by the aperture.

    Across, the blur changes with depth: two constant blurs are mixed by depth, which costs two passes.

    Args:
        signal: [L, S] lines and samples.
        axial_px: Standard deviation along a line in samples.
        near_lateral_px: Standard deviation across lines at the probe.
        far_lateral_px: Standard deviation across lines at full depth.
    """
    signal = gaussian_filter1d(signal, axial_px, axis=1, truncate=3)
    near = gaussian_filter1d(signal, near_lateral_px, axis=0, truncate=2.5)
    far = gaussian_filter1d(signal, far_lateral_px, axis=0, truncate=2.5)
    depth = np.linspace(0, 1, signal.shape[1], dtype=np.float32)
    return np.asarray(near + depth * (far - near), np.float32)
