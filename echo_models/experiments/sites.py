"""What a site gains from its own unlabeled frames, when all labels are the phantom's."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from echo_models.challengers import SUPERVISED
from echo_models.experiments.few_labels import QUICK, TOY, Budget, People, set_up
from echo_models.experiments.labels import QUESTION
from echo_models.experiments.methods import METHODS
from echo_models.fitting import OnStep
from echo_models.gan import GAN_SCHEDULES, GanSchedule
from echo_models.networks import PRESETS
from echo_models.phantom import HOME, SITES

NAME: Final = "sites"
ORACLE: Final = "oracle"
"""The arm that is given the labels of the site's archive: what adaptation could come to at best."""

BUDGETS: Final[Mapping[str, Budget]] = {
    "toy": Budget(TOY, GanSchedule(1, 8, 0.002, 0.7, max_steps=2), People(1, 1, 2)),
    "small": Budget(QUICK, GanSchedule(8, 32, 0.002, 0.7, max_steps=90), People(80, 80, 40)),
    "medium": Budget(
        dataclasses.replace(QUICK, gan_size=56, discriminator_filters=(16, 32, 64, 64, 64)),
        GanSchedule(20, 32, 0.001, 0.7, max_steps=100),
        People(300, 300, 100),
    ),
    "paper": Budget(PRESETS["paper"], GAN_SCHEDULES["paper"], People(2000, 2000, 300)),
}


def adapt_to_sites(
    folder: Path,
    *,
    size: str,
    seed: int,
    processes: int,
    on_step: OnStep,
    on_render: Callable[[int, int], None],
) -> None:
    """Train each method for each site, all labels from home, and keep each result.

    Args:
        folder: of the results; checkpoints and rendered frames are in its `work`.
        size: one of `BUDGETS`.
        seed: of frames and training.
        processes: how many render.
        on_step: called after each training step.
        on_render: called with subjects rendered and subjects in all.

    Raises:
        TrainingError: if training diverges.
    """
    for site in SITES.values():
        if site == HOME:
            continue
        bench = set_up(
            NAME,
            QUESTION,
            folder,
            module=__name__,
            size=size,
            budget=BUDGETS[size],
            seed=seed,
            processes=processes,
            site=site.name,
            on_step=on_step,
            on_render=on_render,
        )
        for method, title in METHODS.items():
            bench.run(method, f"{site.name}_{method}", f"{site.name}: {title}")
        told = dataclasses.replace(bench, labeled=bench.archive, labels=bench.archive_labels)
        told.run(SUPERVISED.name, f"{site.name}_{ORACLE}", f"{site.name}: labels of the site itself")
