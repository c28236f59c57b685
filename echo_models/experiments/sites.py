"""What a site gains from its own unlabeled frames, when all labels are the phantom's."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from echo_models.challengers import SUPERVISED
from echo_models.experiments.few_labels import QUICK, TOY, Budget, People, set_up
from echo_models.experiments.labels import QUESTION
from echo_models.experiments.methods import METHODS
from echo_models.experiments.setups import Setup
from echo_models.gan import GAN_SCHEDULES, GanSchedule
from echo_models.networks import PRESETS
from echo_models.phantom import HOME, SITES

NAME: Final = "sites"
ORACLE: Final = "oracle"
"""The arm that is given the labels of the site's archive: what adaptation could come to at best."""

BUDGETS: Final[Mapping[str, Budget]] = {
    "toy": Budget(TOY, GanSchedule(1, 8, 0.002, 0.7, max_steps=2), People(1, 1, 2)),
    "small": Budget(QUICK, GanSchedule(6, 32, 0.002, 0.7, max_steps=75), People(80, 80, 40)),
    "medium": Budget(
        dataclasses.replace(QUICK, gan_size=56, discriminator_filters=(16, 32, 64, 64, 64)),
        GanSchedule(20, 32, 0.001, 0.7, max_steps=100),
        People(300, 300, 100),
    ),
    "paper": Budget(PRESETS["paper"], GAN_SCHEDULES["paper"], People(2000, 2000, 300)),
}


def adapt_to_sites(setup: Setup) -> None:
    """Train each method for each site, all labels from home, and keep each result.

    Args:
        setup: how; its size is one of `BUDGETS`.

    Raises:
        TrainingError: if training diverges.
    """
    for site in SITES.values():
        if site == HOME:
            continue
        bench = set_up(NAME, QUESTION, setup, module=__name__, budget=BUDGETS[setup.size], site=site.name)
        for method, title in METHODS.items():
            bench.run(method, f"{site.name}_{method}", f"{site.name}: {title}")
        told = dataclasses.replace(bench, labeled=bench.archive, labels=bench.archive_labels)
        told.run(SUPERVISED.name, f"{site.name}_{ORACLE}", f"{site.name}: labels of the site itself")
