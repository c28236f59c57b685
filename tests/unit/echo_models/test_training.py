import dataclasses
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import pytest

from echo_models.augment import Augmentation
from echo_models.datasets import Examples, LabeledFrames, Split, split_by_subject
from echo_models.errors import TrainingError
from echo_models.evaluation import dice_by_frame
from echo_models.fitting import Run, Schedule, Step, fit, loss_on, predict
from echo_models.networks import (
    build_hypertrophy_classifier,
    build_unet,
    build_view_classifier,
    convolution_layers,
)
from echo_models.training import (
    SCHEDULES,
    first_member,
    run_of,
    train_hypertrophy,
    train_segmentation,
    train_views,
)
from echo_models.views import VIEWS
from tests.toy import TOY_PRESET, toy_frames

GENTLE = Augmentation(rotation_degrees=2, shift_ratio=0.02, mask_growth_px=(-1, 1))
QUICK = MappingProxyType(
    {
        "fov": Schedule(3, 4, 0.01, 0.9, augmentation=dataclasses.replace(GENTLE, unmasked_share=0.5)),
        "lv": Schedule(14, 4, 0.01, 0.97, augmentation=GENTLE),
        "view": Schedule(4, 8, 0.01, 0.9, augmentation=GENTLE),
        "lvh_stage1": Schedule(10, 8, 0.02, 0.9, augmentation=GENTLE),
        "lvh_stage2": Schedule(4, 8, 0.005, 0.9, patience=2, augmentation=GENTLE),
    }
)


@pytest.fixture(scope="module")
def split() -> Split:
    return split_by_subject(toy_frames(subjects=40, frames_each=4), seed=0)


def losses(log: object) -> list[float]:
    return [entry["loss"] for entry in log]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stage", "epochs", "learning_rate", "decay", "patience"),
    [
        ("fov", 50, 1e-4, 0.93, None),
        ("lv", 50, 1e-4, 0.93, None),
        ("view", 50, 0.02, 0.85, 2),
        ("lvh_stage1", 20, 0.025, 0.85, None),
        ("lvh_stage2", 50, 0.001, 0.9, 2),
    ],
)
def test_the_papers_schedules_are_the_papers(
    stage: str, epochs: int, learning_rate: float, decay: float, patience: int | None
) -> None:
    schedule = SCHEDULES["paper"][stage]
    assert (schedule.epochs, schedule.learning_rate, schedule.decay, schedule.patience) == (
        epochs,
        learning_rate,
        decay,
        patience,
    )
    assert schedule.augmentation == Augmentation(rotation_degrees=10, shift_ratio=0.1)


def test_the_papers_view_batch_is_the_authors() -> None:
    assert SCHEDULES["paper"]["view"].batch_size == 512


def test_a_preset_can_run_for_another_number_of_epochs() -> None:
    run = run_of("small", epochs=1, seed=4)
    assert {schedule.epochs for schedule in run.schedules.values()} == {1}
    assert run.seed == 4
    assert run_of("small").schedules == SCHEDULES["small"]


@pytest.mark.parametrize("task", ["fov", "lv"])
def test_a_segmentation_beats_the_constant_mask(split: Split, task: str) -> None:
    trained = train_segmentation(task, split, Run(TOY_PRESET, QUICK, seed=1))  # type: ignore[arg-type]
    assert losses(trained.log)[-1] < 0.6 * losses(trained.log)[0]
    dice = trained.metrics["dice"]
    assert dice.control is not None
    assert dice.value > dice.control + 0.03
    assert trained.classes == ("outside", "inside")
    assert trained.mask == ("none" if task == "fov" else "fov")


def test_an_ensemble_of_three_learns_views_and_hypertrophy_starts_from_it(split: Split) -> None:
    views = train_views(split, Run(TOY_PRESET, QUICK, seed=1))
    assert [entry["stage"] for entry in views.log] == [
        f"view_member_{n}" for n in (1, 2, 3) for _ in range(4)
    ]
    assert views.metrics["accuracy"].value > 0.9  # chance is 0.5
    assert views.classes == VIEWS
    members = [layer for layer in views.model.layers if isinstance(layer, keras.Model)]
    assert len(members) == 3
    assert not np.array_equal(members[0].get_weights()[0], members[1].get_weights()[0])

    seen = {}

    def look(step: Step) -> None:
        seen[step.stage] = step.epochs

    hypertrophy = train_hypertrophy(split, Run(TOY_PRESET, QUICK, seed=2, on_step=look), views.model)
    assert seen == {"lvh_stage1": 10, "lvh_stage2": 4}
    assert hypertrophy.metrics["accuracy"].value > 0.9  # chance is 0.5
    assert {"sensitivity", "specificity"} <= hypertrophy.metrics.keys()


def test_stage_1_leaves_the_convolutions_and_stage_2_the_dense_layers(split: Split) -> None:
    views = build_view_classifier(TOY_PRESET)
    before = {layer.name: layer.get_weights() for layer in convolution_layers(views)}

    def after(**schedules: Schedule) -> keras.Model:
        run = Run(TOY_PRESET, QUICK | schedules, seed=2)
        return train_hypertrophy(split, run, views).model

    still = dataclasses.replace(QUICK["lvh_stage2"], epochs=0)
    one = after(lvh_stage2=still)
    for layer in convolution_layers(one):
        for ours, theirs in zip(layer.get_weights(), before[layer.name], strict=True):
            assert np.array_equal(ours, theirs)
    both = after()
    dense = [index for index, layer in enumerate(one.layers) if isinstance(layer, keras.layers.Dense)]
    for index in dense:
        assert np.allclose(one.layers[index].get_weights()[0], both.layers[index].get_weights()[0], atol=1e-5)
    assert not np.allclose(one.layers[2].get_weights()[0], both.layers[2].get_weights()[0], atol=1e-5)


def test_a_frame_without_ventricle_is_left_out_of_training_never_of_the_test(split: Split) -> None:
    blind = LabeledFrames(
        **{field.name: getattr(split.test, field.name).copy() for field in dataclasses.fields(split.test)}
    )
    a4c = np.flatnonzero(blind.views == VIEWS.index("a4c"))
    blind.lv_masks[a4c[0]] = False
    trained = train_hypertrophy(
        dataclasses.replace(split, test=blind),
        Run(TOY_PRESET, {stage: dataclasses.replace(it, epochs=1) for stage, it in QUICK.items()}),
        None,
    )
    assert trained.metrics["accuracy"].n == len(a4c)


def test_of_an_ensemble_the_first_member_is_taken_and_a_classifier_is_its_own() -> None:
    model = build_view_classifier(TOY_PRESET)
    assert first_member(model) is model


# --- the loop ---------------------------------------------------------------------------------------


def view_examples(split: Split) -> tuple[Examples, Examples]:
    train, validation = (
        Examples(part.frames, part.fov_masks, part.views) for part in (split.train, split.validation)
    )
    return train, validation


def fit_views(split: Split, run: Run) -> tuple[keras.Model, list[dict[str, float]]]:
    keras.utils.set_random_seed(run.seed)
    model = build_view_classifier(TOY_PRESET)
    log = fit(model, "sparse_categorical_crossentropy", *view_examples(split), stage="view", run=run)
    return model, log


def test_the_same_seed_trains_the_same_model(split: Split) -> None:
    first, log = fit_views(split, Run(TOY_PRESET, QUICK, seed=7))
    again, log_again = fit_views(split, Run(TOY_PRESET, QUICK, seed=7))
    assert losses(log) == pytest.approx(losses(log_again), rel=1e-3)
    for ours, theirs in zip(first.get_weights(), again.get_weights(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-3)
    _, other = fit_views(split, Run(TOY_PRESET, QUICK, seed=8))
    assert losses(other) != pytest.approx(losses(log), rel=1e-3)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(split: Split, tmp_path: Path) -> None:
    whole, log = fit_views(split, Run(TOY_PRESET, QUICK, seed=7))

    def kill(step: Step) -> None:
        if (step.epoch, step.step) == (3, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_views(split, Run(TOY_PRESET, QUICK, seed=7, folder=tmp_path, on_step=kill))
    steps: list[Step] = []
    resumed, log_resumed = fit_views(
        split, Run(TOY_PRESET, QUICK, seed=7, folder=tmp_path, on_step=steps.append)
    )
    assert {step.epoch for step in steps} == {3, 4}
    assert losses(log_resumed) == pytest.approx(losses(log), rel=1e-3)
    for ours, theirs in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-3)
    lines = (tmp_path / "view.csv").read_text().splitlines()
    assert lines[0] == "stage,epoch,learning_rate,loss,validation_loss"
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "2", "3", "4"]


def test_mixed_precision_learns_in_bfloat16_and_leaves_a_float32_network(split: Split) -> None:
    run = Run(TOY_PRESET, QUICK, seed=1, precision="mixed")
    trained = train_views(split, run, members=1)
    assert losses(trained.log)[-1] < losses(trained.log)[0]
    assert {layer.compute_dtype for layer in trained.model.layers} == {"float32"}
    assert trained.metrics["accuracy"].value > 0.9  # chance is 0.5
    mixed = run.build(lambda: build_view_classifier(TOY_PRESET))
    assert {layer.compute_dtype for layer in convolution_layers(mixed)} == {"bfloat16"}
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert mixed.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_a_finished_run_is_not_trained_again(split: Split, tmp_path: Path) -> None:
    first, _ = fit_views(split, Run(TOY_PRESET, QUICK, seed=7, folder=tmp_path))
    steps: list[Step] = []
    again, log = fit_views(split, Run(TOY_PRESET, QUICK, seed=7, folder=tmp_path, on_step=steps.append))
    assert steps == []
    assert len(log) == 4
    assert all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(first.get_weights(), again.get_weights(), strict=True)
    )


def test_the_learning_rate_decays_each_epoch(split: Split) -> None:
    _, log = fit_views(split, Run(TOY_PRESET, QUICK, seed=7))
    assert [entry["learning_rate"] for entry in log] == pytest.approx([0.01 * 0.9**n for n in range(4)])


def test_training_stops_when_validation_gets_no_better_and_goes_back_to_the_best(split: Split) -> None:
    wild = Schedule(30, 8, 0.05, 1.2, patience=2, augmentation=GENTLE)
    model, log = fit_views(split, Run(TOY_PRESET, {"view": wild}, seed=7))
    values = [entry["validation_loss"] for entry in log]
    best = int(np.argmin(values))
    assert len(log) == best + 3 < 30
    _, validation = view_examples(split)
    assert loss_on(model, "sparse_categorical_crossentropy", validation) == pytest.approx(
        min(values), rel=1e-3
    )


def test_a_loss_that_is_not_finite_stops_the_training(split: Split) -> None:
    wild = Schedule(3, 8, float("nan"), 1.0)
    with pytest.raises(TrainingError, match="smaller learning rate"):
        fit_views(split, Run(TOY_PRESET, {"view": wild}, seed=7))


def test_one_batch_can_be_learned_by_heart(split: Split) -> None:
    train, _ = view_examples(split)
    batch = Examples(train.frames[:8], None, np.arange(8) % 4)
    still = Schedule(40, 8, 0.02, 0.98, augmentation=Augmentation(rotation_degrees=0, shift_ratio=0))
    preset = dataclasses.replace(TOY_PRESET, view_dropout=0.0)
    keras.utils.set_random_seed(0)
    model = build_view_classifier(preset, "max")
    fit(
        model, "sparse_categorical_crossentropy", batch, batch, stage="view", run=Run(preset, {"view": still})
    )
    assert (predict(model, batch).argmax(axis=1) == batch.targets).all()


STILL = Augmentation(rotation_degrees=0, shift_ratio=0)


@pytest.mark.parametrize("task", ["fov", "lv"])
def test_one_batch_of_outlines_can_be_learned_by_heart(split: Split, task: str) -> None:
    first = np.zeros(len(split.train), np.bool_)
    first[np.flatnonzero(split.train.lv_masks.any(axis=(1, 2)))[:4]] = True
    shown = split.train.take(first)
    batch = Examples(shown.frames, None, shown.fov_masks if task == "fov" else shown.lv_masks)
    schedule = Schedule(60, 4, 0.01, 0.98, augmentation=STILL)
    keras.utils.set_random_seed(0)
    model = build_unet(TOY_PRESET)
    run = Run(TOY_PRESET, {task: schedule})
    log = fit(model, "sparse_categorical_crossentropy", batch, batch, stage=task, run=run)
    assert losses(log)[-1] < 0.2 * losses(log)[0]
    dice = dice_by_frame(batch.targets.astype(bool), predict(model, batch)[..., 1] > 0.5)
    assert dice.min() > 0.93  # an edge is no finer than the stem of the toy network


def test_one_batch_of_hypertrophy_can_be_learned_by_heart(split: Split) -> None:
    frames = split.train.frames[:8]
    batch = Examples(frames, None, np.arange(8) % 2)
    keras.utils.set_random_seed(0)
    model = build_hypertrophy_classifier(TOY_PRESET)
    run = Run(TOY_PRESET, {"lvh_stage1": Schedule(60, 8, 0.02, 0.98, augmentation=STILL)})
    fit(model, "binary_crossentropy", batch, batch, stage="lvh_stage1", run=run)
    assert ((predict(model, batch)[:, 0] > 0.5) == (batch.targets == 1)).all()


@pytest.mark.parametrize("task", ["fov", "lv", "lvh"])
def test_each_training_is_repeated_by_its_seed(split: Split, task: str) -> None:
    short = {stage: dataclasses.replace(schedule, epochs=1) for stage, schedule in QUICK.items()}

    def train(seed: int) -> list[float]:
        run = Run(TOY_PRESET, short, seed=seed)
        if task == "lvh":
            return losses(train_hypertrophy(split, run, None).log)
        return losses(train_segmentation(task, split, run).log)  # type: ignore[arg-type]

    first = train(7)
    assert train(7) == pytest.approx(first, rel=1e-3)
    assert train(8) != pytest.approx(first, rel=1e-3)


def test_the_loss_on_examples_is_that_of_keras(split: Split) -> None:
    _, validation = view_examples(split)
    model = build_view_classifier(dataclasses.replace(TOY_PRESET, view_l2=0.0))
    model.compile(loss="sparse_categorical_crossentropy")
    expected = model.evaluate(*validation.batch(slice(None)), verbose=0)
    ours = loss_on(model, "sparse_categorical_crossentropy", validation, batch_size=7)
    assert ours == pytest.approx(expected, rel=1e-4)
