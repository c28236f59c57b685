"""How much of a frame naming its view needs (paper, Table 1 and Fig. 2)."""

import dataclasses
from typing import Final, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from echo_models.datasets import Examples, LabeledFrames, Plan, split_by_subject
from echo_models.experiments.code import code_of
from echo_models.experiments.results import Facts, Shelf
from echo_models.experiments.runs import Exam, Stopwatch, describe_data, measure
from echo_models.experiments.setups import Setup
from echo_models.experiments.sizes import SIZES
from echo_models.fitting import fit
from echo_models.networks import Pooling, build_view_classifier
from echo_models.preprocessing import shrink
from echo_models.views import VIEWS

NAME: Final = "resolution"


class Arm(NamedTuple):
    """One resolution, with the pooling and the first filters that the paper found best for it."""

    rows: int
    columns: int
    pooling: Pooling
    first_kernel: int

    @property
    def name(self) -> str:
        """Name the arm."""
        return f"{self.rows}x{self.columns}"

    @property
    def title(self) -> str:
        """Name it in a table."""
        return f"{self.rows} x {self.columns}, {self.pooling} pooling"


ARMS: Final = (
    Arm(240, 320, "max", 7),
    Arm(120, 160, "max", 3),
    Arm(60, 80, "max", 3),
    Arm(30, 40, "average", 3),
    Arm(15, 20, "average", 3),
)


def compare_resolutions(
    setup: Setup,
) -> None:
    """Train one view CNN for each resolution on the same frames, and keep each result.

    Args:
        setup: how.

    Raises:
        TrainingError: if training diverges.
    """
    amounts, seed = SIZES[setup.size], setup.seed
    finest = ARMS[0]
    plan = Plan(seed=seed, subjects=amounts.resolution_subjects, rows=finest.rows, columns=finest.columns)
    labeled = setup.render(plan)
    data = split_by_subject(labeled, seed=seed, test_ratio=amounts.test_ratio)
    facts = Facts(
        NAME, setup.size, seed, code_of(__name__), describe_data(dataclasses.asdict(plan), labeled, data)
    )
    run = amounts.run(seed, setup.on_step)
    schedule = dataclasses.replace(run.schedules["view"], patience=2)
    shelf = Shelf(setup.folder)
    for arm in ARMS:
        settings = {"arm": arm, "network": amounts.sharp, "schedule": schedule}
        if shelf.has(arm.name, facts.key(arm.name, settings)):
            continue
        train, validation, test = (_examples(part, arm) for part in (data.train, data.validation, data.test))
        keras.utils.set_random_seed(seed)
        model = build_view_classifier(
            amounts.sharp,
            arm.pooling,
            rows=arm.rows,
            columns=arm.columns,
            first_kernel=arm.first_kernel,
        )
        stopwatch = Stopwatch(setup.on_step)
        log = fit(
            model,
            "sparse_categorical_crossentropy",
            train,
            validation,
            stage=f"resolution_{arm.name}",
            schedule=schedule,
            run=dataclasses.replace(
                run, on_step=stopwatch, folder=facts.checkpoints(setup.folder, arm.name, settings)
            ),
        )
        shelf.keep(
            measure(
                facts,
                arm.name,
                arm.title,
                model,
                Exam(test, data.test.subjects, VIEWS),
                settings=settings,
                log=log,
                stopwatch=stopwatch,
            )
        )


def _examples(part: LabeledFrames, arm: Arm) -> Examples:
    frames: npt.NDArray[np.uint8] = shrink(part.frames, arm.rows, arm.columns)
    return Examples(frames, None, part.views)
