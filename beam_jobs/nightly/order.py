"""What a night is to make, written down before it begins, so that a run that was killed is gone on with."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter

from beam_jobs.retrain_settings import RetrainSettings, Task
from echo_models.networks import Preset
from echo_models.recipes import code_version

T = TypeVar("T")

ORDER_FILE: Final = "order.json"

_MAX_AGE_S: Final = 24 * 3600.0
"""An unfinished night of yesterday is not gone on with: the archive has grown meanwhile."""

_NOT_DECISIVE: Final = frozenset({"root", "time_budget_s", "pushgateway_url", "beam_options", "accelerator"})
"""Settings that change how a night is run, and not what it makes."""


@dataclass(frozen=True, slots=True)
class NightOrder:
    """What one night makes. It travels through the pipeline: small, and can be pickled.

    Attributes:
        version: of the bundle.
        settings: section `[retrain]`.
        preset: widths of the networks.
        pool: folder of the dataset to learn from.
        workplace: folder of what the stages leave for each other; on storage that all workers share.
        training_s: after so many seconds of training it ends with what there is.
    """

    version: str
    settings: RetrainSettings
    preset: Preset
    pool: Path
    workplace: Path
    training_s: float

    @property
    def task(self) -> Task:
        """Name what the model is for."""
        return self.settings.task

    @property
    def draft(self) -> Path:
        """Folder of the bundle as training leaves it."""
        return self.workplace / "draft" / self.version

    @property
    def bundle(self) -> Path:
        """Folder of the bundle as it is published."""
        return self.workplace / "bundle"

    def keep(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """Give what a stage made in an earlier run of this night, or make and keep it.

        Args:
            name: of the file.
            kind: a dataclass.
            make: makes it.
        """
        if not (self.workplace / name).exists():
            write_whole(self.workplace / name, TypeAdapter(kind).dump_json(make(), indent=2))
        return self.made(name, kind)

    def made(self, name: str, kind: type[T]) -> T:
        """Give what a stage has made."""
        return TypeAdapter(kind).validate_json((self.workplace / name).read_bytes())


def begin_order(order: NightOrder, *, now: float) -> NightOrder:
    """Write down what this night makes, in an empty workplace.

    Args:
        order: all of it.
        now: seconds since the epoch.
    """
    shutil.rmtree(order.workplace, ignore_errors=True)
    order.workplace.mkdir(parents=True)
    document = {"facts": _facts(order), "begun_at": now, "version": order.version, "pool": str(order.pool)}
    write_whole(order.workplace / ORDER_FILE, json.dumps(document, indent=2).encode())
    return order


def resume_order(wanted: NightOrder, *, now: float) -> NightOrder | None:
    """Find the night that a killed run began with the same settings, the same code and a pool still there.

    Args:
        wanted: what this night would make; its version and pool do not matter.
        now: seconds since the epoch.

    Returns:
        what was begun; None where there is nothing to go on with.
    """
    try:
        begun = json.loads((wanted.workplace / ORDER_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    pool = Path(begun["pool"])
    if begun["facts"] != _facts(wanted) or now - begun["begun_at"] > _MAX_AGE_S or not pool.exists():
        return None
    return dataclasses.replace(wanted, version=begun["version"], pool=pool)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _facts(order: NightOrder) -> str:
    """Digest what decides the result."""
    facts = {
        "settings": order.settings.model_dump(mode="json", exclude=set(_NOT_DECISIVE)),
        "preset": dataclasses.asdict(order.preset),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
