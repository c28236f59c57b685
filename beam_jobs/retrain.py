"""The nightly job: pool → train → evaluate → judge → publish, and promote only what passes the gate.

It may be killed at any moment and started again: nothing but the last step, one replaced file, touches
production. A run goes on with what a killed one began within a day, or clears it away. Two runs never
overlap. The pool is a Beam job of its own (`beam_jobs.pool`), as it has millions of elements and a night has
one; the rest is another (`beam_jobs.nightly.pipeline`).
"""

import dataclasses
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import structlog

from beam_jobs.engine import new_pipeline
from beam_jobs.nightly.errors import EmptyPoolError, RetrainBusyError, RetrainError
from beam_jobs.nightly.order import NightOrder, begin_order, resume_order
from beam_jobs.nightly.pipeline import RetrainModel
from beam_jobs.nightly.records import Night, Outcome, Verdict
from beam_jobs.nightly.view_pool import build_view_pool
from beam_jobs.pool import build_pool, labeled_subjects
from beam_jobs.pool_dataset import PoolDataset, prune_datasets
from beam_jobs.retrain_metrics import RetrainMetrics
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.log import describe_error
from echo_models.bundle import load_bundle
from echo_models.networks import PRESETS, Preset
from echo_models.registry import Registry

__all__ = [
    "EmptyPoolError",
    "Night",
    "Outcome",
    "RetrainBusyError",
    "RetrainError",
    "Verdict",
    "retrain",
    "workplace_of",
]

_log = structlog.get_logger(__name__)


def retrain(
    settings: RetrainSettings,
    *,
    preset: Preset | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Night:
    """Run one night, and tell the Pushgateway how it went if one is configured.

    Args:
        settings: what to take, keep and promote.
        preset: widths of the networks; None for those that the settings name.
        clock: seconds, for durations and the time budget.
        wall_clock: seconds since the epoch, for metrics and to tell how old a killed run is.

    Raises:
        RetrainBusyError: another run is at it; nothing was done and nothing is pushed.
        EmptyPoolError: the pool has too few frames.
        RetrainError: a step failed with what Beam cannot hand on as it is, such as a full disk, or on another
            machine; the message ends in what it said.
        SetupError: Beam has no such option as the settings name.
        ModelsError: training diverged, or the registry refused the bundle.
        OSError: the pool cannot be read or written.
    """
    with _one_at_a_time(settings.root / "run" / "retrain.lock"):
        started = clock()
        metrics = RetrainMetrics(settings.task)
        outcome = Outcome.FAILED
        try:
            order = _open_order(
                settings, metrics, preset or PRESETS[settings.preset], now=wall_clock(), clock=clock
            )
            night = _run_pipeline(order)
            shutil.rmtree(order.workplace)
            outcome = night.outcome
            _tell(night, metrics)
            metrics.succeeded(wall_clock())
        except EmptyPoolError:
            outcome = Outcome.NO_POOL
            raise
        finally:
            duration_s = clock() - started
            metrics.ended(outcome, decisions=tuple(Outcome), duration_s=duration_s, now=wall_clock())
            _push(metrics, settings.pushgateway_url)
            _log.info("night", task=settings.task, outcome=outcome, duration_s=round(duration_s, 1))
    return dataclasses.replace(night, duration_s=duration_s)


def workplace_of(settings: RetrainSettings) -> Path:
    """Give the folder of what an unfinished night has made so far."""
    return settings.root / "run" / "retrain" / settings.task


def _open_order(
    settings: RetrainSettings,
    metrics: RetrainMetrics,
    preset: Preset,
    *,
    now: float,
    clock: Callable[[], float],
) -> NightOrder:
    """Go on with what a killed run began, or build the pool and begin."""
    deadline = clock() + settings.time_budget_s
    registry = Registry(settings.models)
    registry.install_shipped(now=now)
    wanted = NightOrder(
        version=_next_version(registry, settings.task),
        settings=settings,
        preset=preset,
        pool=settings.pool,
        workplace=workplace_of(settings),
        training_s=settings.time_budget_s,
    )
    begun = resume_order(wanted, now=now)
    if begun is not None:
        _log.info("going on with a night that was cut off", task=settings.task, version=begun.version)
        return begun
    pool = _build_pool(settings)
    metrics.built_pool(pool.manifest.frames, pool.manifest.dropped)
    if pool.manifest.frames < settings.min_pool_frames:
        raise EmptyPoolError(pool.manifest, settings.min_pool_frames, settings.task)
    left_s = max(0.0, deadline - clock())
    return begin_order(dataclasses.replace(wanted, pool=pool.folder, training_s=left_s), now=now)


def _build_pool(settings: RetrainSettings) -> PoolDataset:
    held_out = labeled_subjects(settings.held_out_labels)
    if settings.task == "view":
        pool = build_view_pool(
            settings.pool,
            settings.results,
            settings.archive,
            settings.rules,
            load_bundle(Registry(settings.models).resolve("fov")),
            limit=settings.max_pool_frames,
            held_out=held_out,
        )
    else:
        pool = build_pool(
            settings.pool,
            settings.results,
            settings.rules,
            held_out=held_out,
            frames_per_shard=settings.frames_per_shard,
            beam_options=settings.beam_options,
        )
    prune_datasets(pool.folder.parent, keep=settings.keep_datasets, current=pool.folder.name)
    return pool


def _run_pipeline(order: NightOrder) -> Night:
    try:
        with new_pipeline(order.settings.beam_options) as pipeline:
            _ = pipeline | beam.Create([order]) | RetrainModel(order.settings.accelerator)
    except RuntimeError as error:
        # Beam makes one of an error it cannot put the step's name into, and of any in another process.
        raise RetrainError(f"the night failed: {str(error).strip().splitlines()[-1]}") from error
    return order.made("night.json", Night)


def _next_version(registry: Registry, task: str) -> str:
    """Number the nights; no date: rows of the tables carry the version, and must not tell the day."""
    numbers = [
        int(version.removeprefix("gan-"))
        for version in {event.version for event in registry.history(task)} | set(registry.versions(task))
        if version.removeprefix("gan-").isdecimal()
    ]
    return f"gan-{max(numbers, default=0) + 1:04d}"


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


def _tell(night: Night, metrics: RetrainMetrics) -> None:
    verdict = night.verdict
    metrics.decided(verdict.decision)
    if verdict.candidate:
        metrics.judged(
            candidate=verdict.candidate["accuracy"].value,
            production=verdict.production["accuracy"].value if verdict.production else None,
        )


def _push(metrics: RetrainMetrics, url: str | None) -> None:
    """Tell the Pushgateway; a night is not lost because nobody heard of it."""
    if url is None:
        return
    try:
        metrics.push(url)
    except OSError as error:
        _log.warning("metrics could not be pushed", error=describe_error(error))
