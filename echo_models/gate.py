"""The gate between a new model and production: pure, and says why.

A new model goes in if it is good enough by itself, in each class too, says how sure it is with reason,
and is not worse than the one at work on the same labeled frames. Balanced accuracy is what is compared:
with four normal frames to one of hypertrophy, a model that always says "normal" has 0.8 of accuracy and
0.5 of this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from echo_models.evaluation import (
    LEVEL,
    balanced_accuracy_of,
    calibration_error_of,
    confusion_matrix,
    draw_subjects,
)

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GateRule:
    """What is asked of a new model.

    Attributes:
        floor: least balanced accuracy, whatever is in production.
        class_floor: least share of each class that is found.
        margin: how much worse than production the lower end of the interval may be.
        max_calibration_error: most that confidence and share right may lie apart, on average.
        resamples: draws of subjects.
        seed: of the draws.
    """

    floor: float = 0.6
    class_floor: float = 0.3
    margin: float = 0.02
    max_calibration_error: float = 0.3
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was asked.

    Attributes:
        name: "bundle", "floor", "class_floor", "calibration" or "production".
        passed: whether the new model may go in as far as this goes.
        finding: what was found, in words.
        numbers: what it rests on.
    """

    name: str
    passed: bool
    finding: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says.

    Attributes:
        checks: all that were made, in order.
    """

    checks: tuple[Check, ...]

    @property
    def promote(self) -> bool:
        """Whether the new model goes to work."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Say why: what failed, or if nothing did, what was found."""
        failed = [check.finding for check in self.checks if not check.passed]
        return "; ".join(failed or [check.finding for check in self.checks])

    @property
    def numbers(self) -> dict[str, float]:
        """Give what it rests on, for history and metrics."""
        return {name: value for check in self.checks for name, value in check.numbers.items()}


def decide(
    labels: Labels,
    candidate: Probabilities,
    production: Probabilities | None,
    *,
    subjects: Labels | None = None,
    classes: Sequence[str] | None = None,
    rule: GateRule | None = None,
) -> Decision:
    """Decide whether a candidate replaces what is in production.

    Args:
        labels: [N], int64, true classes.
        candidate: [N, K] probabilities, or [N] of the second of two classes.
        production: the same of the model at work, on the same frames; None if there is none.
        subjects: [N], int64, whose frames they are: the bootstrap draws subjects. None if each frame
            is another's.
        classes: names of the K classes; None for their numbers.
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
    if not np.isfinite(candidate).all():
        return refuse("the candidate's probabilities are not all finite")
    ours = by_class(candidate)
    names = classes or [f"class {index}" for index in range(ours.shape[1])]
    checks = [
        _check_floor(labels, ours, rule),
        _check_classes(labels, ours, names, rule),
        _check_calibration(labels, ours, rule),
    ]
    if production is None or not np.isfinite(production).all():
        checks.append(Check("production", passed=True, finding="nothing usable is in production"))
    else:
        draws = draw_subjects(
            np.arange(len(labels)) if subjects is None else subjects, seed=rule.seed, resamples=rule.resamples
        )
        checks.append(_check_production(labels, ours, by_class(production), draws, rule))
    return Decision(tuple(checks))


def refuse(finding: str) -> Decision:
    """Keep out a bundle that cannot be used at all."""
    return Decision((Check("bundle", passed=False, finding=finding),))


def by_class(probabilities: Probabilities) -> Probabilities:
    """Give a column for each class also where only the second of two was given: [N, K]."""
    if probabilities.ndim == 1:
        return np.stack([1 - probabilities, probabilities], axis=1)
    return probabilities


def _check_floor(labels: Labels, ours: Probabilities, rule: GateRule) -> Check:
    value = _score(labels, ours)
    passed = value >= rule.floor
    return Check(
        "floor",
        passed,
        f"balanced accuracy {value:.3f}" + ("" if passed else f" is below the floor of {rule.floor:.3f}"),
        {"n": float(len(labels)), "candidate": value, "floor": rule.floor},
    )


def _check_classes(labels: Labels, ours: Probabilities, names: Sequence[str], rule: GateRule) -> Check:
    named = ours.argmax(axis=1)
    found = {names[index]: float((named[labels == index] == index).mean()) for index in np.unique(labels)}
    low = [f"{value:.3f} of {name}" for name, value in found.items() if value < rule.class_floor]
    finding = f"of each class at least {min(found.values()):.3f} is found"
    if low:
        finding = f"found is only {', '.join(low)}, below the floor of {rule.class_floor:.3f} of a class"
    numbers = {"lowest_class": min(found.values()), "class_floor": rule.class_floor}
    return Check("class_floor", not low, finding, numbers)


def _check_calibration(labels: Labels, ours: Probabilities, rule: GateRule) -> Check:
    error = _calibration_error(labels, ours)
    passed = error <= rule.max_calibration_error
    return Check(
        "calibration",
        passed,
        f"calibration error {error:.3f}" + ("" if passed else f" is above {rule.max_calibration_error:.3f}"),
        {"calibration_error": error, "max_calibration_error": rule.max_calibration_error},
    )


def _check_production(
    labels: Labels,
    ours: Probabilities,
    theirs: Probabilities,
    draws: npt.NDArray[np.float64],
    rule: GateRule,
) -> Check:
    """Compare the two, paired: both are scored on the same draws."""
    differences = [_score(labels, ours, draw) - _score(labels, theirs, draw) for draw in draws]
    low, high = (float(it) for it in np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    present = _score(labels, theirs)
    passed = low >= -rule.margin
    return Check(
        "production",
        passed,
        f"balanced accuracy {_score(labels, ours):.3f} against {present:.3f} in production; difference "
        f"{low:+.3f} to {high:+.3f}, {'not ' if passed else ''}below {-rule.margin:+.3f}",
        {
            "production": present,
            "margin": rule.margin,
            "difference_low": low,
            "difference_high": high,
            "production_calibration_error": _calibration_error(labels, theirs),
        },
    )


def _score(
    labels: Labels, probabilities: Probabilities, weights: npt.NDArray[np.float64] | None = None
) -> float:
    predicted = probabilities.argmax(axis=1)
    return balanced_accuracy_of(confusion_matrix(labels, predicted, probabilities.shape[1], weights))


def _calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    right = probabilities.argmax(axis=1) == labels
    return calibration_error_of(probabilities.max(axis=1).astype(np.float64), right, np.ones(len(labels)))
