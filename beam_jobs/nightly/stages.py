"""The stages of a night, as plain functions: train, evaluate, judge, publish.

Each leaves what it made in the night's workplace, and finds it there if an earlier run was killed after it.
Training goes on from its last whole epoch. Nothing but the last line of `publish_model`, one replaced file,
touches production.
"""

import dataclasses
import shutil
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from beam_jobs.labeled_sets import (
    CLASSES,
    TEST_SEED,
    LabeledSets,
    labels_of,
    masked_frames,
    render_labeled_sets,
)
from beam_jobs.nightly.bundles import MASK, check_bundle, finish_bundle
from beam_jobs.nightly.order import NightOrder
from beam_jobs.nightly.progress import ProgressFile
from beam_jobs.nightly.records import Evaluation, Night, Outcome, Verdict
from beam_jobs.pool_dataset import PoolDataset
from dicom_listener.log import describe_error
from echo_models.bundle import Bundle, load_bundle, write_bundle
from echo_models.calibration import calibrate_bundle
from echo_models.datasets import LabeledFrames
from echo_models.errors import BundleError, NotInRegistryError
from echo_models.evaluation import measure_classes
from echo_models.gan import GAN_SCHEDULES, GanOptions, GanSchedule, classify, train_gan
from echo_models.gate import by_class, decide, refuse
from echo_models.manifest import MANIFEST, Interval, read_manifest
from echo_models.registry import Registry

_PROBE_FRAMES: Final = 16
_PROBE_FILE: Final = "probe.npy"

_log = structlog.get_logger(__name__)


# --- train ------------------------------------------------------------------------------------------


def train_model(order: NightOrder) -> NightOrder:
    """Learn from the labeled frames and a sample of the pool, until done or out of time; write a bundle.

    The bundle is calibrated on frames of subjects of whom nothing was learned.

    Raises:
        TrainingError: if the losses run away.
        OSError: if the disk is full.
    """
    if (order.draft / MANIFEST).exists():
        return order
    uncalibrated = order.workplace / "uncalibrated"
    for unfinished in (uncalibrated, order.draft):
        shutil.rmtree(unfinished, ignore_errors=True)
    settings, deadline = order.settings, time.monotonic() + order.training_s
    pool = PoolDataset.open(order.pool)
    labeled = _labeled_sets(order)
    unlabeled = pool.sample(settings.max_unlabeled_frames, seed=settings.seed)
    trained = train_gan(
        masked_frames(labeled.train, MASK),
        labels_of(order.task, labeled.train),
        unlabeled,
        classes=len(CLASSES[order.task]),
        preset=order.preset,
        schedule=_schedule(order, len(unlabeled)),
        options=_options(order),
        seed=settings.seed,
        folder=order.workplace / "training",
        on_step=ProgressFile(order.workplace),
        out_of_time=lambda: time.monotonic() > deadline,
    )
    epochs = int(max((entry["epoch"] for entry in trained.log), default=0))
    training = _training_record(order, pool, labeled, len(unlabeled), epochs=epochs)
    np.save(order.workplace / _PROBE_FILE, classify(trained.classifier, _probe(labeled)))
    write_bundle(
        uncalibrated,
        trained.classifier,
        task=order.task,
        version=order.version,
        classes=CLASSES[order.task],
        mask=MASK,
        training=training,
        metrics={},
        card=f"# {order.task} {order.version}\n",  # `finish_bundle` writes it
    )
    calibrate_bundle(
        uncalibrated,
        labeled.validation,
        labeled.test,
        order.draft.parent,
        source="phantom",
        version=order.version,
    )
    return order


def _labeled_sets(order: NightOrder) -> LabeledSets:
    return render_labeled_sets(
        order.task,
        seed=order.settings.seed,
        train_subjects=order.settings.labeled_subjects,
        test_subjects=order.settings.test_subjects,
        cache=order.workplace / "frames",
    )


def _probe(labeled: LabeledSets) -> npt.NDArray[np.uint8]:
    """Give the frames by which the written bundle is compared with the network that was trained."""
    return masked_frames(labeled.validation, MASK)[:_PROBE_FRAMES]


def _schedule(order: NightOrder, unlabeled: int) -> GanSchedule:
    """Take the preset's schedule; a small pool is passed over more often to make up the steps."""
    schedule, epochs = GAN_SCHEDULES[order.settings.preset], order.settings.epochs
    if epochs is None:
        epochs = -(-order.settings.training_steps // max(1, unlabeled // schedule.batch_size))
    return dataclasses.replace(schedule, epochs=epochs)


def _options(order: NightOrder) -> GanOptions:
    settings = order.settings
    return GanOptions(head=settings.head, ema_decay=settings.ema_decay or None, ensemble=settings.ensemble)


def _training_record(
    order: NightOrder, pool: PoolDataset, labeled: LabeledSets, unlabeled: int, *, epochs: int
) -> dict[str, Any]:
    settings = order.settings
    return {
        "method": "semi-supervised GAN",
        "seed": settings.seed,
        "preset": settings.preset,
        "options": dataclasses.asdict(_options(order)),
        "epochs": epochs,
        "pool": {"frames": pool.manifest.frames, "fingerprint": pool.manifest.fingerprint},
        "unlabeled_frames": unlabeled,
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


# --- evaluate ---------------------------------------------------------------------------------------


def evaluate_model(order: NightOrder) -> Evaluation:
    """Load the bundle as it was written, and let it and the one at work predict the fixed labeled set.

    Each is given the frames masked as its contract asks, with the phantom's true masks.
    """
    labeled = _labeled_sets(order)
    test = labeled.test
    bundle, fault = check_bundle(order.draft, _probe(labeled), np.load(order.workplace / _PROBE_FILE))
    production = _load_production(order)
    return Evaluation(
        order=order,
        labels=labels_of(order.task, test),
        subjects=test.subjects,
        candidate=np.zeros(0, np.float32) if bundle is None else _predict(bundle, test),
        production=None if production is None else _predict(production, test),
        production_version=None if production is None else production.manifest.version,
        test_fingerprint=test.fingerprint(),
        fault=fault,
    )


def _predict(bundle: Bundle, test: LabeledFrames) -> npt.NDArray[np.float32]:
    return bundle.predict(masked_frames(test, bundle.manifest.mask))


def _load_production(order: NightOrder) -> Bundle | None:
    """Load the model at work; one that cannot be loaded is no rival."""
    try:
        return load_bundle(Registry(order.settings.models).resolve(order.task))
    except NotInRegistryError:
        return None
    except (BundleError, OSError, ValueError) as error:
        _log.warning("production cannot be loaded", error=describe_error(error))
        return None


# --- judge ------------------------------------------------------------------------------------------


def judge_model(evaluation: Evaluation) -> tuple[NightOrder, Verdict]:
    """Let the gate compare the two; its first word holds, also if this night is gone on with."""
    order = evaluation.order
    return order, order.keep("verdict.json", Verdict, lambda: _judge(evaluation))


def _judge(evaluation: Evaluation) -> Verdict:
    classes = CLASSES[evaluation.order.task]
    if evaluation.fault is not None:
        decision, measures = refuse(evaluation.fault), {}
    else:
        decision = decide(
            evaluation.labels,
            evaluation.candidate,
            evaluation.production,
            subjects=evaluation.subjects,
            classes=classes,
            rule=evaluation.order.settings.gate,
        )
        measures = _measures(evaluation, evaluation.candidate)
    return Verdict(
        decision,
        candidate=measures,
        production={} if evaluation.production is None else _measures(evaluation, evaluation.production),
        production_version=evaluation.production_version,
        test_fingerprint=evaluation.test_fingerprint,
    )


def _measures(evaluation: Evaluation, probabilities: npt.NDArray[np.float32]) -> dict[str, Interval]:
    predicted = by_class(probabilities).argmax(axis=1)
    return measure_classes(evaluation.labels, predicted, evaluation.subjects, CLASSES[evaluation.order.task])


# --- publish ----------------------------------------------------------------------------------------


def publish_model(judged: tuple[NightOrder, Verdict]) -> Night:
    """Put the bundle into the registry with the gate's reason, and to work if the gate says so."""
    order, verdict = judged
    return order.keep("night.json", Night, lambda: _publish(order, verdict))


def _publish(order: NightOrder, verdict: Verdict) -> Night:
    registry, decision = Registry(order.settings.models), verdict.decision
    usable = all(check.passed for check in decision.checks if check.name == "bundle")
    if usable:
        word = "passed the gate" if decision.promote else "kept out"
        registry.publish(
            finish_bundle(order.draft, order.bundle, verdict.candidate),
            reason=f"nightly, {word}: {decision.reason}",
            numbers=decision.numbers,
        )
    else:
        registry.refuse(order.task, order.version, reason=f"nightly, refused: {decision.reason}")
    pruned = registry.prune(order.task, keep=order.settings.keep_models)
    if decision.promote and not _was_promoted(registry, order):
        reason = f"nightly: {decision.reason}"
        registry.promote(order.task, order.version, reason=reason, numbers=decision.numbers)
    training = read_manifest(order.draft).training if usable else {"epochs": 0}
    return Night(
        outcome=Outcome.PROMOTED if decision.promote else Outcome.KEPT_OUT,
        task=order.task,
        version=order.version,
        verdict=verdict,
        pool=PoolDataset.open(order.pool).manifest,
        epochs=training["epochs"],
        pruned=tuple(pruned),
    )


def _was_promoted(registry: Registry, order: NightOrder) -> bool:
    """Say whether a run that was killed afterwards has put it to work; somebody may have rolled it back."""
    events = [event for event in registry.history(order.task) if event.action in ("promote", "rollback")]
    ours = [event for event in events if event.version == order.version]
    cut_off = bool(ours) and events[-1] is ours[-1] and registry.production(order.task) != order.version
    return bool(ours) and not cut_off
