"""Whether outlining the ventricle helps to tell hypertrophy (paper, Table 3 and Fig. 7)."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import keras
import numpy as np

from echo_models.datasets import Examples, Plan, split_by_subject
from echo_models.experiments.code import code_of
from echo_models.experiments.results import Facts, Shelf
from echo_models.experiments.runs import Exam, Stopwatch, describe_data, measure
from echo_models.experiments.setups import Setup
from echo_models.experiments.sizes import SIZES
from echo_models.training import train_hypertrophy
from echo_models.views import A4C

NAME: Final = "lvh"
CLASSES: Final = ("normal", "lvh")


class Arm(NamedTuple):
    """One way to train.

    Attributes:
        name: of the arm; its stages are appended.
        title: in a table.
        segmented: whether frames are masked by the ventricle, else by the field of view.
        transferred: whether convolutions start from the view classifier's.
    """

    name: str
    title: str
    segmented: bool
    transferred: bool


ARMS: Final = (
    Arm("whole", "whole field of view", segmented=False, transferred=True),
    Arm("segmented", "segmented left ventricle", segmented=True, transferred=True),
    Arm("random", "segmented, from random convolutions", segmented=True, transferred=False),
)
STAGES: Final = ("lvh_stage1", "lvh_stage2")


def compare_hypertrophy(setup: Setup, *, views: tuple[str, keras.Model]) -> None:
    """Train hypertrophy CNNs with and without segmentation, and from random convolutions.

    Each is measured after its first stage (dense layers only) and after its second (convolutions only).

    Args:
        setup: how.
        views: the view classifier to start from, by name; of the size's preset.

    Raises:
        TrainingError: if training diverges.
    """
    amounts, seed = SIZES[setup.size], setup.seed
    # The paper's first two frames of a clip; half of the subjects have hypertrophy, where the paper had a
    # fifth, so that few frames tell more.
    plan = Plan(seed=seed, subjects=amounts.hypertrophy_subjects, views=(A4C,), any_phase=False)
    labeled = setup.render(plan)
    data = split_by_subject(labeled, seed=seed, test_ratio=amounts.test_ratio)
    facts = Facts(
        NAME, setup.size, seed, code_of(__name__), describe_data(dataclasses.asdict(plan), labeled, data)
    )
    shelf = Shelf(setup.folder)
    for arm in ARMS:
        stopwatch = Stopwatch(setup.on_step)
        run = amounts.run(seed, stopwatch)
        settings: dict[str, Any] = {
            "arm": arm,
            "network": run.preset,
            "schedules": [run.schedules[stage] for stage in STAGES],
            "convolutions": views[0] if arm.transferred else "random",
        }
        names = [f"{arm.name}_{stage.removeprefix('lvh_')}" for stage in STAGES]
        if all(shelf.has(name, facts.key(name, settings)) for name in names):
            continue
        masks = data.test.lv_masks if arm.segmented else data.test.fov_masks
        test = Examples(data.test.frames, masks, data.test.hypertrophy.astype(np.int64))
        keep = partial(
            _keep,
            shelf=shelf,
            facts=facts,
            arm=arm,
            exam=Exam(test, data.test.subjects, CLASSES),
            settings=settings,
            stopwatch=stopwatch,
        )
        train_hypertrophy(
            data,
            dataclasses.replace(run, folder=facts.checkpoints(setup.folder, arm.name, settings)),
            views[1] if arm.transferred else None,
            segmented=arm.segmented,
            after_stage=keep,
        )


def _keep(
    stage: str,
    model: keras.Model,
    log: list[dict[str, Any]],
    *,
    shelf: Shelf,
    facts: Facts,
    arm: Arm,
    exam: Exam,
    settings: Mapping[str, Any],
    stopwatch: Stopwatch,
) -> None:
    """Measure a model after one of its stages."""
    number = stage.removeprefix("lvh_stage")
    result = measure(
        facts,
        f"{arm.name}_stage{number}",
        f"{arm.title}, stage {number}",
        model,
        exam,
        settings=settings,
        log=log,
        stopwatch=stopwatch,
    )
    shelf.keep(result)
