import dataclasses
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from echo_models.errors import DatasetError, TrainingError
from echo_models.fitting import Step
from echo_models.gan import GAN_SCHEDULES, GanSchedule, SemiSupervisedGan, classify, train_gan
from echo_models.losses import feature_matching_loss, generated_loss, real_loss, supervised_loss
from echo_models.networks import GAN_SIZE
from echo_models.preprocessing import apply_mask, shrink, to_input
from tests.toy import TOY_PRESET, toy_frames

SCHEDULE = GanSchedule(epochs=8, batch_size=8, learning_rate=0.003, beta_1=0.7)


def frames_and_labels(subjects: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labeled = toy_frames(subjects=subjects, frames_each=4, seed=seed)
    return apply_mask(labeled.frames, labeled.fov_masks), labeled.hypertrophy.astype(np.int64)


def test_the_papers_schedule_is_the_papers() -> None:
    paper = GAN_SCHEDULES["paper"]
    assert (paper.learning_rate, paper.beta_1, paper.batch_size, paper.max_steps) == (0.0003, 0.9, 40, None)


def test_losses_agree_with_their_formulas() -> None:
    logits = np.array([[2.0, -1.0], [0.5, 0.0]], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[[0, 1], [1, 0]]).mean()
    assert float(supervised_loss(np.array([1, 0]), logits)) == pytest.approx(expected, rel=1e-5)
    real = np.array([[3.0], [-2.0]], np.float32)
    sigmoid = 1 / (1 + np.exp(-real))
    assert float(real_loss(real)) == pytest.approx(-np.log(sigmoid).mean(), rel=1e-5)
    assert float(generated_loss(real)) == pytest.approx(-np.log(1 - sigmoid).mean(), rel=1e-5)
    ours = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    theirs = np.array([[0.0, 1.0]], np.float32)
    assert float(feature_matching_loss(ours, theirs)) == pytest.approx(((2 - 0) ** 2 + (3 - 1) ** 2) / 2)


def test_one_batch_is_learned_step_by_step_and_by_fit() -> None:
    frames, labels = frames_and_labels()
    signed = to_input(shrink(frames[:8], GAN_SIZE, GAN_SIZE)) * 2 - 1
    keras.utils.set_random_seed(1)
    preset = dataclasses.replace(TOY_PRESET, input_dropout=0.0, block_dropout=0.0)
    gan = SemiSupervisedGan(preset, 2, seed=1)
    gan.compile(SCHEDULE)
    generator = [weight.copy() for weight in gan.generator.get_weights()]
    logs = [gan.train_on_batch((signed, signed), labels[:8], return_dict=True) for _ in range(30)]
    assert all(np.isfinite(list(log.values())).all() for log in logs)
    assert np.mean([log["supervised"] for log in logs[-5:]]) < 0.5 * logs[0]["supervised"]
    assert set(logs[0]) == {"supervised", "unsupervised", "generated", "matching", "d_real", "d_generated"}
    changed = [
        not np.array_equal(before, after)
        for before, after in zip(generator, gan.generator.get_weights(), strict=True)
    ]
    assert any(changed)
    history = gan.fit((signed, signed), labels[:8], batch_size=8, epochs=1, verbose=0)
    assert history.history["supervised"][0] < logs[0]["supervised"]


def test_generated_frames_are_frames() -> None:
    gan = SemiSupervisedGan(TOY_PRESET, 2, seed=1)
    noise = np.asarray(gan.draw_noise(5))
    assert noise.shape == (5, TOY_PRESET.noise)
    assert (noise[:, :2].sum(axis=1) == 1).all()
    generated = np.asarray(gan.generator(noise))
    assert generated.shape == (5, GAN_SIZE, GAN_SIZE, 1)
    assert generated.min() >= -1
    assert generated.max() <= 1
    assert np.asarray(gan(generated)).shape == (5, 2)


def test_it_learns_from_few_labels_and_many_unlabeled_frames() -> None:
    frames, labels = frames_and_labels(subjects=16)
    unlabeled, _ = frames_and_labels(subjects=32, seed=1)
    steps: list[Step] = []
    epochs: list[int] = []
    trained = train_gan(
        frames,
        labels,
        unlabeled,
        preset=TOY_PRESET,
        schedule=SCHEDULE,
        seed=2,
        on_step=steps.append,
        on_epoch=lambda epoch, _: epochs.append(epoch),
    )
    assert epochs == list(range(1, 9))
    assert len(steps) == 8 * (32 * 4 // 8)
    assert trained.log[-1]["supervised"] < 0.7 * trained.log[0]["supervised"]
    test, truth = frames_and_labels(subjects=16, seed=2)
    predicted = classify(trained.classifier, test).argmax(axis=1)
    assert (predicted == truth).mean() > 0.8  # chance is 0.5


@pytest.mark.usefixtures("eager")
def test_a_budget_bounds_the_steps_of_an_epoch() -> None:
    frames, labels = frames_and_labels(subjects=4)
    steps: list[Step] = []
    schedule = GanSchedule(epochs=1, batch_size=4, learning_rate=0.001, max_steps=2)
    train_gan(frames, labels, frames, preset=TOY_PRESET, schedule=schedule, on_step=steps.append)
    assert [(step.step, step.steps) for step in steps] == [(1, 2), (2, 2)]


@pytest.mark.usefixtures("eager")
def test_mixed_precision_leaves_float32_networks() -> None:
    frames, labels = frames_and_labels(subjects=4)
    schedule = GanSchedule(epochs=1, batch_size=4, learning_rate=0.001, max_steps=2)
    trained = train_gan(frames, labels, frames, preset=TOY_PRESET, schedule=schedule, precision="mixed")
    assert np.isfinite(list(trained.log[0].values())).all()
    for network in (trained.classifier, *trained.generators):
        assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert classify(trained.classifier, frames).shape == (len(frames), 2)


def test_no_frames_or_labels_out_of_range_are_refused() -> None:
    frames, labels = frames_and_labels(subjects=2)
    for arguments in (
        (frames[:0], labels[:0], frames),
        (frames, labels, frames[:0]),
        (frames, labels[:1], frames),
    ):
        with pytest.raises(DatasetError, match="needs unlabeled frames"):
            train_gan(*arguments, preset=TOY_PRESET)
    with pytest.raises(DatasetError, match="labels must be 0 to 1"):
        train_gan(frames, labels + 1, frames, preset=TOY_PRESET)


@pytest.mark.usefixtures("eager")
def test_losses_that_are_not_finite_stop_the_training() -> None:
    frames, labels = frames_and_labels(subjects=4)
    schedule = GanSchedule(epochs=1, batch_size=8, learning_rate=float("nan"), max_steps=2)
    with pytest.raises(TrainingError, match="must stay finite"):
        train_gan(frames, labels, frames, preset=TOY_PRESET, schedule=schedule)


def test_another_backend_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(TrainingError, match="Keras runs on torch"):
        SemiSupervisedGan(TOY_PRESET, 2)


@pytest.mark.usefixtures("eager")
def test_a_killed_training_goes_on_and_ends_after_as_many_epochs(tmp_path: Path) -> None:
    frames, labels = frames_and_labels(subjects=4)
    schedule = GanSchedule(epochs=3, batch_size=4, learning_rate=0.001, max_steps=2)
    train = partial(train_gan, frames, labels, frames, preset=TOY_PRESET, schedule=schedule, seed=5)
    whole = train()

    def kill(step: Step) -> None:
        if (step.epoch, step.step) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path, on_step=kill)
    steps: list[Step] = []
    resumed = train(folder=tmp_path, on_step=steps.append)
    assert [step.epoch for step in steps] == [2, 2, 3, 3]
    assert [entry["epoch"] for entry in resumed.log] == [1, 2, 3]
    for ours, theirs in zip(resumed.log, whole.log, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    lines = (tmp_path / "gan.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,supervised,unsupervised,generated,matching,")
    assert len(lines) == 1 + 3
