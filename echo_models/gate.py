"""The gate between a new model and production: pure, and says why.

A new model goes in if it is good enough by itself and not worse than the one at work, both on the same
labeled frames. Balanced accuracy is what is compared: with four normal frames to one of hypertrophy, a
model that always says "normal" has 0.8 of accuracy and 0.5 of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from echo_models.evaluation import LEVEL, balanced_accuracy_of, confusion_matrix, draw_subjects


@dataclass(frozen=True, slots=True)
class GateRule:
    """What is asked of a new model.

    Attributes:
        floor: least balanced accuracy, whatever is in production.
        margin: how much worse than production the lower end of the interval may be.
        resamples: draws of subjects.
        seed: of the draws.
    """

    floor: float = 0.6
    margin: float = 0.02
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says.

    Attributes:
        promote: whether the new model goes to work.
        reason: why, in a sentence with its numbers.
        numbers: what it rested on, for history and metrics.
    """

    promote: bool
    reason: str
    numbers: Mapping[str, float]


def decide(
    labels: npt.NDArray[np.int64],
    candidate: npt.NDArray[np.float32],
    production: npt.NDArray[np.float32] | None,
    *,
    subjects: npt.NDArray[np.int64] | None = None,
    rule: GateRule | None = None,
) -> Decision:
    """Decide whether a candidate replaces what is in production.

    Args:
        labels: [N], int64, true classes.
        candidate: [N, K] probabilities, or [N] of the second of two classes.
        production: the same of the model at work, on the same frames; None if there is none.
        subjects: [N], int64, whose frames they are: the bootstrap draws subjects. None if each frame
            is another's.
        rule: None for the default.

    Raises:
        ValueError: if there are no frames, or predictions are not as many as labels.
    """
    rule = rule or GateRule()
    if not len(labels) or any(len(labels) != len(it) for it in (candidate, production) if it is not None):
        raise ValueError(
            "the gate needs labeled frames and a prediction for each; received "
            f"{len(labels)} labels, {len(candidate)} of the candidate, "
            f"{'none' if production is None else len(production)} of production"
        )
    numbers: dict[str, float] = {"n": float(len(labels)), "floor": rule.floor, "margin": rule.margin}
    if not np.isfinite(candidate).all():
        return Decision(
            promote=False, reason="the candidate's probabilities are not all finite", numbers=numbers
        )
    classes = 2 if candidate.ndim == 1 else candidate.shape[1]
    ours = _predicted(candidate)
    numbers["candidate"] = _score(labels, ours, classes)
    if numbers["candidate"] < rule.floor:
        reason = f"balanced accuracy {numbers['candidate']:.3f} is below the floor of {rule.floor:.3f}"
        return Decision(promote=False, reason=reason, numbers=numbers)
    if production is None or not np.isfinite(production).all():
        reason = f"balanced accuracy {numbers['candidate']:.3f}, and nothing usable is in production"
        return Decision(promote=True, reason=reason, numbers=numbers)
    theirs = _predicted(production)
    numbers["production"] = _score(labels, theirs, classes)
    draws = draw_subjects(
        np.arange(len(labels)) if subjects is None else subjects, seed=rule.seed, resamples=rule.resamples
    )
    # Paired: both are scored on the same draw.
    differences = [
        _score(labels, ours, classes, draw) - _score(labels, theirs, classes, draw) for draw in draws
    ]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    numbers |= {"difference_low": float(low), "difference_high": float(high)}
    promote = bool(low >= -rule.margin)
    reason = (
        f"balanced accuracy {numbers['candidate']:.3f} against {numbers['production']:.3f} in production; "
        f"difference {low:+.3f} to {high:+.3f}, {'not ' if promote else ''}below {-rule.margin:+.3f}"
    )
    return Decision(promote=promote, reason=reason, numbers=numbers)


def _predicted(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    if probabilities.ndim == 1:
        return np.asarray(probabilities > 0.5, np.int64)
    return np.asarray(probabilities.argmax(axis=1), np.int64)


def _score(
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    classes: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    return balanced_accuracy_of(confusion_matrix(labels, predicted, classes, weights))
