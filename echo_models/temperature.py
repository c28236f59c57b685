"""Temperature scaling: how sure a classifier may be (Guo C et al., ICML 2017, section 4.2).

Logits are divided by one number that makes the probabilities of held-out frames likeliest. It changes no
order, so no view and no mask at one half. It works on probabilities: logits are their logarithms up to a
constant that falls out again. Members of an ensemble are averaged first and tempered then (Rahaman R,
Thiery AH, NeurIPS 2021: pooled, then calibrated).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

_RANGE: Final = (0.05, 20.0)
_LEAST: Final = 1e-30
"""A probability of 0 is one too small for float32."""


def temper(probabilities: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """Divide logits by a temperature.

    Args:
        probabilities: [N, K], each row sums to 1; or [N, 1] of the second of two classes.
        temperature: above 1 makes less sure.

    Returns:
        float32 of the same shape.
    """
    rows = in_classes(probabilities)
    logits = np.log(np.maximum(rows, _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    tempered = powers / powers.sum(axis=1, keepdims=True)
    return np.asarray(tempered[:, -probabilities.shape[1] :], np.float32)


def in_classes(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give a column for each class, [N, K], float64, also where a network gives one for two."""
    exact = np.asarray(probabilities, np.float64)
    return np.concatenate([1 - exact, exact], axis=1) if exact.shape[1] == 1 else exact


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Find the temperature under which labels are likeliest.

    Args:
        probabilities: as `temper`.
        labels: [N], int64, true classes.

    Returns:
        a temperature from 0.05 to 20.

    Raises:
        ValueError: if there are no frames.
    """
    if not len(labels):
        raise ValueError("a temperature is fitted on labeled frames; received none")

    def loss(log_temperature: float) -> float:
        tempered = in_classes(temper(probabilities, float(np.exp(log_temperature))))
        return float(-np.log(np.maximum(tempered[np.arange(len(labels)), labels], _LEAST)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
