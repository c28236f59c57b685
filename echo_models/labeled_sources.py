"""A site's own labels and frames as a source to train on; where labelers differ, the majority holds."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from echo_models.errors import DatasetError
from echo_models.frame_sets import frames_by_key, open_frames
from echo_models.labels import FrameKey, Label, read_labels
from echo_models.outlines import outline_mask
from echo_models.sources import Collector, Source

Word = TypeVar("Word", bound=Hashable)


def load_labels(labels: Path, frames: Path) -> Source:
    """Load labeled frames.

    A frame that somebody labeled is known as far as labelers agree: a view or LVH that most of them give,
    and the pixels that most of them outline. A tie leaves it unknown.

    Args:
        labels: a file of labels, or a folder of files (`echo_models.labels`).
        frames: what they speak of (`echo_models.frame_sets`).

    Raises:
        DatasetError: if either cannot be read, a frame is absent, or a subject differs.
        TableError: if labels have faults.
    """
    by_frame: dict[FrameKey, list[Label]] = defaultdict(list)
    for label in read_labels(labels):
        if not label.is_empty:
            by_frame[label.frame_key].append(label)
    collector = Collector("labels")
    for ref, frame in frames_by_key(open_frames(frames), list(by_frame)):
        said = by_frame[ref.frame_key]
        if any(label.subject_key != ref.subject_key for label in said):
            raise DatasetError(
                f"{labels}: a label must name the subject of its frame; frame {ref.frame_index} of an "
                "instance has another. Correct column subject_key"
            )
        collector.add(
            frame,
            subject=ref.subject_key,
            view=_majority([label.view for label in said]),
            hypertrophy=_majority([label.is_lvh for label in said]),
            fov_mask=_majority_mask([(label.fov, label.folder) for label in said]),
            lv_mask=_majority_mask([(label.lv, label.folder) for label in said]),
        )
    labelers = {label.labeler for said in by_frame.values() for label in said}
    return collector.finish(
        lv_border="epicardium", notes=(f"labels of {len(labelers)} labelers at the site",)
    )


def load_unlabeled(frames: Path) -> Source:
    """Load frames without any label: what a semi-supervised training also learns from.

    Raises:
        DatasetError: if they cannot be read.
    """
    collector, opened = Collector("frames"), open_frames(frames)
    for number, ref in enumerate(opened.refs):
        collector.add(opened.frame(number), subject=ref.subject_key)
    return collector.finish(notes=("frames without labels",))


def _majority(words: Sequence[Word | None]) -> Word | None:
    """Give the word most often said; None where nothing is said or two are said equally often."""
    counts = Counter(word for word in words if word is not None).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _majority_mask(outlines: Sequence[tuple[str | None, Path]]) -> npt.NDArray[np.bool_] | None:
    """Give the pixels inside more than half of the outlines; None where there is no outline."""
    masks = [outline_mask(text, folder) for text, folder in outlines if text is not None]
    return None if not masks else np.asarray(np.mean(masks, axis=0) > 0.5)
