"""Experiments: resumed arm by arm, measured, reported; and their verb on a toy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from echo_models.augment import Augmentation
from echo_models.datasets import Examples, Known, LabeledFrames, Plan
from echo_models.errors import TrainingError
from echo_models.experiments import hypertrophy, resolution, setups, sizes, views
from echo_models.experiments.report import class_table, table, write_report
from echo_models.experiments.results import Facts, Result, Shelf, read_results
from echo_models.experiments.runs import Exam, Stopwatch, measure
from echo_models.fitting import Step
from echo_models.networks import PRESETS, Preset, build_view_classifier, logits_of
from echo_models.transfer import build_resnet50, build_vgg16, convolutional_base
from echo_models.views import VIEWS
from tests.experiments import no_more_steps_than_all, toy_setup

TINY = sizes.Size(
    "small",
    resolution_subjects=12,
    subjects=12,
    hypertrophy_subjects=12,
    severity_subjects=1,
    severity_hearts=2,
    epochs=1,
    view_batch=None,
    test_ratio=0.15,
    sharp=dataclasses.replace(PRESETS["small"], stem_pool=1, cnn_filters=(2, 2, 2, 2), cnn_dense=(4,)),
    transfer_frames=4,
)
FACTS = Facts(
    "views", "toy", 3, "echobeam 0", {"fingerprint": "f", "plan": {"subjects": 8}, "test_subjects": 2,
                                      "frames": {"train": 1, "validation": 1, "test": 4}},
)  # fmt: skip


def result_of(arm: str = "plain", *, right: int = 3, note: str = "") -> Result:
    """Measure a model that gives fixed answers, `right` of four of them right."""
    labels = np.arange(4)
    answers = np.where(np.arange(4) < right, labels, 14)
    frames = np.zeros((4, 1, 1), np.uint8)
    frames[:, 0, 0] = answers * 10
    model = keras.Sequential(
        [
            keras.Input((1, 1, 1)),
            keras.layers.Flatten(),
            keras.layers.Rescaling(25.5),
            keras.layers.Lambda(lambda x: keras.ops.one_hot(keras.ops.cast(x[:, 0] + 0.5, "int32"), 15)),
        ]
    )
    return measure(
        FACTS,
        arm,
        f"arm {arm}",
        model,
        Exam(Examples(frames, None, labels), np.array([0, 0, 1, 1]), VIEWS),
        settings={"a": 1},
        log=[{"stage": arm, "epoch": 1, "loss": 1.0}],
        stopwatch=Stopwatch(no_more_steps_than_all),
        note=note,
    )


def test_a_result_counts_what_was_right() -> None:
    result = result_of(right=3)
    assert result.metrics["accuracy"].value == 0.75
    assert result.confusion[0][0] == 1
    assert result.confusion[3][14] == 1
    assert result.epochs == 1
    assert result.seconds_per_epoch is None
    assert result.images_per_second > 0


def test_an_arm_that_is_done_is_not_run_again_and_one_with_other_settings_is(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    made = []

    def make() -> Result:
        made.append(1)
        return result_of()

    for _ in range(2):
        shelf.obtain(FACTS, "plain", {"a": 1}, make)
    assert len(made) == 1
    shelf.obtain(FACTS, "plain", {"a": 2}, make)
    assert len(made) == 2
    assert shelf.find("absent", "key") is None


def test_a_file_that_is_no_result_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text("{}")
    with pytest.raises(TrainingError, match="Remove it"):
        Result.read(tmp_path / "plain.json")


def test_a_stopwatch_times_epochs_of_more_than_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 2.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr("echo_models.experiments.runs.time.perf_counter", lambda: next(times))
    watch = Stopwatch(no_more_steps_than_all)
    for epoch in (1, 2):
        for step in (1, 2, 3):
            watch(Step("stage", epoch, 2, step, 3, 0.5))
    assert watch.epochs_s == [3.0, 6.0]
    assert watch.seconds_per_epoch == 4.5


def test_a_report_names_the_arms_that_were_still_learning(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for arm, losses in {"plain": (3.0, 2.0, 1.0), "masked": (3.0, 1.0, 2.0)}.items():
        log = [{"stage": arm, "epoch": n + 1, "validation_loss": loss} for n, loss in enumerate(losses)]
        shelf.keep(
            result_of(arm).model_copy(update={"log": [{"stage": "before", "validation_loss": 0.5}, *log]})
        )
    page = write_report(tmp_path, command="echobeam experiment views").read_text()
    assert "Still learning when the schedule ended (validation loss at its lowest): arm plain.\n" in page


def test_a_report_has_every_arm_its_note_and_what_was_not_run(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.keep(result_of("masked", right=4))
    shelf.keep(result_of("plain", right=2, note="by hand"))
    page = write_report(tmp_path, command="echobeam experiment views", absent=["vgg16"]).read_text()
    assert page.index("arm plain (by hand)") < page.index("arm masked")
    assert "weights was given: vgg16." in page
    assert "synthetic" in page.lower()
    assert "1.000" in page
    for picture in ("views-accuracy.png", "views-confusion.png"):
        assert f"({picture})" in page
        assert (tmp_path / "report" / picture).read_bytes().startswith(b"\x89PNG")
    for arm in ("masked.json", "plain.json"):
        assert (tmp_path / "report" / "views" / arm).read_bytes() == (tmp_path / arm).read_bytes()


def test_a_folder_without_results_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has none"):
        write_report(tmp_path, command="")


def test_two_classes_are_told_by_sensitivity_and_have_no_class_table() -> None:
    result = result_of().model_copy(update={"classes": ("normal", "lvh")})
    both = dict.fromkeys(("accuracy", "f1", "sensitivity", "specificity"), result.metrics["accuracy"])
    result = result.model_copy(update={"metrics": both})
    assert "sensitivity" in table([result])[0]
    assert class_table([result]) == []


def noise(plan: Plan, **_: Any) -> LabeledFrames:
    """Stand in for the phantom: one frame of noise for each subject and view."""
    rng = np.random.default_rng(plan.seed)
    subjects = np.repeat(np.arange(plan.subjects), len(plan.views))
    shape = (len(subjects), plan.rows, plan.columns)
    masks = np.ones(shape, np.bool_)
    return LabeledFrames(
        frames=rng.integers(0, 256, shape, np.uint8),
        fov_masks=masks,
        lv_masks=masks,
        views=np.tile([VIEWS.index(view) for view in plan.views], plan.subjects),
        hypertrophy=subjects % 2 == 0,
        subjects=subjects,
        known=np.full(len(subjects), Known.ALL, np.uint8),
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "toy", TINY)
    monkeypatch.setattr(setups, "render", noise)


@pytest.mark.usefixtures("tiny")
def test_the_resolution_study_trains_an_arm_for_each_of_the_papers_resolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolution.ARMS == (
        (240, 320, "max", 7), (120, 160, "max", 3), (60, 80, "max", 3), (30, 40, "average", 3),
        (15, 20, "average", 3),
    )  # fmt: skip
    monkeypatch.setattr(resolution, "ARMS", (resolution.ARMS[0], resolution.ARMS[-1]))
    resolution.compare_resolutions(toy_setup(tmp_path))
    results = read_results(tmp_path)
    assert [result.arm for result in results] == ["240x320", "15x20"]
    assert len({result.data["fingerprint"] for result in results}) == 1

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an arm that is done was trained again")

    monkeypatch.setattr(resolution, "fit", never)
    resolution.compare_resolutions(toy_setup(tmp_path))


@pytest.mark.usefixtures("tiny")
def test_the_view_comparison_says_what_it_lacks_weights_for(tmp_path: Path) -> None:
    absent = views.compare_views(toy_setup(tmp_path), imagenet={}, random_transfer=False)
    assert absent == ["resnet50", "vgg16"]
    results = {result.arm: result for result in read_results(tmp_path)}
    assert list(results) == ["plain", "masked", "ensemble"]
    assert results["ensemble"].parameters == 3 * results["masked"].parameters


@pytest.mark.usefixtures("tiny")
def test_hypertrophy_is_measured_after_each_stage_of_each_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [arm.name for arm in hypertrophy.ARMS] == ["whole", "segmented", "random"]
    monkeypatch.setattr(hypertrophy, "ARMS", (hypertrophy.ARMS[0], hypertrophy.ARMS[2]))
    preset: Preset = PRESETS["small"]
    hypertrophy.compare_hypertrophy(toy_setup(tmp_path), views=("given", build_view_classifier(preset)))
    arms = [result.arm for result in read_results(tmp_path)]
    assert arms == [f"{arm}_stage{stage}" for arm in ("whole", "random") for stage in (1, 2)]


@pytest.mark.parametrize(
    ("stage", "learning_rate", "decay"),
    [("resnet50", 0.01, 0.96), ("vgg16_stage1", 0.02, 0.9), ("vgg16_stage2", 0.001, 0.9)],
)
def test_the_papers_transfer_schedules_are_the_papers(stage: str, learning_rate: float, decay: float) -> None:
    schedule = views.SCHEDULES[stage]
    assert (schedule.learning_rate, schedule.decay) == (learning_rate, decay)
    assert schedule.augmentation == Augmentation(rotation_degrees=5, shift_ratio=0.1, across_ratio=0.15)


@pytest.mark.usefixtures("tiny")
def test_transfer_networks_train_from_random_weights_if_asked_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(*_: Any, **__: Any) -> keras.Model:
        frames = keras.Input((224, 224, 1))
        logits = logits_of(build_view_classifier(TINY.sharp))(keras.layers.Resizing(120, 160)(frames))
        return keras.Model(frames, keras.layers.Softmax()(logits))

    monkeypatch.setattr(views, "build_resnet50", small)
    kept = views._arms

    def only_resnet50(bench: Any) -> Any:
        return [arm for arm in kept(bench) if arm[0] == "resnet50"]

    monkeypatch.setattr(views, "_arms", only_resnet50)
    assert views.compare_views(toy_setup(tmp_path), imagenet={}, random_transfer=True) == []
    (result,) = read_results(tmp_path)
    assert result.note == "from random convolutions: no ImageNet weights were given"


def test_resnet50_learns_whole_with_the_papers_head() -> None:
    model = build_resnet50(None, classes=3, size=32)
    assert model.output_shape == (None, 3)
    head = model.layers[model.layers.index(convolutional_base(model)) + 1 :]
    assert [type(layer).__name__ for layer in head] == ["BatchNormalization", "Dense", "Softmax"]
    assert all(layer.trainable for layer in model.layers)
    assert model.predict(np.zeros((1, 32, 32, 1), np.float32), verbose=0).sum() == pytest.approx(1, abs=1e-5)


def test_vgg16_can_train_its_head_alone() -> None:
    model = build_vgg16(None, units=(8, 4), l2=0.02, dropout=0.5, classes=3, size=32)
    whole = len(model.trainable_variables)
    convolutional_base(model).trainable = False
    assert 0 < len(model.trainable_variables) < whole


def test_a_pixel_reaches_an_imagenet_network_as_it_was_trained_to_see_it() -> None:
    model = build_vgg16(None, units=(4,), l2=0.0, dropout=0.0, classes=2, size=32)
    channels = next(layer for layer in model.layers if isinstance(layer, keras.layers.Concatenate))
    seen = keras.Model(model.input, channels.output)
    white = seen.predict(np.ones((1, 32, 32, 1), np.float32), verbose=0)
    assert white[0, 0, 0].tolist() == pytest.approx([255 - 103.939, 255 - 116.779, 255 - 123.68], abs=1e-3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.weights.h5"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(wrong)
    with pytest.raises(TrainingError, match="notop"):
        build_resnet50(wrong, size=32)


def test_results_are_json_anyone_can_read(tmp_path: Path) -> None:
    Shelf(tmp_path).keep(result_of())
    document = json.loads((tmp_path / "plain.json").read_text())
    assert document["data"]["frames"]["test"] == 4
    assert document["metrics"]["accuracy"]["n"] == 4
