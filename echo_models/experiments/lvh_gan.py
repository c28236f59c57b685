"""Whether unlabeled frames help to tell hypertrophy (paper, Fig. 9 and 10)."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from echo_models.datasets import Plan
from echo_models.experiments.few_labels import QUICK, TOY, Budget, People, Question, set_up
from echo_models.experiments.methods import METHODS
from echo_models.experiments.setups import Setup
from echo_models.gan import GAN_SCHEDULES, GanSchedule
from echo_models.networks import PRESETS
from echo_models.views import A4C

NAME: Final = "lvh-gan"

# The paper's first two frames of a clip, masked by the ventricle; half of the subjects have hypertrophy,
# where the paper had a fifth, so that few frames tell more.
QUESTION: Final = Question(("normal", "lvh"), Plan(seed=0, subjects=0, views=(A4C,), any_phase=False), "lv")

# Walls are thin: at 28 x 28 they are a pixel.
_NARROW: Final = dataclasses.replace(QUICK, gan_size=56)

BUDGETS: Final[Mapping[str, Budget]] = {
    "toy": Budget(TOY, GanSchedule(2, 8, 0.002, 0.7, max_steps=2), People(8, 8, 8), members=2),
    "small": Budget(_NARROW, GanSchedule(8, 32, 0.002, 0.7, max_steps=75), People(60, 1200, 200), members=2),
    "medium": Budget(
        dataclasses.replace(_NARROW, discriminator_filters=(16, 32, 64, 64, 64)),
        GanSchedule(20, 32, 0.001, 0.7, max_steps=100),
        People(600, 2000, 400),
        members=3,
    ),
    # As many as the paper's frames: 957 subjects of two, and 76,404 without labels.
    "paper": Budget(PRESETS["paper"], GAN_SCHEDULES["paper"], People(957, 38_202, 600), members=3),
}


def compare_hypertrophy_methods(setup: Setup, *, site: str) -> None:
    """Train an ensemble by each method, classify the test frames after each epoch, keep each result.

    Args:
        setup: how; its size is one of `BUDGETS`.
        site: that the unlabeled frames come from.

    Raises:
        TrainingError: if training diverges.
    """
    bench = set_up(NAME, QUESTION, setup, module=__name__, budget=BUDGETS[setup.size], site=site)
    for method, title in METHODS.items():
        bench.run(method, method, title, by_epoch=True)
