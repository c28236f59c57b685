"""Which network names views best (paper, Table 2 and Fig. 5)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from echo_models.augment import Augmentation
from echo_models.datasets import Examples, LabeledFrames, Plan, Split, split_by_subject
from echo_models.experiments.code import code_of
from echo_models.experiments.results import Facts, Result, Shelf
from echo_models.experiments.runs import Exam, Stopwatch, describe_data, measure
from echo_models.experiments.setups import Setup
from echo_models.experiments.sizes import SIZES, Size
from echo_models.fitting import Run, Schedule, fit
from echo_models.manifest import sha256_of
from echo_models.networks import build_view_classifier
from echo_models.preprocessing import apply_mask, shrink
from echo_models.training import ENSEMBLE_SIZE, train_views
from echo_models.transfer import SIZE, build_resnet50, build_vgg16, convolutional_base
from echo_models.views import VIEWS

NAME: Final = "views"
TRANSFER: Final = ("resnet50", "vgg16")

# The paper's rates and augmentation, with batches that a 224 x 224 network can hold.
_AUGMENTATION: Final = Augmentation(rotation_degrees=5, shift_ratio=0.1, across_ratio=0.15)
SCHEDULES: Final[Mapping[str, Schedule]] = {
    "resnet50": Schedule(20, 32, 0.01, 0.96, patience=2, augmentation=_AUGMENTATION),
    "vgg16_stage1": Schedule(10, 32, 0.02, 0.9, patience=2, augmentation=_AUGMENTATION),
    "vgg16_stage2": Schedule(10, 32, 0.001, 0.9, patience=2, augmentation=_AUGMENTATION),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Bench:
    """What every arm works with."""

    facts: Facts
    amounts: Size
    data: Split
    run: Run
    imagenet: Mapping[str, Path]
    random_transfer: bool


_Train = Callable[[_Bench, Mapping[str, Any]], Result]


def compare_views(setup: Setup, *, imagenet: Mapping[str, Path], random_transfer: bool) -> list[str]:
    """Train the paper's five view classifiers on the same frames, and keep each result.

    Args:
        setup: how.
        imagenet: files of ImageNet weights, by "resnet50" and "vgg16".
        random_transfer: train these two from random weights where there is no file.

    Returns:
        What was not trained for want of ImageNet weights.

    Raises:
        TrainingError: if training diverges or weights cannot be read.
    """
    amounts, seed = SIZES[setup.size], setup.seed
    plan = Plan(seed=seed, subjects=amounts.subjects)
    labeled = setup.render(plan)
    data = split_by_subject(labeled, seed=seed, test_ratio=amounts.test_ratio)
    bench = _Bench(
        facts=Facts(
            NAME, setup.size, seed, code_of(__name__), describe_data(dataclasses.asdict(plan), labeled, data)
        ),
        amounts=amounts,
        data=data,
        run=amounts.run(seed, setup.on_step),
        imagenet=imagenet,
        random_transfer=random_transfer,
    )
    shelf = Shelf(setup.folder)
    for arm, settings, train in _arms(bench):
        # The ensemble's first member is the masked CNN: it is found among that one's checkpoints.
        checkpoints = bench.facts.checkpoints(setup.folder, "masked" if arm == "ensemble" else arm, settings)
        placed = dataclasses.replace(bench, run=dataclasses.replace(bench.run, folder=checkpoints))
        shelf.obtain(bench.facts, arm, settings, partial(train, placed, settings))
    return [] if random_transfer else [name for name in TRANSFER if name not in imagenet]


def _arms(bench: _Bench) -> Iterator[tuple[str, dict[str, Any], _Train]]:
    network = {"network": bench.run.preset, "schedule": bench.run.schedules["view"]}
    yield "plain", network, _plain
    yield "masked", network, partial(_masked, members=1)
    yield "ensemble", network, partial(_masked, members=ENSEMBLE_SIZE)
    for name, train in (("resnet50", _resnet50), ("vgg16", _vgg16)):
        weights = bench.imagenet.get(name)
        if weights is not None or bench.random_transfer:
            start = "random" if weights is None else sha256_of(weights)
            yield name, {"weights": start, "schedules": SCHEDULES}, train


def _plain(bench: _Bench, settings: Mapping[str, Any]) -> Result:
    train, validation, test = (
        Examples(part.frames, None, part.views)
        for part in (bench.data.train, bench.data.validation, bench.data.test)
    )
    keras.utils.set_random_seed(bench.run.seed)
    model = build_view_classifier(bench.run.preset, "max", name="plain")
    stopwatch = Stopwatch(bench.run.on_step)
    log = fit(
        model,
        "sparse_categorical_crossentropy",
        train,
        validation,
        stage="plain",
        schedule=bench.run.schedules["view"],
        run=dataclasses.replace(bench.run, on_step=stopwatch),
    )
    names = ("plain", "CNN, whole frames")
    return _result(bench, names, model, test, settings=settings, log=log, stopwatch=stopwatch)


def _masked(bench: _Bench, settings: Mapping[str, Any], members: int) -> Result:
    """Train one masked CNN, or three; the first of the three is found among the checkpoints."""
    stopwatch = Stopwatch(bench.run.on_step)
    trained = train_views(bench.data, dataclasses.replace(bench.run, on_step=stopwatch), members)
    test = Examples(bench.data.test.frames, bench.data.test.fov_masks, bench.data.test.views)
    names = (
        ("masked", "CNN, masked frames") if members == 1 else ("ensemble", "ensemble of three masked CNNs")
    )
    return _result(bench, names, trained.model, test, settings=settings, log=trained.log, stopwatch=stopwatch)


def _resnet50(bench: _Bench, settings: Mapping[str, Any]) -> Result:
    train, validation, test = _large_examples(bench)
    keras.utils.set_random_seed(bench.run.seed)
    model = build_resnet50(bench.imagenet.get("resnet50"))
    stopwatch = Stopwatch(bench.run.on_step)
    log = fit(
        model,
        "sparse_categorical_crossentropy",
        train,
        validation,
        stage="resnet50",
        schedule=_shortened(bench, "resnet50"),
        run=dataclasses.replace(bench.run, on_step=stopwatch),
    )
    names = ("resnet50", "ResNet50, masked frames")
    return _result(bench, names, model, test, settings=settings, log=log, stopwatch=stopwatch)


def _vgg16(bench: _Bench, settings: Mapping[str, Any]) -> Result:
    train, validation, test = _large_examples(bench)
    keras.utils.set_random_seed(bench.run.seed)
    preset = bench.run.preset
    model = build_vgg16(
        bench.imagenet.get("vgg16"), units=preset.cnn_dense, l2=preset.view_l2, dropout=preset.view_dropout
    )
    stopwatch = Stopwatch(bench.run.on_step)
    log: list[dict[str, Any]] = []
    for stage, all_learn in (("vgg16_stage1", False), ("vgg16_stage2", True)):
        convolutional_base(model).trainable = all_learn
        log += fit(
            model,
            "sparse_categorical_crossentropy",
            train,
            validation,
            stage=stage,
            schedule=_shortened(bench, stage),
            run=dataclasses.replace(bench.run, on_step=stopwatch),
        )
    names = ("vgg16", "VGG16, masked frames")
    return _result(bench, names, model, test, settings=settings, log=log, stopwatch=stopwatch)


def _shortened(bench: _Bench, stage: str) -> Schedule:
    schedule = SCHEDULES[stage]
    return (
        schedule
        if bench.amounts.epochs is None
        else dataclasses.replace(schedule, epochs=bench.amounts.epochs)
    )


def _large_examples(bench: _Bench) -> tuple[Examples, Examples, Examples]:
    """Give masked frames at the size of the ImageNet networks."""
    train, validation, test = bench.data.train, bench.data.validation, bench.data.test
    most = bench.amounts.transfer_frames
    if most is not None and len(train) > most:
        chosen = np.zeros(len(train), np.bool_)
        chosen[np.random.default_rng(bench.run.seed).permutation(len(train))[:most]] = True
        train = train.take(chosen)
    return _enlarged(train), _enlarged(validation), _enlarged(test)


def _enlarged(part: LabeledFrames) -> Examples:
    return Examples(shrink(apply_mask(part.frames, part.fov_masks), SIZE, SIZE), None, part.views)


def _result(
    bench: _Bench,
    names: tuple[str, str],
    model: keras.Model,
    test: Examples,
    *,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    stopwatch: Stopwatch,
) -> Result:
    random = settings.get("weights") == "random"
    return measure(
        bench.facts,
        *names,
        model,
        Exam(test, bench.data.test.subjects, VIEWS),
        settings=settings,
        log=log,
        stopwatch=stopwatch,
        note="from random convolutions: no ImageNet weights were given" if random else "",
    )
