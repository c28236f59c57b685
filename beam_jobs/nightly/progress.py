"""How far a night's training is, in a small file: whoever waits may be another process, or machine."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from echo_models.fitting import Step

PROGRESS_FILE: Final = "progress.json"
_EVERY_S: Final = 0.5


class ProgressFile:
    """Writes where training is, at most twice a second.

    Args:
        folder: that has the file; it must be there.
        clock: seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / PROGRESS_FILE
        self._clock = clock
        self._due_at = clock()

    def __call__(self, step: Step) -> None:
        """Note a step."""
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + _EVERY_S
        unfinished = self._path.with_name(f".{self._path.name}")
        unfinished.write_text(
            json.dumps(
                {
                    "stage": step.stage,
                    "epoch": step.epoch,
                    "epochs": step.epochs,
                    "done": (step.epoch - 1) * step.steps + step.step,
                    "steps": step.epochs * step.steps,
                    "loss": round(step.loss, 4),
                }
            )
        )
        unfinished.replace(self._path)


def read_progress(folder: Path) -> dict[str, float | str]:
    """Read where training is; empty if it has not begun."""
    try:
        return dict(json.loads((folder / PROGRESS_FILE).read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}
