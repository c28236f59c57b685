"""From a task and a seed to a bundle: which phantom frames, which training, which card."""

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import keras

from echo_models.backend import Precision
from echo_models.bundle import write_bundle
from echo_models.calibration import CALIBRATED_TASKS, calibrate_bundle, exam_of, shortage
from echo_models.cards import write_card
from echo_models.datasets import LabeledFrames, Plan, Split, render, split_by_subject
from echo_models.errors import BundleError
from echo_models.fitting import OnStep, Run
from echo_models.gan import GAN_SCHEDULES, GanOptions
from echo_models.gan.recipe import GanTask, train_semi_supervised
from echo_models.manifest import read_manifest
from echo_models.source_specs import SourceSpec
from echo_models.sources import Source, join_sources
from echo_models.training import (
    SCHEDULES,
    Trained,
    run_of,
    train_hypertrophy,
    train_segmentation,
    train_views,
)
from echo_models.views import A4C

RECIPES: Final = ("fov", "view", "lv", "lvh", "gan", "gan_view")
"""In an order in which each finds what it starts from: "lvh" starts from the convolutions of "view"."""

_ALL_VIEWS: Final = Plan(seed=0, subjects=300)
_VENTRICLES: Final = Plan(seed=0, subjects=500, views=(A4C,), clips=3, frames_per_clip=1)
# The paper's first two frames of a clip. Half of the subjects have hypertrophy, not the paper's fifth: the
# phantom has as many as are wanted, and a balanced set needs fewer.
_DIASTOLES: Final = Plan(seed=0, subjects=800, views=(A4C,), clips=2, any_phase=False)

PLANS: Final[Mapping[str, Mapping[str, Plan]]] = {
    "small": {
        "fov": _ALL_VIEWS,
        "view": _ALL_VIEWS,
        "lv": _VENTRICLES,
        "lvh": _DIASTOLES,
        "gan": dataclasses.replace(_DIASTOLES, subjects=100),
        "gan_view": dataclasses.replace(_ALL_VIEWS, subjects=40),
    },
    # As near to the paper's numbers of frames as 32 GiB of memory let one go; `subjects` is an option.
    "paper": {
        "fov": dataclasses.replace(_ALL_VIEWS, subjects=2000, frames_per_clip=4),
        "view": dataclasses.replace(_ALL_VIEWS, subjects=2000, frames_per_clip=4),
        "lv": _VENTRICLES,
        "lvh": dataclasses.replace(_DIASTOLES, subjects=1100, clips=1, lvh_ratio=0.2),
        "gan": dataclasses.replace(_DIASTOLES, subjects=1100, clips=1, lvh_ratio=0.2),
        "gan_view": dataclasses.replace(_ALL_VIEWS, subjects=500, frames_per_clip=4),
    },
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        task: one of `RECIPES`; "gan" gives a bundle of task "lvh", "gan_view" one of task "view".
        seed: of frames, split and training.
        preset: "small" or "paper".
        subjects: how many phantom subjects, None for the preset's.
        epochs: of every stage, None for the schedule's.
        processes: how many render frames.
        work: where logs, checkpoints and rendered frames are kept, None for nowhere.
        resume: go on from the checkpoints, if there are any.
        sources: what to train on; none for the phantom alone.
        precision: what networks compute in while they learn.
        data: fingerprint of the sources' frames, which the workshop fills in.
        gan: what the paper leaves open of the GAN.
    """

    task: str
    seed: int = 0
    preset: str = "small"
    subjects: int | None = None
    epochs: int | None = None
    processes: int = 1
    work: Path | None = None
    resume: bool = False
    sources: tuple[SourceSpec, ...] = ()
    precision: Precision = "float32"
    data: str = ""
    gan: GanOptions = field(default_factory=GanOptions)

    @property
    def plan(self) -> Plan:
        """Which frames it needs."""
        plan = dataclasses.replace(PLANS[self.preset][self.task], seed=self.seed)
        return plan if self.subjects is None else dataclasses.replace(plan, subjects=self.subjects)

    @property
    def cache(self) -> Path | None:
        """Where rendered frames are kept."""
        return None if self.work is None else self.work / "cache"

    @property
    def folder(self) -> Path | None:
        """Where its log and checkpoints are kept."""
        return None if self.work is None else self.work / f"{self.task}-{self.version}"

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        schedules = {self.task: GAN_SCHEDULES[self.preset]} if self.is_gan else SCHEDULES[self.preset]
        return {
            "recipe": "gan" if self.is_gan else self.task,
            "preset": self.preset,
            "seed": self.seed,
            "epochs": self.epochs,
            "source": "+".join(source.kind for source in self.sources) or "phantom",
            "plan": dataclasses.asdict(self.plan) if self.uses_phantom else None,
            "schedules": {
                stage: dataclasses.asdict(schedule)
                for stage, schedule in schedules.items()
                if stage.startswith(self.task)
            },
            "code_version": code_version(),
            **({"data_fingerprint": self.data} if self.sources else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"gan": dataclasses.asdict(self.gan)} if self.is_gan else {}),
            **({"options": list(self.options)} if self.options else {}),
        }

    @property
    def is_gan(self) -> bool:
        """Say whether it is learned from unlabeled frames as well."""
        return self.task in ("gan", "gan_view")

    @property
    def options(self) -> tuple[str, ...]:
        """List what else the command was told."""
        told = ["--gan-task view"] if self.task == "gan_view" else []
        if self.is_gan:
            told += [f"--head {self.gan.head}"] if self.gan.head != "sigmoid" else []
            told += [f"--ema-decay {self.gan.ema_decay}"] if self.gan.ema_decay is not None else []
            told += [f"--ensemble {self.gan.ensemble}"] if self.gan.ensemble > 1 else []
        return (*told, *(source.option for source in self.sources))

    @property
    def uses_phantom(self) -> bool:
        """Say whether the phantom is among its sources."""
        return not self.sources or any(source.kind == "phantom" for source in self.sources)

    @property
    def version(self) -> str:
        """Name the result: the same for the same order and code."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:8]
        kind = "gan-" if self.is_gan else ""
        return f"{kind}{self.preset}-s{self.seed}-{digest}"


def code_version() -> str:
    """Name the code: the package's version, and a digest of this package's own source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"echobeam {importlib.metadata.version('echobeam')} ({digest.hexdigest()[:12]})"


@dataclass(slots=True)
class Workshop:
    """Fills orders, and keeps what the next one may need.

    Attributes:
        on_step: called after each training step.
        on_render: called with subjects rendered and subjects in all.
        views: the view classifier "lvh" starts from, by name; set by "view", or given. None for random
            convolutions.
    """

    on_step: OnStep
    on_render: Callable[[int, int], None]
    views: tuple[str, keras.Model] | None = None
    _rendered: dict[Plan, LabeledFrames] = field(default_factory=dict)

    def fill(self, order: Order, out: Path) -> Path:
        """Render, train, measure and write one bundle.

        Args:
            order: what.
            out: the bundle becomes `<out>/<task>/<version>/`.

        Returns:
            the bundle's folder.

        Raises:
            DatasetError: if the plan's frames do not suffice.
            TrainingError: if training diverges.
            BundleError: if that folder is there and not empty.
        """
        started = time.monotonic()
        sources = self._load(order)
        whole = join_sources(sources, outlined=order.task in ("lv", "lvh"))
        if order.sources:
            order = dataclasses.replace(order, data=whole.labeled.fingerprint())
        data = split_by_subject(whole.labeled, seed=order.seed, published=whole.parts)
        trained = self._train(order, data)
        facts = order.facts | {
            "data_fingerprint": whole.labeled.fingerprint(),
            "frames": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "minutes": round((time.monotonic() - started) / 60, 1),
            "log": list(trained.log),
        }
        if order.sources:
            facts["sources"] = [source.facts for source in sources]
        if order.task == "lvh":
            facts["convolutions_from"] = "random" if self.views is None else self.views[0]
        with tempfile.TemporaryDirectory() as scratch:
            draft = write_bundle(
                Path(scratch) / order.version,
                trained.model,
                task=trained.task,
                version=order.version,
                classes=trained.classes,
                mask=trained.mask,
                training=facts,
                metrics=trained.metrics,
                card=write_card(trained, order.version, facts),
            )
            return _finished(draft, data, out / trained.task)

    def _load(self, order: Order) -> list[Source]:
        """Load what the order is to be trained on."""
        return [spec.load(lambda: self._frames(order)) for spec in order.sources or (SourceSpec("phantom"),)]

    def _frames(self, order: Order) -> LabeledFrames:
        if order.plan not in self._rendered:
            self._rendered.clear()  # one set at a time: they are large
            self._rendered[order.plan] = render(
                order.plan, processes=order.processes, cache=order.cache, on_progress=self.on_render
            )
        return self._rendered[order.plan]

    def _train(self, order: Order, data: Split) -> Trained:
        if order.folder is not None and not order.resume:
            for checkpoint in order.folder.glob("*.npz"):
                checkpoint.unlink()
        run = run_of(
            order.preset,
            epochs=order.epochs,
            seed=order.seed,
            folder=order.folder,
            on_step=self.on_step,
            precision=order.precision,
        )
        match order.task:
            case "fov":
                return train_segmentation("fov", data, run)
            case "lv":
                return train_segmentation("lv", data, run)
            case "view":
                trained = train_views(data, run)
                self.views = f"view-{order.version}", trained.model
                return trained
            case "lvh":
                return train_hypertrophy(data, run, None if self.views is None else self.views[1])
            case _:
                return self._train_gan(order, data, run)

    def _train_gan(self, order: Order, data: Split, run: Run) -> Trained:
        """Train the GAN on few labeled frames, and on unlabeled ones of other people and machines."""
        others = []
        if order.uses_phantom:
            plan = dataclasses.replace(
                order.plan,
                seed=order.seed + 1,
                subjects=4 * order.plan.subjects,
                severity=1.3,
                any_phase=True,
            )
            others.append(
                render(plan, processes=order.processes, cache=order.cache, on_progress=self.on_render)
            )
        schedule = GAN_SCHEDULES[order.preset]
        if order.epochs is not None:
            schedule = dataclasses.replace(schedule, epochs=order.epochs)
        task: GanTask = "view" if order.task == "gan_view" else "lvh"
        return train_semi_supervised(task, data, others, schedule=schedule, options=order.gan, run=run)


def _finished(draft: Path, data: Split, out: Path) -> Path:
    """Calibrate what was trained on the validation frames, if they suffice, and put it where it belongs."""
    manifest = read_manifest(draft)
    if manifest.task in CALIBRATED_TASKS and shortage(manifest, exam_of(manifest, data.validation)) is None:
        source = "the validation part of its own split"
        return calibrate_bundle(
            draft, data.validation, data.test, out, source=source, version=manifest.version
        )
    folder = out / manifest.version
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(
            f"a bundle is written into an empty folder; {folder} is not. Choose another version"
        )
    return shutil.copytree(draft, folder, dirs_exist_ok=True)
