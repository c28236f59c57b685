"""The labeled frames of the nightly job: phantom frames to learn from, to calibrate on and to judge by.

All are synthetic, until a site brings labels of its own. The sets to calibrate on and to judge by come from
seeds of their own that no training may use, so every model of every night is judged by the same frames, of
subjects that none of them has seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_jobs.retrain_settings import Task
from echo_models.datasets import LabeledFrames, Plan, render
from echo_models.errors import DatasetError
from echo_models.manifest import Mask
from echo_models.preprocessing import apply_mask
from echo_models.views import A4C, VIEWS

TEST_SEED: Final = 2018_12_18
"""Seed of the fixed set; no training uses it."""

VALIDATION_SEED: Final = TEST_SEED + 1
"""Seed of the set to calibrate on."""

_LEAST_VALIDATION_SUBJECTS: Final = 20
"""Calibration needs some of each class."""

CLASSES: Final[Mapping[Task, tuple[str, ...]]] = {"lvh": ("normal", "lvh"), "view": VIEWS}


@dataclass(frozen=True, slots=True)
class LabeledSets:
    """Frames to learn from, to calibrate on and to judge by; nobody is in two of them.

    Attributes:
        train: frames of many subjects.
        validation: a quarter as many, or a few more, to calibrate on.
        test: the fixed set.
    """

    train: LabeledFrames
    validation: LabeledFrames
    test: LabeledFrames


def render_labeled_sets(
    task: Task, *, seed: int, train_subjects: int, test_subjects: int, cache: Path | None = None
) -> LabeledSets:
    """Render the sets, half of the subjects with hypertrophy.

    Two apical four-chamber frames a subject to tell hypertrophy, one frame of each view to name views.

    Args:
        task: what the frames are for.
        seed: of the training frames.
        train_subjects: how many to learn from.
        test_subjects: how many to judge by.
        cache: a folder that keeps what was rendered; None to render always.

    Raises:
        DatasetError: two sets share a frame.
    """
    views, frames_per_clip = ((A4C,), 2) if task == "lvh" else (VIEWS, 1)
    train, validation, test = (
        render(
            Plan(seed=of_set, subjects=subjects, views=views, frames_per_clip=frames_per_clip), cache=cache
        )
        for of_set, subjects in (
            (seed, train_subjects),
            (VALIDATION_SEED, max(_LEAST_VALIDATION_SUBJECTS, train_subjects // 4)),
            (TEST_SEED, test_subjects),
        )
    )
    shared = set[bytes]().union(
        *(one & other for one, other in combinations(map(_digests, (train, validation, test)), 2))
    )
    if shared:
        raise DatasetError(
            f"frames to learn from and frames to judge by must differ, and {len(shared)} are in both; "
            f"choose another seed than {seed}"
        )
    return LabeledSets(train, validation, test)


def masked_frames(labeled: LabeledFrames, mask: Mask) -> npt.NDArray[np.uint8]:
    """Mask frames as a bundle's contract asks, with the phantom's true masks.

    True masks, not predicted ones: one model is judged here, not what segments before it.

    Returns:
        [N, 120, 160], uint8.
    """
    match mask:
        case "fov":
            return apply_mask(labeled.frames, labeled.fov_masks)
        case "lv":
            return apply_mask(labeled.frames, labeled.lv_masks)
        case "none":
            return labeled.frames


def labels_of(task: Task, labeled: LabeledFrames) -> npt.NDArray[np.int64]:
    """Give the class of each frame, an index into `CLASSES`: [N], int64."""
    return labeled.hypertrophy.astype(np.int64) if task == "lvh" else labeled.views


def _digests(labeled: LabeledFrames) -> set[bytes]:
    return {sha256(frame.tobytes()).digest() for frame in labeled.frames}
