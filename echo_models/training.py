"""Training of the supervised networks.

Reads from top to bottom: config, data, and for each network model and loss. The loop they share is
`echo_models.fitting`. The paper's schedules are `SCHEDULES["paper"]`; where `SCHEDULES["small"]`
differs it says why.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import keras
import numpy as np

from echo_models.augment import Augmentation
from echo_models.datasets import Examples, Known, LabeledFrames, Split
from echo_models.errors import DatasetError
from echo_models.evaluation import constant_mask, measure_classes, measure_outlines
from echo_models.fitting import Run, Schedule, fit, predict
from echo_models.manifest import Interval, Mask
from echo_models.networks import (
    PRESETS,
    build_ensemble,
    build_hypertrophy_classifier,
    build_unet,
    build_view_classifier,
    convolution_layers,
)
from echo_models.views import A4C, VIEWS

# --- config -----------------------------------------------------------------------------------------


# In use a mask comes from a network and the frame from a machine the phantom never saw: see Augmentation.
_FOV = Augmentation(jitter=1.0, mask_growth_px=(0, 8), unmasked_share=0.5)
_MASKED = Augmentation(jitter=1.0, mask_growth_px=(-3, 3), unmasked_share=0.15)
_LV_MASKED = Augmentation(jitter=1.0, mask_growth_px=(-2, 2))

SCHEDULES: Final[Mapping[str, Mapping[str, Schedule]]] = {
    # The paper names no batch size for the U-Nets; 512 is the authors' code's for the CNN.
    "paper": {
        "fov": Schedule(50, 16, 1e-4, 0.93),
        "lv": Schedule(50, 16, 1e-4, 0.93),
        "view": Schedule(50, 512, 0.02, 0.85, patience=2),
        "lvh_stage1": Schedule(20, 64, 0.025, 0.85),
        "lvh_stage2": Schedule(50, 64, 0.001, 0.9, patience=2),
    },
    # Small nets and batches diverge at 0.02: Adam's usual 0.001 to 0.003 instead, and fewer epochs, since
    # the phantom renders as many different frames as are wanted.
    "small": {
        "fov": Schedule(6, 16, 2e-3, 0.75, augmentation=_FOV),
        "lv": Schedule(14, 8, 2e-3, 0.85, augmentation=_MASKED),
        "view": Schedule(16, 64, 3e-3, 0.85, patience=3, augmentation=_MASKED),
        "lvh_stage1": Schedule(8, 32, 2e-3, 0.85, augmentation=_LV_MASKED),
        "lvh_stage2": Schedule(12, 32, 1e-3, 0.85, patience=3, augmentation=_LV_MASKED),
    },
}

ENSEMBLE_SIZE: Final = 3


def run_of(preset: str, *, epochs: int | None = None, **others: Any) -> Run:
    """Take networks and schedules of a preset, with another number of epochs if one is given.

    Args:
        preset: "paper" or "small".
        epochs: of every stage.
        others: fields of `Run`.
    """
    schedules = SCHEDULES[preset]
    if epochs is not None:
        schedules = {stage: dataclasses.replace(it, epochs=epochs) for stage, it in schedules.items()}
    return Run(PRESETS[preset], schedules, **others)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and what its bundle must say.

    Attributes:
        model: gives probabilities.
        classes: of its output.
        mask: what its frames are masked by.
        metrics: on the test set.
        log: one entry an epoch of each stage.
    """

    task: str
    model: keras.Model
    classes: tuple[str, ...]
    mask: Mask
    metrics: Mapping[str, Interval]
    log: Sequence[Mapping[str, Any]]


# --- data -------------------------------------------------------------------------------------------


def _segmentation_examples(task: str, labeled: LabeledFrames, *, training: bool) -> Examples:
    if task == "fov":
        # In training only: some frames come with their surroundings blanked already, as de-identification
        # leaves them. The mask is grown, so that its edge gives nothing away.
        return Examples(labeled.frames, labeled.fov_masks if training else None, labeled.fov_masks)
    return Examples(labeled.frames, labeled.fov_masks, labeled.lv_masks)


def _a4c_with_ventricle(labeled: LabeledFrames) -> LabeledFrames:
    visible = labeled.lv_masks.any(axis=(1, 2)) | ~labeled.knows(Known.LV)
    return labeled.take((labeled.views == VIEWS.index(A4C)) & visible & labeled.knows(Known.VIEW))


def _with_some(parts: list[LabeledFrames], what: str) -> list[LabeledFrames]:
    """Check that each part of a split has frames to learn from or to judge by.

    Raises:
        DatasetError: if one has none.
    """
    if not all(map(len, parts)):
        raise DatasetError(
            f"each part of the split needs {what}; training, validation and test have "
            f"{', '.join(str(len(part)) for part in parts)}. Bring more subjects, or labels of that kind"
        )
    return parts


# --- the trainings ----------------------------------------------------------------------------------


def train_segmentation(task: Literal["fov", "lv"], data: Split, run: Run) -> Trained:
    """Train a U-Net to outline the field of view, or the left ventricle in a4c frames (paper, Methods).

    Raises:
        DatasetError: if the data has no such frames.
        TrainingError: if the loss is no longer finite.
    """
    parts = [data.train, data.validation, data.test]
    if task == "lv":
        outlined = [_a4c_with_ventricle(part.knowing(Known.LV)) for part in parts]
        parts = _with_some(outlined, f"{A4C} frames with an outline of the left ventricle")
    else:
        outlined = [part.knowing(Known.FOV) for part in parts]
        parts = _with_some(outlined, "frames with an outline of the field of view")
    train, validation, test = (
        _segmentation_examples(task, part, training=part is parts[0]) for part in parts
    )
    keras.utils.set_random_seed(run.seed)
    builder = partial(build_unet, run.preset, name=f"{task}_unet")
    model = run.build(builder)
    # Pixel-wise cross-entropy: -mean over pixels of log p(inside or outside, as it is).
    log = fit(model, "sparse_categorical_crossentropy", train, validation, stage=task, run=run)
    model = run.finish(model, builder)
    probabilities = predict(model, test)[..., 1]
    control = constant_mask(train.targets.astype(bool))
    metrics = measure_outlines(test.targets.astype(bool), probabilities, parts[2].subjects, control)
    return Trained(task, model, ("outside", "inside"), "none" if task == "fov" else "fov", metrics, log)


def train_views(data: Split, run: Run, members: int = ENSEMBLE_SIZE) -> Trained:
    """Train an ensemble of CNNs to name the view of a frame masked by its field of view (paper).

    Members differ by their seed: first weights, order, dropout and augmentation.

    Raises:
        DatasetError: if the data has no frames.
        TrainingError: if the loss is no longer finite.
    """
    named = [part.knowing(Known.VIEW) for part in (data.train, data.validation, data.test)]
    parts = _with_some(named, "frames with a view")
    train, validation, test = (Examples(part.frames, part.fov_masks, part.views) for part in parts)
    models, log = [], []
    for member in range(members):
        seed = run.seed + 1000 * member
        keras.utils.set_random_seed(seed)
        builder = partial(build_view_classifier, run.preset, "average", name=f"member_{member + 1}")
        model = run.build(builder)
        # Categorical cross-entropy: -mean over frames of log p(true view).
        log += fit(
            model,
            "sparse_categorical_crossentropy",
            train,
            validation,
            stage=f"view_member_{member + 1}",
            schedule=run.schedules["view"],
            run=dataclasses.replace(run, seed=seed),
        )
        models.append(run.finish(model, builder))
    classifier = build_ensemble(models) if members > 1 else models[0]
    predicted = predict(classifier, test).argmax(axis=1)
    metrics = measure_classes(parts[2].views, predicted, parts[2].subjects, VIEWS)
    return Trained("view", classifier, VIEWS, "fov", metrics, log)


AfterStage = Callable[[str, keras.Model, list[dict[str, Any]]], None]
"""Takes a stage's name, the model as it is then, and the log so far."""


def train_hypertrophy(
    data: Split,
    run: Run,
    views: keras.Model | None,
    *,
    segmented: bool = True,
    after_stage: AfterStage | None = None,
) -> Trained:
    """Train a CNN to tell hypertrophy in a4c frames masked by their left ventricle (paper, "LVH").

    Args:
        data: frames; those that show no ventricle are left out of training, never of the test.
        run: how.
        views: the view classifier whose convolutions it starts from; of an ensemble, the first member.
            None for random ones, from which the paper's failed to learn.
        segmented: mask frames by their left ventricle; else by their field of view only.
        after_stage: called after each of the two stages.

    Raises:
        DatasetError: if the data has no such frames.
        TrainingError: if the loss is no longer finite.
    """
    needed = Known.VIEW | Known.HYPERTROPHY | (Known.LV if segmented else Known(0))
    graded = [part.knowing(needed) for part in (data.train, data.validation, data.test)]
    test_frames = graded[2].take(graded[2].views == VIEWS.index(A4C))
    parts = _with_some(
        [_a4c_with_ventricle(graded[0]), _a4c_with_ventricle(graded[1]), test_frames],
        f"{A4C} frames with a grade of hypertrophy" + (" and an outline" if segmented else ""),
    )
    train, validation, test = (
        Examples(
            part.frames,
            part.lv_masks if segmented else part.fov_masks,
            part.hypertrophy.astype(np.int64),
        )
        for part in parts
    )
    keras.utils.set_random_seed(run.seed)
    builder = partial(
        build_hypertrophy_classifier, run.preset, views=None if views is None else first_member(views)
    )
    model = run.build(builder)
    convolutions = convolution_layers(model)
    # Stage 1: the dense layers learn; the convolutions stay as the view classifier's.
    # Stage 2: the convolutions learn; the dense layers stay.
    # Both: binary cross-entropy, -mean of y log p + (1 - y) log(1 - p).
    log: list[dict[str, Any]] = []
    for stage, convolutions_learn in (("lvh_stage1", views is None), ("lvh_stage2", True)):
        for layer in model.layers:
            layer.trainable = convolutions_learn if layer in convolutions else stage == "lvh_stage1"
        log += fit(model, "binary_crossentropy", train, validation, stage=stage, run=run)
        if after_stage is not None:
            after_stage(stage, model, log)
    model = run.finish(model, builder)
    predicted = (predict(model, test)[:, 0] > 0.5).astype(np.int64)
    classes = ("normal", "lvh")
    metrics = measure_classes(
        test_frames.hypertrophy.astype(np.int64), predicted, test_frames.subjects, classes
    )
    return Trained("lvh", model, classes, "lv" if segmented else "fov", metrics, log)


def first_member(views: keras.Model) -> keras.Model:
    """Take the first classifier out of an ensemble, or the classifier itself."""
    members = [layer for layer in views.layers if isinstance(layer, keras.Model)]
    return members[0] if members else views
