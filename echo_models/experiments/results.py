"""What an arm of a comparison came to, kept as a file that a second start finds."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from echo_models.errors import TrainingError
from echo_models.manifest import Interval


class Record(BaseModel):
    """One measured thing, and where it comes from.

    Attributes:
        experiment: which comparison.
        arm: names it within its experiment; the file is called so.
        title: what a table calls it.
        key: digest of everything that decides the result.
        seed: of frames, split and training.
        size: of the experiment.
        data: which frames, always synthetic here: plan, fingerprint, frames of each part.
        code_version: of what decides the result.
        commit: of the checkout it was run from, "" for none.
        machine: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    arm: str
    title: str
    key: str
    seed: int
    size: str
    data: dict[str, Any]
    code_version: str
    commit: str = ""
    machine: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one from its file.

        Raises:
            TrainingError: if the file is not one.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise TrainingError(
                f"{path} must be a result of `echobeam experiment`; it cannot be read as one. Remove it and "
                "run the experiment again"
            ) from error


class Result(Record):
    """What one trained classifier came to.

    Attributes:
        classes: of the output.
        metrics: on the test frames, with intervals by bootstrap over subjects.
        confusion: [K][K], row is the true class.
        parameters: of the network or networks.
        epochs: run until it stopped.
        seconds_per_epoch: median; None if every epoch came from a checkpoint.
        images_per_second: of prediction in batches.
        log: one entry an epoch of each stage.
        note: what a reader must know, "" for nothing.
    """

    classes: tuple[str, ...]
    metrics: dict[str, Interval]
    confusion: list[list[int]]
    parameters: int
    epochs: int
    seconds_per_epoch: float | None
    images_per_second: float
    log: list[dict[str, Any]]
    note: str = ""


class Point(BaseModel):
    """What the networks come to at one level of a curve.

    Attributes:
        level: in the curve's unit.
        metrics: with intervals by bootstrap over subjects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float
    metrics: dict[str, Interval]


class Curve(Record):
    """What trained networks come to as one thing gets harder.

    Attributes:
        unit: of the levels.
        trained: least and most that training had.
        points: by rising level.
    """

    unit: str
    trained: tuple[float, float]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the same for all arms of one experiment.

    Attributes:
        experiment: which.
        size: how much of everything.
        seed: of everything random.
        code_version: of what decides the results, see `code_of`.
        data: plan, fingerprint and frames of each part.
    """

    experiment: str
    size: str
    seed: int
    code_version: str
    data: Mapping[str, Any]

    def key(self, arm: str, settings: Mapping[str, Any]) -> str:
        """Digest all that decides an arm's result."""
        decisive = {
            "experiment": self.experiment,
            "size": self.size,
            "seed": self.seed,
            "code_version": self.code_version,
            "fingerprint": self.data["fingerprint"],
            "arm": arm,
            "settings": settings,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def checkpoints(self, folder: Path, arm: str, settings: Mapping[str, Any]) -> Path:
        """Name where an arm's training may go on from: never what other data, code or settings left."""
        return folder / "work" / "checkpoints" / f"{arm}-{self.key(arm, settings)}"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of an experiment's results, one file an arm."""

    folder: Path

    def has(self, arm: str, key: str) -> bool:
        """Say whether the result of an arm is kept, and made with what makes it now."""
        path = self.folder / f"{arm}.json"
        return path.exists() and _Keyed.read(path).key == key

    def find(self, arm: str, key: str) -> Result | None:
        """Give the kept result of an arm, None if there is none or other settings made it."""
        return Result.read(self.folder / f"{arm}.json") if self.has(arm, key) else None

    def keep(self, record: Record) -> None:
        """Write a result, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{record.arm}.json"
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.folder / f"{record.arm}.json")

    def obtain(self, facts: Facts, arm: str, settings: Mapping[str, Any], make: Callable[[], Record]) -> None:
        """Make and keep a result, unless it is there."""
        if not self.has(arm, facts.key(arm, settings)):
            self.keep(make())


class _Keyed(Record):
    """Any record, of which the key is all that is asked."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def read_results(folder: Path) -> list[Result]:
    """Read the results of a folder in the order of their experiment.

    Raises:
        TrainingError: if a file is none.
    """
    return sorted((Result.read(path) for path in files_of(folder)), key=_place)


def files_of(folder: Path) -> list[Path]:
    """List the files of a folder's results, by name."""
    return sorted(folder.glob("[!.]*.json"))


def _place(result: Result) -> tuple[int, str]:
    # Arms are named so that their experiment's own order cannot be told from their files' names.
    return ORDER.index(result.arm) if result.arm in ORDER else len(ORDER), result.arm


ORDER: Final = (
    "240x320", "120x160", "60x80", "30x40", "15x20",
    "plain", "masked", "ensemble", "resnet50", "vgg16",
    "whole_stage1", "whole_stage2", "segmented_stage1", "segmented_stage2", "random_stage1", "random_stage2",
)  # fmt: skip
