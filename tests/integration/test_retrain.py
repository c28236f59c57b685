"""Whole nights on a small archive, with real models: what is better goes in, all else stays out.

The models in production here are made to be good or bad on the fixed set itself: a small network that
has learned its frames by heart, with their labels or with the opposite ones.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from beam_jobs.labeled_sets import CLASSES, TEST_SEED, hypertrophy_labels, masked_frames, render_labeled_sets
from beam_jobs.model_handlers import HypertrophyModelHandler
from beam_jobs.retrain import EmptyPoolError, Night, Outcome, RetrainBusyError, retrain
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.settings import load_section
from echo_models.bundle import load_bundle, write_bundle
from echo_models.datasets import LabeledFrames
from echo_models.errors import DatasetError
from echo_models.preprocessing import to_input
from echo_models.registry import Registry
from tests.pool_archive import StoredFrame, write_archive
from tests.programs import running_pushgateway
from tests.toy import TOY_PRESET

TEST_SUBJECTS = 16
TOY: dict[str, Any] = {
    "labeled_subjects": 8,
    "test_subjects": TEST_SUBJECTS,
    "training_steps": 1,
    "gate_floor": 0.3,
}
"""What a test can afford. Its GAN learns nothing: it is neither good nor bad, about one half."""


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Run TensorFlow step by step: tracing takes ten times longer than the one step that is made here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def fixed_set() -> LabeledFrames:
    return render_labeled_sets(seed=0, train_subjects=4, test_subjects=TEST_SUBJECTS).test


def make_root(root: Path, fixed_set: LabeledFrames, *, knows: str) -> Path:
    """Make a root with an archive, and in production a model that knows the fixed set, or its opposite."""
    write_archive(root, [StoredFrame("s", "t", "i", index, index) for index in range(40)])
    labels = hypertrophy_labels(fixed_set)
    model = by_heart(masked_frames(fixed_set, "lv"), labels if knows == "truth" else 1 - labels)
    bundle = write_bundle(
        root / "made" / knows,
        model,
        task="lvh",
        version=knows,
        classes=CLASSES,
        mask="lv",
        training={},
        metrics={},
        card="# Knows the fixed set by heart\n",
    )
    registry = Registry(root / "models")
    registry.publish(bundle, now=0.0)
    registry.promote("lvh", knows, reason="test", now=0.0)
    return root


def by_heart(frames: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> keras.Model:
    """Solve one linear layer on coarse frames for these labels: few frames, many pixels, an exact fit."""
    inputs = keras.Input((120, 160, 1))
    coarse = layers.Flatten()(layers.AveragePooling2D(8)(inputs))
    dense = layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, dense(coarse))
    pixels = np.asarray(keras.Model(inputs, coarse).predict_on_batch(to_input(frames)), np.float64)
    pixels = np.hstack([pixels, np.ones((len(pixels), 1))])
    weights = np.linalg.lstsq(pixels, 8.0 * (2 * labels - 1), rcond=None)[0]
    dense.set_weights([weights[:-1, None].astype(np.float32), weights[-1:].astype(np.float32)])
    return model


def settings_of(root: Path, **overrides: Any) -> RetrainSettings:
    return load_section(RetrainSettings, "retrain", root, **{**TOY, **overrides})


def a_night(root: Path, **overrides: Any) -> Night:
    clock = count().__next__
    return retrain(settings_of(root, **overrides), preset=TOY_PRESET, wall_clock=lambda: 1000.0 + clock())


@pytest.fixture
def pushgateway() -> Iterator[str]:
    with running_pushgateway() as url:
        yield url


def test_a_better_model_goes_in_and_the_next_batch_uses_it(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    next_batch = HypertrophyModelHandler(root / "models", batch_size=8)
    assert next_batch.load_model().name == "lvh-opposite"
    night = a_night(root)
    assert (night.outcome, night.version, night.production) == (Outcome.PROMOTED, "gan-0001", "opposite")
    assert night.verdict.production["balanced_accuracy"].value < 0.1
    assert night.verdict.candidate["accuracy"].n == 2 * TEST_SUBJECTS
    assert next_batch.load_model().name == "lvh-gan-0001"

    history = Registry(root / "models").history("lvh")[-1]
    assert (history.action, history.version) == ("promote", "gan-0001")
    assert night.verdict.decision.reason in history.reason
    assert dict(history.numbers) == dict(night.verdict.decision.numbers)
    manifest = load_bundle(Registry(root / "models").resolve("lvh")).manifest
    assert (manifest.mask, manifest.classes) == ("fov", CLASSES)
    assert manifest.training["pool"]["fingerprint"] == night.pool.fingerprint
    assert manifest.training["test"]["fingerprint"] == night.test_fingerprint == fixed_set.fingerprint()
    assert manifest.metrics["accuracy"] == night.verdict.candidate["accuracy"]


def test_a_worse_model_stays_out_and_the_reason_is_in_the_history(
    tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    night = a_night(
        root, epochs=0, pushgateway_url="http://127.0.0.1:9"
    )  # nobody hears of it; it counts all the same
    registry = Registry(root / "models")
    assert night.outcome == Outcome.KEPT_OUT
    assert night.verdict.production["balanced_accuracy"].value > 0.95
    assert registry.production("lvh") == "truth"
    history = registry.history("lvh")[-1]
    assert (history.action, history.version) == ("publish", night.version)
    assert "kept out" in history.reason
    assert night.verdict.decision.reason in history.reason


def test_a_model_that_learned_nothing_stays_below_the_floor(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    night = a_night(root, epochs=0, gate_floor=0.95)
    assert (night.outcome, night.epochs) == (Outcome.KEPT_OUT, 0)
    assert "floor" in night.verdict.decision.reason
    assert Registry(root / "models").production("lvh") == "opposite"


def test_nights_are_numbered_and_a_kept_out_version_is_never_used_again(
    tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    assert [a_night(root, epochs=0).version for _ in range(2)] == ["gan-0001", "gan-0002"]


def test_an_empty_pool_leaves_production_and_says_what_each_rule_dropped(
    tmp_path: Path, fixed_set: LabeledFrames, pushgateway: str
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    with pytest.raises(EmptyPoolError, match=r"at least 16 .* has 0 of 40 stored ones") as caught:
        a_night(root, min_view_confidence=0.95, pushgateway_url=pushgateway)
    assert caught.value.manifest.dropped["low_confidence"] == 40
    assert Registry(root / "models").production("lvh") == "truth"
    with urlopen(f"{pushgateway}/metrics", timeout=60) as answer:  # noqa: S310 - the gateway of this test
        text = answer.read().decode()
    assert 'echobeam_retrain_decision{decision="no_pool",instance="",job="echobeam-retrain"} 1\n' in text
    assert 'rule="low_confidence"} 40\n' in text
    assert "last_success" not in text


def test_training_ends_with_the_epoch_in_which_its_time_is_over(
    tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    hours = count(step=3600.0)  # each look at the clock is an hour later
    night = retrain(
        settings_of(root, epochs=50, time_budget_s=1.0), preset=TOY_PRESET, clock=lambda: next(hours)
    )
    assert night.epochs == 1
    assert night.version in Registry(root / "models").versions("lvh")


KILLED_NIGHT = """
import os, signal, sys
from pathlib import Path
from beam_jobs import retrain as job
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.settings import load_section
from tests.toy import TOY_PRESET
import tensorflow as tf

tf.config.run_functions_eagerly(True)

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

where, root, overrides = sys.argv[1], Path(sys.argv[2]), eval(sys.argv[3])
on_step = die if where == "training" else None
if where == "judging":
    job.judge = die
if where == "promoting":
    job.Registry.promote = die
job.retrain(load_section(RetrainSettings, "retrain", root, **overrides), preset=TOY_PRESET, on_step=on_step)
"""


@pytest.mark.parametrize("where", ["training", "judging", "promoting"])
def test_a_kill_leaves_production_and_the_next_run_starts_again(
    tmp_path: Path, fixed_set: LabeledFrames, where: str
) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    Registry(root / "models").install_shipped(now=0.0)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_NIGHT, where, str(root), repr(TOY)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    registry = Registry(root / "models")
    assert registry.production("lvh") == "opposite"
    assert load_bundle(registry.resolve("lvh")).name == "lvh-opposite"
    assert a_night(root, epochs=0).outcome == Outcome.PROMOTED
    assert not (root / "run" / "retrain").exists()


def test_two_nights_never_overlap(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    busy = []

    def try_another(_: object) -> None:
        with pytest.raises(RetrainBusyError, match=r"retrain\.lock"):
            a_night(root)
        busy.append(run_verb(root).returncode)

    night = retrain(settings_of(root), preset=TOY_PRESET, on_step=try_another)
    assert night.outcome == Outcome.PROMOTED
    assert busy == [4]


def run_verb(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    toy = {f"ECHOBEAM_RETRAIN_{name.upper()}": str(value) for name, value in TOY.items()}
    return subprocess.run(
        [sys.executable, "-m", "beam_jobs", "retrain", "--root", str(root), *options],
        env={**os.environ, **toy},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_verb_prints_counts_decision_reason_and_intervals(
    tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    done = run_verb(root, "--epochs", "0", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["decision"] == "kept_out"
    assert "balanced accuracy" in shown["reason"]
    assert shown["pool"]["candidates"] == 40
    assert shown["pool"]["frames"] == 40
    assert shown["candidate"]["accuracy"].keys() == {"value", "low", "high", "n"}
    assert shown["production"]["accuracy"]["value"] > 0.95
    told = run_verb(root, "--epochs", "0", "--quiet").stdout
    assert "pool a4c-" in told
    assert "lvh gan-0002: kept out" in told
    assert "n = 32" in told


def test_the_verb_says_that_the_pool_is_empty_and_fails(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    done = run_verb(tmp_path / "root", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["decision"] == "no_pool"
    assert "production stays as it is" in done.stderr


def test_the_verb_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text("[retrain]\nmin_view_confidence = 2\nno_such = 1\n")
    done = run_verb(tmp_path)
    assert done.returncode == 2
    assert "min_view_confidence" in done.stderr
    assert "no_such" in done.stderr


def test_the_fixed_set_is_the_same_every_night_and_shares_nobody(fixed_set: LabeledFrames) -> None:
    other = render_labeled_sets(seed=1, train_subjects=4, test_subjects=TEST_SUBJECTS)
    assert other.test.fingerprint() == fixed_set.fingerprint()
    assert len(np.unique(fixed_set.subjects)) == TEST_SUBJECTS
    with pytest.raises(DatasetError, match="choose another seed"):
        render_labeled_sets(seed=TEST_SEED, train_subjects=4, test_subjects=4)
