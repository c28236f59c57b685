"""How an experiment is run: what its command was given, and who is told how far it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from echo_models.datasets import LabeledFrames, Plan, render
from echo_models.fitting import OnStep

OnRender = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What every experiment is given.

    Attributes:
        folder: of the results; checkpoints and rendered frames are in its `work`.
        size: one of `echo_models.experiments.sizes.SIZES`.
        seed: of frames, split, draw of labels and training.
        processes: how many render.
        on_step: called after each training step.
        on_render: called with how many subjects, or levels of severity, are done, and with all of them.
    """

    folder: Path
    size: str
    seed: int
    processes: int
    on_step: OnStep
    on_render: OnRender

    def render(self, plan: Plan) -> LabeledFrames:
        """Render frames, or read those that were rendered by the same plan before."""
        return render(plan, processes=self.processes, cache=self.folder / "work", on_progress=self.on_render)
