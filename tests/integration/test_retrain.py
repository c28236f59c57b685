"""Whole nights on a small archive, with real models: what is better goes in, all else stays out.

The models in production here are made to be good or bad on the fixed set itself: a small network that
has learned its frames by heart, with their labels or with the opposite ones.
"""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.request import urlopen

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras import layers

from beam_jobs.labeled_sets import (
    CLASSES,
    TEST_SEED,
    VALIDATION_SEED,
    LabeledSets,
    labels_of,
    masked_frames,
    render_labeled_sets,
)
from beam_jobs.model_handlers import HypertrophyModelHandler
from beam_jobs.nightly import order as night_order
from beam_jobs.nightly import pipeline, stages
from beam_jobs.retrain import EmptyPoolError, Night, Outcome, RetrainBusyError, retrain, workplace_of
from beam_jobs.retrain_settings import RetrainSettings, Task
from beam_jobs.verbs.retrain import retrain as retrain_verb
from dicom_listener.settings import load_section
from echo_models.bundle import load_bundle, write_bundle
from echo_models.datasets import LabeledFrames
from echo_models.errors import DatasetError, NotInRegistryError, TrainingError
from echo_models.gan import GAN_SCHEDULES
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
    "gate_class_floor": 0.0,
    "gate_max_calibration_error": 1.0,
}
"""What a test can afford. Its GAN learns nothing: it is neither good nor bad, about one half."""


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Run TensorFlow step by step: tracing takes ten times longer than the one step that is made here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep rendered frames for all nights here: they are the same, and half of what a toy night takes."""
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture(autouse=True)
def labeled_sets_rendered_once(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(task: Task, **options: Any) -> LabeledSets:
        return render_labeled_sets(task, **{**options, "cache": rendered})

    monkeypatch.setattr(stages, "render_labeled_sets", render)


@pytest.fixture(scope="module")
def fixed_set(rendered: Path) -> LabeledFrames:
    return render_labeled_sets(
        "lvh", seed=0, train_subjects=8, test_subjects=TEST_SUBJECTS, cache=rendered
    ).test


def make_root(root: Path, fixed_set: LabeledFrames, *, knows: str) -> Path:
    """Make a root with an archive, and in production a model that knows the fixed set, or its opposite."""
    write_archive(root, [StoredFrame("s", "t", "i", index, index) for index in range(40)])
    labels = labels_of("lvh", fixed_set)
    model = by_heart(masked_frames(fixed_set, "lv"), labels if knows == "truth" else 1 - labels)
    bundle = write_bundle(
        root / "made" / knows,
        model,
        task="lvh",
        version=knows,
        classes=CLASSES["lvh"],
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


def test_a_night_trains_the_gan_that_its_settings_ask_for(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    night = a_night(root, head="sigmoid", ema_decay=0.9, ensemble=2)
    training = load_bundle(root / "models" / "lvh" / night.version).manifest.training
    assert {name: training["options"][name] for name in ("head", "ema_decay", "ensemble")} == {
        "head": "sigmoid",
        "ema_decay": 0.9,
        "ensemble": 2,
    }
    assert training["epochs"] == 1


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
    assert (manifest.mask, manifest.classes) == ("fov", CLASSES["lvh"])
    assert manifest.training["pool"]["fingerprint"] == night.pool.fingerprint
    assert manifest.training["test"]["fingerprint"] == night.test_fingerprint == fixed_set.fingerprint()
    assert manifest.metrics["accuracy"] == night.verdict.candidate["accuracy"]

    shutil.rmtree(root / "models" / "lvh" / "gan-0001")
    with pytest.raises(NotInRegistryError):
        next_batch.load_model()
    assert Registry(root / "models").rollback("lvh") == "opposite"
    assert next_batch.load_model().name == "lvh-opposite"


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
    assert history.numbers == night.verdict.decision.numbers


def test_a_model_that_learned_nothing_stays_below_the_floor(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    night = a_night(root, epochs=0, gate_floor=0.95)
    assert (night.outcome, night.epochs) == (Outcome.KEPT_OUT, 0)
    assert "floor" in night.verdict.decision.reason
    assert Registry(root / "models").production("lvh") == "opposite"


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
    labels = 'decision="no_pool",instance="",job="echobeam-retrain",task="lvh"'
    assert f"echobeam_retrain_decision{{{labels}}} 1\n" in text
    assert 'rule="low_confidence",task="lvh"} 40\n' in text
    assert "last_success" not in text


def test_training_ends_with_the_epoch_in_which_its_time_is_over(
    tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    night = a_night(root, epochs=50, time_budget_s=1e-6)
    assert night.epochs == 1
    assert night.version in Registry(root / "models").versions("lvh")


def test_a_training_that_runs_away_leaves_production(
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    wild = dataclasses.replace(GAN_SCHEDULES["small"], learning_rate=1e30)
    monkeypatch.setattr(stages, "GAN_SCHEDULES", {"small": wild})
    with pytest.raises(TrainingError, match="smaller learning rate"):
        a_night(root, epochs=4)
    registry = Registry(root / "models")
    assert registry.production("lvh") == "opposite"
    assert {event.version for event in registry.history("lvh")} & {"gan-0001"} == set()


def test_a_bundle_that_is_not_what_was_trained_is_refused(
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")

    def write_another(folder: Path, model: keras.Model, **others: Any) -> Path:
        model.set_weights([weight + 0.5 for weight in model.get_weights()])
        return write_bundle(folder, model, **others)

    monkeypatch.setattr(stages, "write_bundle", write_another)
    night = a_night(root)
    assert night.outcome == Outcome.KEPT_OUT
    assert "differs from what was trained" in night.verdict.decision.reason
    registry = Registry(root / "models")
    event = registry.history("lvh")[-1]
    assert (event.action, event.version) == ("refuse", "gan-0001")
    assert registry.production("lvh") == "opposite"
    assert "gan-0001" not in registry.versions("lvh")
    monkeypatch.undo()
    assert a_night(root).version == "gan-0002"


def test_old_models_and_pools_are_pruned(tmp_path: Path, fixed_set: LabeledFrames) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    nights = []
    for frames in (20, 30, 40):
        write_archive(root, [StoredFrame("s", "t", "i", index, index) for index in range(frames)])
        nights.append(a_night(root, epochs=0, keep_models=1, keep_datasets=1))
    assert [night.version for night in nights] == ["gan-0001", "gan-0002", "gan-0003"]
    assert [night.pruned for night in nights] == [(), ("gan-0001",), ("gan-0002",)]
    assert set(Registry(root / "models").versions("lvh")) >= {"truth", "gan-0003"}
    assert [path.name for path in (root / "pool" / "datasets").iterdir()] == [nights[-1].pool.name]


# --- kills and full disks ---------------------------------------------------------------------------

TROUBLE: dict[str, list[str]] = {
    "pool": ["kill"],
    "training": ["kill", "full"],
    "evaluating": ["kill", "full"],
    "judging": ["kill", "full"],
    "publishing": ["kill", "full"],
    "promoting": ["kill", "full"],
    "promoted": ["kill"],
}
"""What happens to one and the same night, one after another."""

TROUBLED_NIGHT = """
import errno, json, os, resource, signal, sys, traceback
from pathlib import Path
from beam_jobs import labeled_sets
from beam_jobs import retrain as job
from beam_jobs.nightly import stages
from beam_jobs.retrain_settings import RetrainSettings
from dicom_listener.settings import load_section
from echo_models import registry
from tests.toy import TOY_PRESET
import tensorflow as tf

trouble, root, overrides = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
places = {
    "pool": (job, "build_pool"),
    "training": (stages.ProgressFile, "__call__"),
    "evaluating": (stages, "check_bundle"),
    "judging": (stages, "decide"),
    "publishing": (registry.Registry, "publish"),
    "promoting": (registry, "_replace_text"),
    "promoted": (stages, "Night"),
}

def happen(place, what):
    owner, name = places[place]
    original = getattr(owner, name)
    def hit(*arguments, **named):
        if place == "training" and arguments[1].epoch < 2 or place == "publishing" and "numbers" not in named:
            return original(*arguments, **named)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return original(*arguments, **named)
    setattr(owner, name, hit)

def render(task, **options):
    return labeled_sets.render_labeled_sets(task, **options | {"cache": Path(sys.argv[4])})

stages.render_labeled_sets = render

def night():
    tf.config.run_functions_eagerly(True)
    job.retrain(load_section(RetrainSettings, "retrain", root, **overrides), preset=TOY_PRESET)

for place, whats in trouble.items():
    for what in whats:
        child = os.fork()
        if child == 0:
            try:
                happen(place, what)
                night()
            except (OSError, job.RetrainError) as error:
                if os.strerror(errno.EFBIG) in str(error):
                    os._exit(errno.EFBIG)
                traceback.print_exc()
            except BaseException:
                traceback.print_exc()
            os._exit(99)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        order = root / "run" / "retrain" / "lvh" / "order.json"
        begun = json.loads(order.read_text())["begun_at"] if order.exists() else None
        now = registry.Registry(root / "models")
        print(json.dumps([place, what, status, begun, now.resolve("lvh").name]), flush=True)
night()
"""


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, fixed_set: LabeledFrames, rendered: Path
) -> tuple[Path, list[list[Any]]]:
    """A night that was killed, or had no disk left, in each stage, and was started again each time."""
    root = make_root(tmp_path_factory.mktemp("troubled"), fixed_set, knows="opposite")
    Registry(root / "models").install_shipped(now=0.0)
    arguments = [json.dumps(TROUBLE), str(root), json.dumps(TOY | {"epochs": 3}), str(rendered)]
    done = subprocess.run(
        [sys.executable, "-c", TROUBLED_NIGHT, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_a_kill_or_a_full_disk_in_any_stage_leaves_production(
    troubled: tuple[Path, list[list[Any]]],
) -> None:
    _, happened = troubled
    assert [(place, what) for place, what, *_ in happened] == [
        (place, what) for place, whats in TROUBLE.items() for what in whats
    ]
    for place, what, status, _, production in happened:
        assert status == (-signal.SIGKILL if what == "kill" else errno.EFBIG), (place, what)
        assert production == ("gan-0001" if place == "promoted" else "opposite"), (place, what)


def test_a_night_that_was_cut_off_is_gone_on_with_and_makes_what_it_would_have_made(
    troubled: tuple[Path, list[list[Any]]], tmp_path: Path, fixed_set: LabeledFrames
) -> None:
    root, happened = troubled
    begun = [begun for *_, begun, _ in happened]
    assert begun[0] is None
    assert len(set(begun[1:])) == 1
    registry = Registry(root / "models")
    story = [event.action for event in registry.history("lvh") if event.version == "gan-0001"]
    assert story[0] == "publish"
    assert registry.production("lvh") == "gan-0001"
    assert not workplace_of(settings_of(root)).exists()
    assert registry.rollback("lvh") == "opposite"

    in_one_go = make_root(tmp_path, fixed_set, knows="opposite")
    a_night(in_one_go, epochs=3)
    # Weights, not files: Keras counts the layers that a process has made, and the count is in their names.
    resumed, whole = (load_bundle(at / "models" / "lvh" / "gan-0001").model for at in (root, in_one_go))
    assert len(resumed.get_weights()) > 20
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_night_is_begun_where_settings_changed_or_a_day_has_passed(
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, fixed_set, knows="truth")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "decide", Mock(side_effect=OSError("cut off")))
        with pytest.raises(OSError, match="cut off"):
            a_night(root, epochs=0)
    left = json.loads((workplace_of(settings_of(root)) / "order.json").read_text())
    wanted = night_order.NightOrder(
        "gan-0009", settings_of(root, epochs=0), TOY_PRESET, root, workplace_of(settings_of(root)), 1.0
    )
    begun = night_order.resume_order(wanted, now=left["begun_at"] + 60)
    assert begun is not None
    assert (begun.version, str(begun.pool)) == ("gan-0001", left["pool"])
    assert night_order.resume_order(wanted, now=left["begun_at"] + 25 * 3600) is None
    other = dataclasses.replace(wanted, settings=settings_of(root, epochs=0, seed=7))
    assert night_order.resume_order(other, now=left["begun_at"] + 60) is None
    shutil.rmtree(left["pool"])
    assert night_order.resume_order(wanted, now=left["begun_at"] + 60) is None


def test_a_model_that_was_rolled_back_is_not_promoted_again(
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    with monkeypatch.context() as patch:
        promote = Registry.promote

        def promote_and_stop(*arguments: Any, **options: Any) -> None:
            promote(*arguments, **options)
            if "gan-0001" in arguments:  # what ships is promoted, too
                raise OSError("cut off")

        patch.setattr(Registry, "promote", promote_and_stop)
        with pytest.raises(OSError, match="cut off"):
            a_night(root, epochs=0)
    registry = Registry(root / "models")
    assert registry.production("lvh") == "gan-0001"
    registry.rollback("lvh")
    assert a_night(root, epochs=0).version == "gan-0001"
    assert registry.production("lvh") == "opposite"


def test_two_nights_never_overlap(
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, fixed_set, knows="opposite")
    busy = tmp_path / "busy"  # a file: Beam carries copies of what a step closes over
    judge = stages.judge_model

    def try_another(*arguments: Any) -> Any:
        with pytest.raises(RetrainBusyError, match=r"retrain\.lock"):
            a_night(root)
        busy.write_text(str(run_verb(root).returncode))
        return judge(*arguments)

    monkeypatch.setattr(pipeline, "judge_model", try_another)
    assert a_night(root).outcome == Outcome.PROMOTED
    assert busy.read_text() == "4"


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
    tmp_path: Path, fixed_set: LabeledFrames, monkeypatch: pytest.MonkeyPatch
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
    for name, value in TOY.items():
        monkeypatch.setenv(f"ECHOBEAM_RETRAIN_{name.upper()}", str(value))
    told = CliRunner().invoke(retrain_verb, ["--root", str(root), "--epochs", "0", "--quiet"]).output
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


def test_the_fixed_set_is_the_same_every_night_and_shares_nobody(
    fixed_set: LabeledFrames, rendered: Path
) -> None:
    other = render_labeled_sets("lvh", seed=1, train_subjects=4, test_subjects=TEST_SUBJECTS, cache=rendered)
    assert other.test.fingerprint() == fixed_set.fingerprint()
    assert len(np.unique(fixed_set.subjects)) == TEST_SUBJECTS
    for seed in (TEST_SEED, VALIDATION_SEED):
        with pytest.raises(DatasetError, match="choose another seed"):
            render_labeled_sets("lvh", seed=seed, train_subjects=4, test_subjects=4, cache=rendered)
