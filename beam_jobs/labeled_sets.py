"""The labeled frames of the nightly job: phantom frames to learn from, and a fixed set to judge by.

Both are synthetic, until a site brings labels of its own. The fixed set comes from a seed of its own
that no training may use, so every model of every night is judged by the same frames, of subjects that
none of them has seen.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from echo_models.datasets import LabeledFrames, Plan, render
from echo_models.errors import DatasetError
from echo_models.manifest import Mask
from echo_models.preprocessing import apply_mask
from echo_models.views import A4C

TEST_SEED: Final = 2018_12_18
"""Seed of the fixed set; no training uses it."""

CLASSES: Final = ("normal", "lvh")


@dataclass(frozen=True, slots=True)
class LabeledSets:
    """Frames to learn from and frames to judge by; nobody is in both.

    Attributes:
        train: apical four-chamber frames of many subjects.
        test: the fixed set.
    """

    train: LabeledFrames
    test: LabeledFrames


def render_labeled_sets(
    *, seed: int, train_subjects: int, test_subjects: int, cache: Path | None = None
) -> LabeledSets:
    """Render both sets, two frames a subject, half of the subjects with hypertrophy.

    Args:
        seed: of the training frames.
        train_subjects: how many to learn from.
        test_subjects: how many to judge by.
        cache: a folder that keeps what was rendered; None to render always.

    Raises:
        DatasetError: the two sets share a frame.
    """
    train, test = (
        render(Plan(seed=of_set, subjects=subjects, views=(A4C,)), cache=cache)
        for of_set, subjects in ((seed, train_subjects), (TEST_SEED, test_subjects))
    )
    shared = _digests(train) & _digests(test)
    if shared:
        raise DatasetError(
            f"frames to learn from and frames to judge by must differ, and {len(shared)} are in both; "
            f"choose another seed than {seed}"
        )
    return LabeledSets(train, test)


def masked_frames(labeled: LabeledFrames, mask: Mask) -> npt.NDArray[np.uint8]:
    """Mask frames as a bundle's contract asks, with the phantom's true masks.

    True masks, not predicted ones: hypertrophy is judged here, not what segments before it.

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


def hypertrophy_labels(labeled: LabeledFrames) -> npt.NDArray[np.int64]:
    """Give the class of each frame, an index into `CLASSES`: [N], int64."""
    return labeled.hypertrophy.astype(np.int64)


def _digests(labeled: LabeledFrames) -> set[bytes]:
    return {sha256(frame.tobytes()).digest() for frame in labeled.frames}
