"""How far labelers agree: Cohen's kappa of views and of LVH, Dice of outlines, with intervals."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from echo_models.evaluation import bootstrap, confusion_matrix, dice_by_frame
from echo_models.labels import QUESTIONS, FrameKey, Label
from echo_models.manifest import Interval
from echo_models.outlines import outline_mask
from echo_models.views import VIEWS

Measure = Literal["kappa", "dice"]

MEASURES: Final[dict[str, Measure]] = {"view": "kappa", "lvh_grade": "kappa", "fov": "dice", "lv": "dice"}

_CLASSES: Final[dict[str, Callable[[Label], int]]] = {
    "view": lambda label: VIEWS.index(str(label.view)),
    "lvh_grade": lambda label: int(bool(label.is_lvh)),
}

Pair = tuple[Label, Label]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two labelers agree on one question.

    Attributes:
        question: a column of the labels; "lvh_grade" is compared as LVH or not (the paper's rule).
        labelers: both.
        measure: kappa or Dice.
        interval: the value with its 95 % interval over subjects, and on how many frames; NaN for a kappa
            where both gave one and the same answer to every frame: there is nothing to agree on.
        equal: the share of frames with the same answer; None for outlines.
    """

    question: str
    labelers: tuple[str, str]
    measure: Measure
    interval: Interval
    equal: float | None


def measure_agreement(labels: Sequence[Label], *, seed: int = 0) -> list[Agreement]:
    """Compare every two labelers on every question, on the frames that both answered.

    Args:
        labels: of any number of labelers.
        seed: of the bootstrap, which draws subjects.

    Raises:
        DatasetError: if a PNG mask cannot be read.
    """
    by_labeler: dict[str, dict[FrameKey, Label]] = defaultdict(dict)
    for label in labels:
        by_labeler[label.labeler][label.frame_key] = label
    found = []
    for first, second in itertools.combinations(sorted(by_labeler), 2):
        both = sorted(by_labeler[first].keys() & by_labeler[second].keys())
        pairs = [(by_labeler[first][key], by_labeler[second][key]) for key in both]
        for question in QUESTIONS:
            answered = [pair for pair in pairs if all(getattr(label, question) is not None for label in pair)]
            if answered:
                compare = _compare_words if MEASURES[question] == "kappa" else _compare_outlines
                found.append(compare(question, (first, second), answered, seed))
    return found


def kappa_of(confusion: npt.NDArray[np.float64]) -> float:
    """Give Cohen's kappa of a table of two labelers' answers: agreement beyond that of chance.

    Args:
        confusion: [K, K], how often the first said the row and the second the column.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where chance alone would agree on everything.
    """
    total = confusion.sum()
    observed = np.trace(confusion) / total
    chance = float(confusion.sum(axis=0) @ confusion.sum(axis=1)) / total**2
    return math.nan if chance >= 1 else float((observed - chance) / (1 - chance))


def _compare_words(question: str, labelers: tuple[str, str], pairs: Sequence[Pair], seed: int) -> Agreement:
    class_of = _CLASSES[question]
    first, second = (np.array([class_of(pair[n]) for pair in pairs]) for n in (0, 1))

    def kappa(weights: npt.NDArray[np.float64] | None) -> float:
        return kappa_of(confusion_matrix(first, second, len(VIEWS), weights))

    value = kappa(None)
    interval = (
        Interval(value=value, low=value, high=value, n=len(pairs))
        if math.isnan(value)
        else bootstrap(kappa, _subjects(pairs), seed=seed)
    )
    return Agreement(question, labelers, "kappa", interval, float((first == second).mean()))


def _compare_outlines(
    question: str, labelers: tuple[str, str], pairs: Sequence[Pair], seed: int
) -> Agreement:
    first, second = (
        np.stack([outline_mask(getattr(pair[n], question), pair[n].folder) for pair in pairs]) for n in (0, 1)
    )
    dice = dice_by_frame(first, second)
    interval = bootstrap(
        lambda weights: float(np.average(dice, weights=weights)), _subjects(pairs), seed=seed
    )
    return Agreement(question, labelers, "dice", interval, None)


def _subjects(pairs: Sequence[Pair]) -> npt.NDArray[np.int64]:
    _, subjects = np.unique(np.array([label.subject_key for label, _ in pairs]), return_inverse=True)
    return subjects.astype(np.int64)
