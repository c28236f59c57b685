"""The state of a training after its last whole epoch, so that a kill costs one epoch at most."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Log = list[dict[str, Any]]
"""One entry an epoch."""


class Checkpoint:
    """All variables of a training, weights worth going back to, and its log, in one file.

    Beside it is the log as CSV, for people and spreadsheets.
    """

    def __init__(self, folder: Path | None, stage: str, variables: Sequence[Any]) -> None:
        """Name what is kept.

        Args:
            folder: where; None to keep nothing.
            stage: names the files.
            variables: in an order that is the same in every run; with the states of random
                generators, so that dropout goes on as it would have.
        """
        self._path = None if folder is None else folder / f"{stage}.npz"
        self._variables = variables

    def restore(self) -> tuple[Log, list[Any]] | None:
        """Bring the variables back to where they were.

        Returns:
            the log so far and the weights worth going back to; None where nothing was kept.
        """
        if self._path is None or not self._path.exists():
            return None
        with np.load(self._path) as stored:
            for index, variable in enumerate(self._variables):
                variable.assign(stored[f"variable_{index}"])
            best = [stored[f"best_{index}"] for index in range(int(stored["best"]))]
            return json.loads(str(stored["log"])), best

    def keep(self, log: Log, best: Sequence[Any] = ()) -> None:
        """Replace what was kept, so that a kill leaves the old or the new, whole."""
        if self._path is None:
            return
        arrays = {f"variable_{index}": np.asarray(value) for index, value in enumerate(self._variables)}
        arrays |= {f"best_{index}": np.asarray(value) for index, value in enumerate(best)}
        arrays |= {"log": np.array(json.dumps(log)), "best": np.array(len(best))}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(self._path)
        _write_csv(self._path.with_suffix(".csv"), log)


def _write_csv(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(log[0]), *(",".join(str(value) for value in entry.values()) for entry in log)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
