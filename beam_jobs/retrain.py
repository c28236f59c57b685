"""The nightly job: pool → train → judge → publish, and promote only what passes the gate.

It may be killed at any moment and started again: nothing but the last step, one replaced file,
touches production, and a run starts by clearing what an earlier one left. Two runs never overlap.

    RetrainError             fail the job; production is as it was
    ├── RetrainBusyError     try later: another run holds the lock
    └── EmptyPoolError       nothing to learn from: the archive has too few frames
"""

import dataclasses
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import structlog

from beam_jobs.errors import BeamJobsError
from beam_jobs.labeled_sets import (
    CLASSES,
    TEST_SEED,
    LabeledSets,
    hypertrophy_labels,
    masked_frames,
    render_labeled_sets,
)
from beam_jobs.pool import build_pool
from beam_jobs.pool_dataset import PoolDataset, PoolManifest, prune_datasets
from beam_jobs.retrain_metrics import RetrainMetrics
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.log import describe_error
from echo_models.bundle import Bundle, load_bundle, write_bundle
from echo_models.datasets import LabeledFrames
from echo_models.errors import BundleError, NotInRegistryError
from echo_models.evaluation import measure_classes
from echo_models.fitting import OnStep
from echo_models.gan import GAN_SCHEDULES, GanSchedule, SemiSupervisedGan, train_gan
from echo_models.gate import Decision, GateRule, decide
from echo_models.manifest import Interval, Mask
from echo_models.networks import PRESETS, Preset, build_discriminator_classifier
from echo_models.registry import Registry

TASK: Final = "lvh"
MASK: Final[Mask] = "fov"
"""The pool's frames are masked by their field of view, so the labeled ones are too."""


_log = structlog.get_logger(__name__)


class RetrainError(BeamJobsError):
    """The night came to no decision; production is as it was."""


class RetrainBusyError(RetrainError):
    """Another run holds the lock."""


class EmptyPoolError(RetrainError):
    """The pool has too few frames to learn from.

    Attributes:
        manifest: what the pool is, and what each rule dropped.
    """

    def __init__(self, manifest: PoolManifest, needed: int) -> None:
        super().__init__(
            f"the pool must have at least {needed} apical four-chamber frames, and has {manifest.frames} "
            f"of {manifest.candidates} stored ones; production stays as it is. "
            "Process more studies, or loosen the rules in [retrain]"
        )
        self.manifest = manifest


class Outcome(StrEnum):
    """How a night ended."""

    PROMOTED = "promoted"
    KEPT_OUT = "kept_out"
    NO_POOL = "no_pool"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said, and what each model scored on the fixed set.

    Attributes:
        decision: of the gate.
        candidate: measures of the new model, with intervals.
        production: the same of the model at work; empty if there was none.
    """

    decision: Decision
    candidate: Mapping[str, Interval]
    production: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Night:
    """What one run did.

    Attributes:
        version: of the new bundle.
        production: the version at work before, or None.
        pool: what was learned from.
        epochs: passes over the unlabeled frames that were made.
        test_fingerprint: of the fixed labeled set.
    """

    outcome: Outcome
    version: str
    production: str | None
    verdict: Verdict
    pool: PoolManifest
    epochs: int
    test_fingerprint: str
    duration_s: float


def retrain(
    settings: RetrainSettings,
    *,
    preset: Preset | None = None,
    on_step: OnStep | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Night:
    """Run one night, and tell the Pushgateway how it went if one is configured.

    Args:
        settings: what to take, keep and promote.
        preset: widths of the networks; None for those that the settings name.
        on_step: called after each step of the training.
        clock: seconds, for durations and the time budget.
        wall_clock: seconds since the epoch, for history and metrics.

    Raises:
        RetrainBusyError: another run is at it; nothing was done and nothing is pushed.
        EmptyPoolError: the pool has too few frames.
        SetupError: Beam has no such option as the settings name.
    """
    with _one_at_a_time(settings.root / "run" / "retrain.lock"):
        started = clock()
        metrics = RetrainMetrics()
        outcome = Outcome.FAILED
        try:
            night = _run_night(
                settings,
                metrics,
                preset=preset or PRESETS[settings.preset],
                on_step=on_step,
                clock=clock,
                wall_clock=wall_clock,
            )
            outcome = night.outcome
            metrics.succeeded(wall_clock())
        except EmptyPoolError:
            outcome = Outcome.NO_POOL
            raise
        finally:
            duration_s = clock() - started
            metrics.ended(outcome, decisions=tuple(Outcome), duration_s=duration_s, now=wall_clock())
            _push(metrics, settings.pushgateway_url)
            _log.info("night", outcome=outcome, duration_s=round(duration_s, 1))
    return dataclasses.replace(night, duration_s=duration_s)


def _run_night(
    settings: RetrainSettings,
    metrics: RetrainMetrics,
    *,
    preset: Preset,
    on_step: OnStep | None,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> Night:
    deadline = clock() + settings.time_budget_s
    workplace = settings.root / "run" / "retrain"
    shutil.rmtree(workplace, ignore_errors=True)
    registry = Registry(settings.models)
    registry.install_shipped(now=wall_clock())

    pool = build_pool(
        settings.pool,
        settings.results,
        settings.rules,
        frames_per_shard=settings.frames_per_shard,
        beam_options=settings.beam_options,
    )
    prune_datasets(pool.folder.parent, keep=settings.keep_datasets, current=pool.folder.name)
    metrics.built_pool(pool.manifest.frames, pool.manifest.dropped)
    if pool.manifest.frames < settings.min_pool_frames:
        raise EmptyPoolError(pool.manifest, settings.min_pool_frames)

    labeled = render_labeled_sets(
        seed=settings.seed, train_subjects=settings.labeled_subjects, test_subjects=settings.test_subjects
    )
    classifier, epochs = _train(
        settings, pool, labeled.train, preset=preset, on_step=on_step, out_of_time=lambda: clock() > deadline
    )

    training = _training_record(settings, pool, labeled, epochs)
    candidate = _Candidate(classifier, _next_version(registry), training)
    judged = load_bundle(candidate.write(workplace / "draft", {}))
    production = _load_production(registry)
    verdict = judge(judged, production, labeled.test, settings.gate)
    metrics.judged(
        candidate=verdict.candidate["accuracy"].value,
        production=verdict.production["accuracy"].value if production else None,
    )

    bundle = candidate.write(workplace / candidate.version, verdict.candidate)
    _put_in_registry(registry, bundle, candidate.version, verdict, now=wall_clock())
    shutil.rmtree(workplace)
    return Night(
        outcome=Outcome.PROMOTED if verdict.decision.promote else Outcome.KEPT_OUT,
        version=candidate.version,
        production=production.manifest.version if production else None,
        verdict=verdict,
        pool=pool.manifest,
        epochs=epochs,
        test_fingerprint=labeled.test.fingerprint(),
        duration_s=0.0,
    )


# --- training ---------------------------------------------------------------------------------------


class _BudgetSpentError(Exception):
    """Unwinds the training when its time is over; never leaves this module."""

    def __init__(self, epochs: int, classifier: keras.Model) -> None:
        super().__init__(f"out of time after {epochs} epochs")
        self.epochs = epochs
        self.classifier = classifier


def _train(
    settings: RetrainSettings,
    pool: PoolDataset,
    labeled: LabeledFrames,
    *,
    preset: Preset,
    on_step: OnStep | None,
    out_of_time: Callable[[], bool],
) -> tuple[keras.Model, int]:
    """Train on the labeled frames and a sample of the pool, until done or out of time.

    Returns:
        the classifier as it was after the last whole epoch, and how many there were.
    """
    unlabeled = pool.sample(settings.max_unlabeled_frames, seed=settings.seed)

    def stop_in_time(epoch: int, gan: SemiSupervisedGan) -> None:
        if out_of_time():
            raise _BudgetSpentError(epoch, build_discriminator_classifier(gan.discriminator))

    try:
        trained = train_gan(
            masked_frames(labeled, MASK),
            hypertrophy_labels(labeled),
            unlabeled,
            classes=len(CLASSES),
            preset=preset,
            schedule=_schedule(settings, len(unlabeled)),
            seed=settings.seed,
            on_step=on_step,
            on_epoch=stop_in_time,
        )
    except _BudgetSpentError as spent:
        return spent.classifier, spent.epochs
    return trained.classifier, len(trained.log)


def _schedule(settings: RetrainSettings, unlabeled: int) -> GanSchedule:
    """Take the preset's schedule; a small pool is passed over more often to make up the steps."""
    schedule = GAN_SCHEDULES[settings.preset]
    epochs = settings.epochs
    if epochs is None:
        epochs = -(-settings.training_steps // max(1, unlabeled // schedule.batch_size))
    return dataclasses.replace(schedule, epochs=epochs)


# --- judging ----------------------------------------------------------------------------------------


def judge(candidate: Bundle, production: Bundle | None, test: LabeledFrames, rule: GateRule) -> Verdict:
    """Let the gate compare two models on the same labeled frames.

    Each is given the frames masked as its contract asks, with the phantom's true masks.

    Args:
        candidate: the new model, as it was written and loaded again.
        production: the model at work, or None.
        test: the fixed labeled set.
        rule: of the gate.
    """
    labels = hypertrophy_labels(test)
    ours = candidate.predict(masked_frames(test, candidate.manifest.mask))
    theirs = None if production is None else production.predict(masked_frames(test, production.manifest.mask))
    return Verdict(
        decide(labels, ours, theirs, subjects=test.subjects, rule=rule),
        _measures(labels, ours, test),
        {} if theirs is None else _measures(labels, theirs, test),
    )


def _measures(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], test: LabeledFrames
) -> dict[str, Interval]:
    predicted = (probabilities > 0.5).astype(np.int64)
    return measure_classes(labels, predicted, test.subjects, CLASSES)


def _load_production(registry: Registry) -> Bundle | None:
    """Load the model at work; one that cannot be loaded is no rival."""
    try:
        return load_bundle(registry.resolve(TASK))
    except NotInRegistryError:
        return None
    except BundleError as error:
        _log.warning("production cannot be loaded", error=describe_error(error))
        return None


# --- publishing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A trained classifier on its way into a bundle."""

    classifier: keras.Model
    version: str
    training: Mapping[str, Any]

    def write(self, folder: Path, metrics: Mapping[str, Interval]) -> Path:
        """Write it as a bundle, with these measures."""
        return write_bundle(
            folder,
            self.classifier,
            task=TASK,
            version=self.version,
            classes=CLASSES,
            mask=MASK,
            training=self.training,
            metrics=metrics,
            card=_card(self.version, self.training, metrics),
        )


def _next_version(registry: Registry) -> str:
    """Number the nights; no date: rows of the tables carry the version, and must not tell the day."""
    numbers = [
        int(version.removeprefix("gan-"))
        for version in {event.version for event in registry.history(TASK)} | set(registry.versions(TASK))
        if version.removeprefix("gan-").isdecimal()
    ]
    return f"gan-{max(numbers, default=0) + 1:04d}"


def _put_in_registry(registry: Registry, bundle: Path, version: str, verdict: Verdict, *, now: float) -> None:
    """Publish the bundle with the gate's reason; put it to work only if the gate says so."""
    decision = verdict.decision
    word = "passed the gate" if decision.promote else "kept out"
    registry.publish(bundle, reason=f"nightly, {word}: {decision.reason}", now=now)
    if decision.promote:
        registry.promote(
            TASK, version, reason=f"nightly: {decision.reason}", numbers=decision.numbers, now=now
        )


def _training_record(
    settings: RetrainSettings, pool: PoolDataset, labeled: LabeledSets, epochs: int
) -> dict[str, Any]:
    return {
        "method": "semi-supervised GAN",
        "seed": settings.seed,
        "preset": settings.preset,
        "epochs": epochs,
        "pool": {"frames": pool.manifest.frames, "fingerprint": pool.manifest.fingerprint},
        "unlabeled_frames": min(pool.manifest.frames, settings.max_unlabeled_frames),
        "labeled": {
            "source": "phantom",
            "frames": len(labeled.train),
            "subjects": settings.labeled_subjects,
            "fingerprint": labeled.train.fingerprint(),
        },
        "test": {
            "source": "phantom",
            "seed": TEST_SEED,
            "frames": len(labeled.test),
            "subjects": settings.test_subjects,
            "fingerprint": labeled.test.fingerprint(),
        },
    }


def _card(version: str, training: Mapping[str, Any], metrics: Mapping[str, Interval]) -> str:
    labeled, pool = training["labeled"], training["pool"]
    rows = "".join(f"| {name} | {interval} |\n" for name, interval in metrics.items())
    return f"""# {TASK} {version}

The discriminator of a semi-supervised GAN (Madani et al., npj Digital Medicine 1:59, 2018), made by the
nightly job. Reads an apical four-chamber frame, 0 outside the field of view; gives the probability of
left ventricular hypertrophy.

**Research use only; not a medical device.** Its labels are synthetic: nothing is known of its accuracy
on patients.

Learned from {labeled["frames"]} labeled frames of {labeled["subjects"]} phantom subjects and
{training["unlabeled_frames"]} of the {pool["frames"]} unlabeled frames of the site's own pool, in
{training["epochs"]} epochs from seed {training["seed"]}.

On the fixed set of labeled phantom frames, masked with the phantom's true masks, with 95 % intervals
over subjects:

| measure | value |
|---|---|
{rows}"""


# --- around it --------------------------------------------------------------------------------------


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of the night; the system lets go of it when the process ends, however it ends.

    Raises:
        RetrainBusyError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetrainBusyError(
                f"another run of `echobeam retrain` holds {path}; wait until it has ended"
            ) from error
        yield


def _push(metrics: RetrainMetrics, url: str | None) -> None:
    """Tell the Pushgateway; a night is not lost because nobody heard of it."""
    if url is None:
        return
    try:
        metrics.push(url)
    except OSError as error:
        _log.warning("metrics could not be pushed", error=describe_error(error))
