"""How the tests run an experiment: at the smallest size, with progress that is looked at."""

from pathlib import Path

from echo_models.experiments.setups import OnRender, Setup
from echo_models.fitting import Step


def toy_setup(folder: Path, *, seed: int = 0, on_render: OnRender | None = None) -> Setup:
    """Run it in this process, with results in a folder."""
    return Setup(folder, "toy", seed, 1, no_more_steps_than_all, on_render or _no_more_than_all)


def no_more_steps_than_all(step: Step) -> None:
    """Look at where a training is."""
    assert step.step <= step.steps


def _no_more_than_all(done: int, total: int) -> None:
    assert done <= total
