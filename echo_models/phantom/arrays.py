"""Array types and small vector arithmetic shared by the phantom's modules."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoolArray", "ByteArray", "FloatArray", "IntArray", "unit", "vector"]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]


def vector(values: Sequence[float]) -> FloatArray:
    """Give a vector of float32, the number type of every field the phantom computes."""
    return np.asarray(values, np.float32)


def unit(values: FloatArray) -> FloatArray:
    """Scale a vector to length one."""
    return np.asarray(values / np.sqrt(np.sum(values * values)), np.float32)
