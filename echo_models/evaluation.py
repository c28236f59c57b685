"""Measures on held-out frames, each with a 95 % bootstrap interval and a control where one is needed.

Frames of one subject are alike, so whole subjects are drawn, not frames: intervals are as wide as the
number of subjects makes them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from echo_models.manifest import Interval

RESAMPLES: Final = 1000
LEVEL: Final = 0.95

Labels = npt.NDArray[np.int64]
Measure = Callable[[npt.NDArray[np.float64]], float]
"""From how often each frame counts, [N], to a value."""


def bootstrap(
    measure: Measure,
    subjects: Labels,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    control: float | None = None,
) -> Interval:
    """Measure, and say how far another draw of subjects would move it (percentile bootstrap).

    Args:
        measure: given how often each frame counts.
        subjects: [N], int64, whose frame it is.
        seed: of the draws.
        resamples: how many.
        control: passed on into the interval.

    Raises:
        ValueError: if there are no frames.
    """
    draws = draw_subjects(subjects, seed=seed, resamples=resamples)
    values = [measure(draw) for draw in draws]
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    whole = measure(np.ones(len(subjects)))
    return Interval(value=whole, low=float(low), high=float(high), n=len(subjects), control=control)


def draw_subjects(subjects: Labels, *, seed: int, resamples: int) -> npt.NDArray[np.float64]:
    """Draw subjects with replacement, many times.

    Returns:
        [resamples, N], float64, how often each frame counts in each draw.

    Raises:
        ValueError: if there are no frames.
    """
    if not len(subjects):
        raise ValueError("nothing can be measured on no frames; received an empty set")
    who, index = np.unique(subjects, return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(who), np.full(len(who), 1 / len(who)), resamples)
    return counts[:, index].astype(np.float64)


# --- classes ----------------------------------------------------------------------------------------


def confusion_matrix(
    labels: Labels, predicted: Labels, classes: int, weights: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Count predictions by class.

    Args:
        labels: [N], int64, true classes.
        predicted: [N], int64.
        classes: K.
        weights: [N], how often each frame counts; None for once.

    Returns:
        [K, K], float64: row is the true class, column the predicted one.
    """
    cells = np.bincount(labels * classes + predicted, weights, classes * classes)
    return cells.reshape(classes, classes).astype(np.float64)


def accuracy_of(confusion: npt.NDArray[np.float64]) -> float:
    """Give the share of frames on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy_of(confusion: npt.NDArray[np.float64]) -> float:
    """Give the mean over the classes present of each one's share found; a constant guess has 1/K."""
    present = confusion.sum(axis=1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(axis=1)[present]).mean())


def f1_of(confusion: npt.NDArray[np.float64]) -> float:
    """Give F1 of the second of two classes, or the mean over the classes present of more."""
    correct = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = 2 * correct / np.where(either, either, 1)
    return float(scores[1] if len(confusion) == 2 else scores[confusion.sum(axis=1) > 0].mean())


def measure_classes(
    labels: Labels, predicted: Labels, subjects: Labels, classes: Sequence[str], *, seed: int = 0
) -> dict[str, Interval]:
    """Measure a classifier: accuracy, balanced accuracy, F1, and what is found of each class.

    For two classes the last are called specificity and sensitivity (paper, "LVH").

    Args:
        labels: [N], int64, true classes.
        predicted: [N], int64.
        subjects: [N], int64.
        classes: names of the K classes.
        seed: of the bootstrap.
    """

    def of_confusion(measure: Callable[[npt.NDArray[np.float64]], float]) -> Interval:
        return bootstrap(
            lambda weights: measure(confusion_matrix(labels, predicted, len(classes), weights)),
            subjects,
            seed=seed,
        )

    metrics = {
        "accuracy": of_confusion(accuracy_of),
        "balanced_accuracy": of_confusion(balanced_accuracy_of),
        "f1": of_confusion(f1_of),
    }
    names = ("specificity", "sensitivity") if len(classes) == 2 else [f"recall_{name}" for name in classes]
    for index, name in enumerate(names):
        ours = labels == index
        if ours.any():
            metrics[name] = bootstrap(_mean_of(predicted[ours] == index), subjects[ours], seed=seed)
    return metrics


# --- certainty --------------------------------------------------------------------------------------

BINS: Final = 15
"""Of confidence, as Guo C et al. (ICML 2017) have them."""


def calibration_error_of(
    confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> float:
    """Give the expected calibration error: how far confidence and share right lie apart, on average.

    Args:
        confidences: [N], float64, probability of the class that was named.
        right: [N], bool, whether it was the true one.
        weights: [N], how often each frame counts.
    """
    place = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(place, weights * (confidences - right), BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def measure_certainty(
    uncalibrated: npt.NDArray[np.float64],
    calibrated: npt.NDArray[np.float64],
    known: npt.NDArray[np.bool_] | None,
    labels: Labels,
    subjects: Labels,
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure what calibration is worth: cross-entropy and calibration error before and after it.

    Args:
        uncalibrated: [N, K], float64, probabilities as the network gives them.
        calibrated: [N, K], float64.
        known: [N], bool, what is not turned away; None where nothing is.
        labels: [N], int64, true classes.
        subjects: [N], int64.
        seed: of the bootstrap.
    """
    metrics = {}
    right = calibrated.argmax(axis=1) == labels
    for suffix, probabilities in (("_uncalibrated", uncalibrated), ("", calibrated)):
        of_truth = np.clip(probabilities[np.arange(len(labels)), labels], 1e-30, 1)
        confidences = probabilities.max(axis=1)
        metrics[f"cross_entropy{suffix}"] = bootstrap(_mean_of(-np.log(of_truth)), subjects, seed=seed)
        metrics[f"calibration_error{suffix}"] = bootstrap(
            partial(calibration_error_of, confidences, right), subjects, seed=seed
        )
    if known is not None:
        metrics["coverage"] = bootstrap(_mean_of(known), subjects, seed=seed)
        if known.any():
            metrics["accuracy_of_known"] = bootstrap(_mean_of(right[known]), subjects[known], seed=seed)
    return metrics


# --- outlines ---------------------------------------------------------------------------------------


def dice_by_frame(
    outlines: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Give the Dice coefficient of each frame; two empty outlines agree.

    Args:
        outlines: [N, H, W], bool, true outlines.
        predicted: [N, H, W] or [1, H, W], bool.

    Returns:
        [N], float64, 0 to 1.
    """
    common = (outlines & predicted).sum(axis=(1, 2))
    total = outlines.sum(axis=(1, 2)) + predicted.sum(axis=(1, 2))
    return np.where(total == 0, 1.0, 2 * common / np.where(total == 0, 1, total))


def constant_mask(outlines: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Give the mask that looks at no frame: what more than half of the outlines hold.

    Args:
        outlines: [N, H, W], bool, of the training frames.

    Returns:
        [1, H, W], bool.
    """
    return np.asarray(outlines.mean(axis=0, keepdims=True) > 0.5)


def measure_outlines(
    outlines: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.float32],
    subjects: Labels,
    control: npt.NDArray[np.bool_],
    *,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure a segmentation: pixel-wise cross-entropy (as the paper) and Dice beside its control.

    Args:
        outlines: [N, H, W], bool, true outlines.
        probabilities: [N, H, W], float32, of inside.
        subjects: [N], int64.
        control: [1, H, W], bool, a mask that looks at no frame.
        seed: of the bootstrap.
    """
    of_truth = np.clip(np.where(outlines, probabilities, 1 - probabilities), 1e-7, 1)
    cross_entropy = -np.log(of_truth).mean(axis=(1, 2))
    dice = dice_by_frame(outlines, probabilities > 0.5)
    return {
        "pixel_cross_entropy": bootstrap(_mean_of(cross_entropy), subjects, seed=seed),
        "dice": bootstrap(
            _mean_of(dice), subjects, seed=seed, control=float(dice_by_frame(outlines, control).mean())
        ),
    }


def _mean_of(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> Measure:
    return lambda weights: float(np.average(values, weights=weights))
