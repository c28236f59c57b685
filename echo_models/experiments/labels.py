"""How many labels a class it takes to name views (paper, Table 4 and Fig. 8)."""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np

from echo_models.datasets import Plan
from echo_models.experiments.few_labels import (
    QUICK,
    TOY,
    Budget,
    People,
    Question,
    set_up,
)
from echo_models.experiments.methods import METHODS, draw_labels
from echo_models.experiments.setups import Setup
from echo_models.gan import GAN_SCHEDULES, GanSchedule
from echo_models.networks import PRESETS
from echo_models.views import VIEWS

NAME: Final = "labels"
ALL: Final = "all"

COUNTS: Final = (1, 5, 15, 30, 90, 270, 810)
"""Labels a class (paper, Table 4); those that the frames have, and then all."""

QUESTION: Final = Question(VIEWS, Plan(seed=0, subjects=0), "fov")

BUDGETS: Final[Mapping[str, Budget]] = {
    "toy": Budget(TOY, GanSchedule(1, 8, 0.002, 0.7, max_steps=2), People(2, 1, 2)),
    "small": Budget(QUICK, GanSchedule(6, 32, 0.002, 0.7, max_steps=90), People(80, 100, 40)),
    "medium": Budget(
        dataclasses.replace(QUICK, gan_size=56, discriminator_filters=(16, 32, 64, 64, 64)),
        GanSchedule(20, 32, 0.001, 0.7, max_steps=100),
        People(450, 400, 100),
    ),
    "paper": Budget(PRESETS["paper"], GAN_SCHEDULES["paper"], People(2000, 2000, 300)),
}


def compare_label_counts(setup: Setup, *, site: str) -> None:
    """Train each method with each number of labels, and keep each result.

    Args:
        setup: how; its size is one of `BUDGETS`.
        site: that the unlabeled frames come from; "home" for the paper's own question.

    Raises:
        TrainingError: if training diverges.
    """
    bench = set_up(NAME, QUESTION, setup, module=__name__, budget=BUDGETS[setup.size], site=site)
    fewest = int(np.bincount(bench.labels).min())
    for count in (*(count for count in COUNTS if count < fewest), None):
        given = draw_labels(bench.labels, count, setup.seed)
        shown = ALL if count is None else str(count)
        for method, title in METHODS.items():
            bench.run(method, f"{method}_{shown}", f"{title}, {shown} labels a class", given)
