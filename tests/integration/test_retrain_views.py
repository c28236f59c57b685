"""A night for the names of views: frames of every view come out of the archive of de-identified DICOM."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_jobs.labeled_sets import LabeledSets
from beam_jobs.nightly import stages
from beam_jobs.retrain import EmptyPoolError, retrain
from beam_jobs.retrain_settings import RetrainSettings
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from dicom_listener.settings import load_section
from echo_models.bundle import load_bundle
from echo_models.datasets import Known, LabeledFrames
from echo_models.registry import Registry
from echo_models.views import VIEWS
from tests.bright import BRIGHT, DARK, write_bright_registry
from tests.studies import AT_ONCE, clip, receive
from tests.toy import TOY_PRESET


def frames_of_all_views(seed: int) -> LabeledFrames:
    """Draw noise of five subjects in each view: enough to calibrate on, and nothing to learn."""
    views = np.repeat(np.arange(len(VIEWS)), 5)
    count = len(views)
    frames = np.random.default_rng(seed).integers(0, 256, (count, 120, 160), np.uint8)
    everywhere = np.ones(frames.shape, bool)
    who = np.tile(np.arange(5), len(VIEWS))
    known = np.full(count, Known.ALL, np.uint8)
    return LabeledFrames(frames, everywhere, ~everywhere, views, who % 2 == 1, who, known)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a root in which a worker has processed three clips of two subjects, with an archive."""
    labeled = LabeledSets(*map(frames_of_all_views, range(3)))
    monkeypatch.setattr(stages, "render_labeled_sets", lambda *_, **__: labeled)
    write_bright_registry(tmp_path / "models")
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    instances = (clip(1, 1, grey=BRIGHT), clip(1, 2, grey=DARK), clip(2, 1, grey=DARK))
    receive(ledger, tmp_path / "spool", instances, now=time.time() - 10)
    ledger.close()
    deid = DeidSettings(root=tmp_path, ocr="off", archive=True)
    with Worker(WorkerSettings(root=tmp_path, http_port=0), AT_ONCE, deid=deid) as worker:
        worker.run(once=True)
    tf.config.run_functions_eagerly(True)
    yield tmp_path
    tf.config.run_functions_eagerly(False)


def settings_of(root: Path, **overrides: Any) -> RetrainSettings:
    wanted: dict[str, Any] = {"task": "view", "epochs": 0, "min_view_confidence": 0.0, "min_pool_frames": 4}
    return load_section(RetrainSettings, "retrain", root, **{**wanted, **overrides})


def test_a_night_for_views_learns_from_frames_of_all_views_and_is_judged_like_any(root: Path) -> None:
    night = retrain(settings_of(root), preset=TOY_PRESET)
    assert (night.task, night.version, night.production) == ("view", "gan-0001", "bright")
    assert (night.pool.view, night.pool.frames, night.pool.subjects) == ("views", 6, 2)
    dataset = root / "pool" / "datasets" / night.pool.name
    rows = pq.read_table(dataset / night.pool.shards[0].file).to_pylist()
    assert sorted(row["view"] for row in rows) == ["a4c"] * 2 + ["plax"] * 4
    frame = np.frombuffer(rows[0]["frame"], np.uint8).reshape(120, 160)
    assert frame[:, :100].min() > 0
    assert frame[:, 130:].max() == 0

    registry = Registry(root / "models")
    bundle = load_bundle(registry.resolve("view", "gan-0001"))
    assert bundle.manifest.classes == VIEWS
    assert bundle.manifest.training["pool"]["fingerprint"] == night.pool.fingerprint
    assert bundle.manifest.calibration is not None
    assert "class_floor" in {check.name for check in night.verdict.decision.checks if not check.passed}
    assert registry.production("view") == "bright"
    assert registry.production("lvh") == "bright"


def test_without_an_archive_the_pool_is_empty_and_the_error_says_how_to_get_one(root: Path) -> None:
    with pytest.raises(EmptyPoolError, match=r"\[deid\] archive") as caught:
        retrain(settings_of(root, archive=root / "elsewhere"), preset=TOY_PRESET)
    assert caught.value.manifest.dropped["not_in_archive"] == 6
