"""What the GAN is trained for: hypertrophy in a4c frames (2 classes), or the view (15; paper, Table 4)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from echo_models.datasets import Known, LabeledFrames, Split
from echo_models.errors import DatasetError
from echo_models.evaluation import measure_classes
from echo_models.fitting import Run
from echo_models.gan.batches import Frames, Labels
from echo_models.gan.options import GanOptions, GanSchedule
from echo_models.gan.training import classify, train_gan
from echo_models.preprocessing import apply_mask
from echo_models.training import Trained
from echo_models.views import A4C, VIEWS

GanTask = Literal["lvh", "view"]

GRADES = ("normal", "lvh")


def train_semi_supervised(
    task: GanTask,
    data: Split,
    others: Sequence[LabeledFrames],
    *,
    schedule: GanSchedule,
    options: GanOptions,
    run: Run,
) -> Trained:
    """Train the GAN on the labeled frames of a split, and on all others as unlabeled ones.

    Frames are masked by their field of view.

    Args:
        task: "lvh" learns from a4c frames alone, "view" from all.
        data: labeled frames; those without the label that the task needs are unlabeled ones.
        others: more unlabeled frames, whatever labels they have. Without any, the labeled ones are
            learned from a second time, as unlabeled ones.
        schedule: how long and how fast.
        options: what the paper leaves open.
        run: preset, seed, folder and progress.

    Raises:
        DatasetError: if a part of the split has no frame with a label.
        TrainingError: if training diverges.
    """
    train, validation, test = (_labeled(task, part) for part in (data.train, data.validation, data.test))
    unlabeled = [_masked(frames) for frames in (_unlabeled(task, data.train), *others)]
    classes = GRADES if task == "lvh" else VIEWS
    gan = train_gan(
        _masked(train),
        _targets(task, train),
        np.concatenate(unlabeled) if any(map(len, unlabeled)) else _masked(train),
        classes=len(classes),
        preset=run.preset,
        schedule=schedule,
        options=options,
        validation=(_masked(validation), _targets(task, validation)),
        seed=run.seed,
        folder=run.folder,
        precision=run.precision,
        on_step=run.on_step,
    )
    predicted = classify(gan.classifier, _masked(test)).argmax(axis=1)
    metrics = measure_classes(_targets(task, test), predicted, test.subjects, classes)
    return Trained(task, gan.classifier, classes, "fov", metrics, gan.log)


def _needed(task: GanTask) -> Known:
    return Known.VIEW | Known.HYPERTROPHY if task == "lvh" else Known.VIEW


def _labeled(task: GanTask, part: LabeledFrames) -> LabeledFrames:
    """Keep the frames whose label is known, of a4c for hypertrophy.

    Raises:
        DatasetError: if there is none.
    """
    labeled = part.knowing(_needed(task))
    if task == "lvh":
        labeled = labeled.take(labeled.views == VIEWS.index(A4C))
    if not len(labeled):
        what = f"{A4C} frames with a grade of hypertrophy" if task == "lvh" else "frames with a view"
        raise DatasetError(f"the GAN needs {what} in each part of the split; one has none. Label some more")
    return labeled


def _unlabeled(task: GanTask, part: LabeledFrames) -> LabeledFrames:
    """Keep the frames without the label; for hypertrophy those that are, or may be, a4c frames."""
    unknown = ~part.knows(_needed(task))
    if task == "lvh":
        maybe = ~part.knows(Known.VIEW) | (part.views == VIEWS.index(A4C))
        unknown = maybe & ~part.knows(Known.HYPERTROPHY)
    return part.take(unknown)


def _targets(task: GanTask, labeled: LabeledFrames) -> Labels:
    targets: Any = labeled.hypertrophy if task == "lvh" else labeled.views
    return np.asarray(targets, np.int64)


def _masked(labeled: LabeledFrames) -> Frames:
    return apply_mask(labeled.frames, labeled.fov_masks)
