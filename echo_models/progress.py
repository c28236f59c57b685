"""Progress of training and rendering on stderr, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from echo_models.fitting import OnStep, Step

OnRender = Callable[[int, int], None]
"""Takes phantom subjects rendered, and subjects in all."""


@contextmanager
def progress(*, quiet: bool) -> Iterator[tuple[OnStep, OnRender]]:
    """Show a bar for the block.

    Args:
        quiet: show none.

    Yields:
        What to call after each training step and after each rendered block.
    """
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1],
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as bars:
        bar = bars.add_task("")

        def on_step(step: Step) -> None:
            bars.update(
                bar,
                description=f"{step.stage}: epoch {step.epoch} of {step.epochs}, loss {step.loss:.3f}",
                completed=(step.epoch - 1) * step.steps + step.step,
                total=step.epochs * step.steps,
            )

        def on_render(done: int, total: int) -> None:
            bars.update(bar, description="phantom subjects", completed=done, total=total)

        yield on_step, on_render
