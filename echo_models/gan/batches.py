"""The frames of one epoch of the GAN, batch after batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from echo_models.augment import Augmentation, jitter, move
from echo_models.errors import DatasetError
from echo_models.gan.options import GanSchedule
from echo_models.preprocessing import shrink, to_input

Frames = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_MEASURED: Final = 256
"""Labeled and as many unlabeled frames, with which batch normalisation is measured before use."""


@dataclass(frozen=True, slots=True, eq=False)
class GanFrames:
    """What a GAN learns from.

    Attributes:
        labeled: [L, H, W], uint8, masked as frames will be in use.
        labels: [L], int64, 0 to K - 1.
        unlabeled: [M, H, W], uint8, masked likewise.
    """

    labeled: Frames
    labels: Labels
    unlabeled: Frames

    def check(self, classes: int) -> None:
        """Refuse what nothing can be learned from.

        Raises:
            DatasetError: if there are no labeled or no unlabeled frames, or a label is not a class.
        """
        if not (len(self.labeled) and len(self.unlabeled) and len(self.labeled) == len(self.labels)):
            raise DatasetError(
                "the GAN needs unlabeled frames and labeled frames with one label each; received "
                f"{len(self.labeled)} labeled, {len(self.labels)} labels, {len(self.unlabeled)} unlabeled"
            )
        if self.labels.min() < 0 or self.labels.max() >= classes:
            raise DatasetError(
                f"labels must be 0 to {classes - 1}; received {self.labels.min()} to {self.labels.max()}"
            )

    def shrunk(self, size: int) -> "GanFrames":
        """Bring the frames to the size of the networks: [N, size, size]."""
        return GanFrames(shrink(self.labeled, size, size), self.labels, shrink(self.unlabeled, size, size))

    def mixture(self, seed: int) -> npt.NDArray[np.float32]:
        """Draw labeled and as many unlabeled frames, to measure on: [N, H, W, 1], float32, -1 to 1."""
        rng = np.random.default_rng(seed)
        parts = [
            frames[rng.permutation(len(frames))[:_MEASURED]] for frames in (self.labeled, self.unlabeled)
        ]
        return signed(rng.permutation(np.concatenate(parts)))


class Batches:
    """One epoch: a pass over the unlabeled frames, with as many labeled ones, which repeat.

    Gives ((labeled, unlabeled), labels): frames [B, H, W, 1], float32, -1 to 1; labels [B], int64.
    """

    def __init__(
        self, frames: GanFrames, schedule: GanSchedule, augmentation: Augmentation, seed: tuple[int, int]
    ) -> None:
        """Draw the order.

        Args:
            frames: of the size of the networks.
            schedule: batch size and budget.
            augmentation: of labeled and unlabeled frames.
            seed: the same seed gives the same batches.
        """
        self._rng = np.random.default_rng(seed)
        self._frames, self._size, self._augmentation = frames, schedule.batch_size, augmentation
        steps = max(1, len(frames.unlabeled) // schedule.batch_size)
        self._steps = steps if schedule.max_steps is None else min(steps, schedule.max_steps)
        self._unlabeled_order = self._endless_order(len(frames.unlabeled))
        self._labeled_order = self._endless_order(len(frames.labeled))

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[tuple[Any, Any], Labels]]:
        for start in range(0, self._steps * self._size, self._size):
            ours = self._labeled_order[start : start + self._size]
            others = self._unlabeled_order[start : start + self._size]
            inputs = self._changed(self._frames.labeled[ours]), self._changed(self._frames.unlabeled[others])
            yield inputs, self._frames.labels[ours]

    def _endless_order(self, count: int) -> npt.NDArray[np.intp]:
        """Give an index for each place in a batch: shuffled passes over `count`, one after another."""
        wanted = self._steps * self._size
        passes = [self._rng.permutation(count) for _ in range(-(-wanted // count))]
        return np.concatenate(passes)[:wanted]

    def _changed(self, frames: Frames) -> npt.NDArray[np.float32]:
        """Change frames at random and bring them to the range of tanh."""
        if self._augmentation.rotation_degrees or self._augmentation.shift_ratio:
            (frames,) = move((frames,), self._augmentation, self._rng)
        if self._augmentation.jitter:
            frames = jitter(frames, self._augmentation.jitter, self._rng)
        return signed(frames)


def signed(frames: Frames) -> npt.NDArray[np.float32]:
    """Bring frames [N, H, W], uint8, to the range of tanh: [N, H, W, 1], float32, -1 to 1."""
    return to_input(frames) * np.float32(2) - np.float32(1)
