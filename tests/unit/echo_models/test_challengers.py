"""Challengers of the GAN: what a step learns, with whose budget, and that they learn."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from echo_models import challengers
from echo_models.augment import NO_AUGMENTATION, Augmentation
from echo_models.challengers import (
    CHALLENGERS,
    FIXMATCH,
    PSEUDO_LABEL,
    STRONG,
    SUPERVISED,
    Challenger,
    train_challenger,
)
from echo_models.errors import DatasetError, TrainingError
from echo_models.fitting import Step
from echo_models.gan import GanSchedule, classify
from echo_models.gan.batches import GanFrames, signed
from echo_models.preprocessing import apply_mask
from tests.toy import TOY_PRESET, toy_frames

TINY = dataclasses.replace(
    TOY_PRESET, gan_size=28, discriminator_filters=(8, 8, 16), input_dropout=0.0, block_dropout=0.0
)
SCHEDULE = GanSchedule(epochs=2, batch_size=4, learning_rate=0.003, max_steps=2)


def frames_and_labels(subjects: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labeled = toy_frames(subjects=subjects, frames_each=4, seed=seed)
    return apply_mask(labeled.frames, labeled.fov_masks), labeled.hypertrophy.astype(np.int64)


def member(challenger: Challenger) -> Any:
    frames, labels = frames_and_labels()
    shrunk = GanFrames(frames, labels, frames).shrunk(28)
    return challengers._Member(
        challenger, TINY, 2, shrunk, None, SCHEDULE, NO_AUGMENTATION, 0, "toy", None, lambda _: None
    )


class Fixed:
    """A network that answers with the logits it was given."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits = np.array(logits, np.float32)

    def predict_on_batch(self, frames: np.ndarray) -> np.ndarray:
        return self.logits[: len(frames)]


def test_the_weight_of_pseudo_labels_rises_while_they_are_guesses() -> None:
    assert [PSEUDO_LABEL.weight(epoch, 10) for epoch in (0, 2, 4, 9)] == [0.0, 0.5, 1.0, 1.0]
    assert FIXMATCH.weight(0, 10) == 1.0
    assert SUPERVISED.weight(9, 10) == 0.0


def test_only_answers_that_are_sure_are_learned() -> None:
    frames = np.zeros((3, 28, 28, 1), np.float32)
    # Softmax of (0, 3) is 0.953 and of (2, 0) is 0.881: above and below 0.95.
    answers, weights = member(FIXMATCH)._answers(Fixed([[0, 3], [2, 0], [9, 0]]), frames)
    assert answers.tolist() == [1, 0, 0]
    assert weights.tolist() == pytest.approx([1 / 3, 0, 1 / 3])


def test_the_weighted_sum_of_a_batch_is_the_sum_of_both_means() -> None:
    half = np.full(2, 1 / 2, np.float32)
    frames = np.zeros((2, 28, 28, 1), np.float32)
    ours = frames, np.array([0, 1]), half
    theirs = frames + 1, np.array([1, 1]), half * np.array([0, 1], np.float32)
    together, labels, weights = challengers._together(ours, theirs)
    assert together.shape == (4, 28, 28, 1)
    losses = np.array([1.0, 3.0, 5.0, 7.0])
    assert labels.tolist() == [0, 1, 1, 1]
    assert (weights * losses).sum() == pytest.approx((1 + 3) / 2 + (0 + 7) / 2)


def test_fixmatch_asks_of_a_changed_copy_and_pseudo_labels_of_the_same() -> None:
    frames = signed(frames_and_labels()[0][:4, :28, :28])
    rng = np.random.default_rng(0)
    assert np.array_equal(member(PSEUDO_LABEL)._asked(frames, rng), frames)
    asked = member(FIXMATCH)._asked(frames, rng)
    assert asked.shape == frames.shape
    assert not np.array_equal(asked, frames)
    unchanged = dataclasses.replace(FIXMATCH, strong=NO_AUGMENTATION)
    assert np.allclose(member(unchanged)._asked(frames, rng), frames)


def test_strong_changes_are_stronger_than_the_papers() -> None:
    weak = Augmentation()
    assert STRONG.rotation_degrees > weak.rotation_degrees
    assert STRONG.shift_ratio > weak.shift_ratio
    assert STRONG.cutout_ratio > 0


@pytest.mark.parametrize("name", list(CHALLENGERS))
def test_each_learns_from_few_labels(name: str) -> None:
    frames, labels = frames_and_labels(subjects=8)
    unlabeled, _ = frames_and_labels(subjects=16, seed=1)
    steps: list[Step] = []
    trained = train_challenger(
        CHALLENGERS[name],
        frames,
        labels,
        unlabeled,
        preset=TINY,
        schedule=GanSchedule(epochs=6, batch_size=8, learning_rate=0.005),
        seed=2,
        on_step=steps.append,
    )
    assert len(steps) == 6 * (16 * 4 // 8)  # a pass over the unlabeled frames is an epoch, as for the GAN
    test, truth = frames_and_labels(subjects=8, seed=2)
    assert (classify(trained.classifier, test).argmax(axis=1) == truth).mean() > 0.8  # chance is 0.5
    assert (trained.log[-1]["sure_ratio"] > 0) == (name != "supervised")


@pytest.mark.usefixtures("eager")
def test_a_killed_training_goes_on_and_ends_as_it_would_have(tmp_path: Path) -> None:
    frames, labels = frames_and_labels()
    train = partial(
        train_challenger, FIXMATCH, frames, labels, frames, preset=TINY, schedule=SCHEDULE,
        augmentation=Augmentation(), validation=(frames[:4], labels[:4]), seed=5,
    )  # fmt: skip
    whole = train()

    def kill(step: Step) -> None:
        if (step.epoch, step.step) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path, on_step=kill)
    steps: list[Step] = []
    resumed = train(folder=tmp_path, on_step=steps.append)
    assert {step.epoch for step in steps} == {2}
    for ours, theirs in zip(resumed.log, whole.log, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert {"accuracy", "f1"} <= set(resumed.log[-1])
    assert (tmp_path / "fixmatch.csv").read_text().startswith("epoch,loss,sure_ratio,accuracy,f1")


@pytest.mark.usefixtures("eager")
def test_members_of_an_ensemble_differ_and_are_averaged() -> None:
    frames, labels = frames_and_labels()
    schedule = dataclasses.replace(SCHEDULE, epochs=1, max_steps=1)
    trained = train_challenger(SUPERVISED, frames, labels, frames, preset=TINY, schedule=schedule, ensemble=2)
    assert [entry["member"] for entry in trained.log] == [1.0, 2.0]
    inputs = np.random.default_rng(0).random((3, 28, 28, 1)).astype(np.float32)
    first, second = (np.asarray(trained.classifier.get_layer(f"member_{n}")(inputs)) for n in (1, 2))
    assert not np.allclose(first, second)
    assert np.allclose(trained.classifier(inputs), (first + second) / 2, atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_the_average_of_its_weights_classifies_if_asked_for() -> None:
    frames, labels = frames_and_labels()

    def weights(steps: int, ema_decay: float | None) -> list[np.ndarray]:
        schedule = dataclasses.replace(SCHEDULE, epochs=1, max_steps=steps)
        trained = train_challenger(
            SUPERVISED, frames, labels, frames, preset=TINY, schedule=schedule, ema_decay=ema_decay, seed=5
        )
        discriminator = trained.classifier.get_layer("discriminator")
        network = keras.Model(discriminator.input, discriminator.output["logits"])
        return [np.asarray(weight) for weight in network.trainable_weights]

    first, second, averaged = weights(1, None), weights(2, None), weights(2, 0.25)
    for before, after, ours in zip(first, second, averaged, strict=True):
        assert ours == pytest.approx(0.25 * before + 0.75 * after, rel=1e-3, abs=1e-5)
    assert any(not np.allclose(after, ours) for after, ours in zip(second, averaged, strict=True))


def test_no_frames_or_labels_out_of_range_are_refused() -> None:
    frames, labels = frames_and_labels()
    for arguments in (
        (frames[:0], labels[:0], frames),
        (frames, labels, frames[:0]),
        (frames, labels + 1, frames),
    ):
        with pytest.raises(DatasetError):
            train_challenger(SUPERVISED, *arguments, preset=TINY)


@pytest.mark.usefixtures("eager")
def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    frames, labels = frames_and_labels()
    schedule = dataclasses.replace(SCHEDULE, learning_rate=float("nan"))
    with pytest.raises(TrainingError, match="supervised: loss must stay finite"):
        train_challenger(SUPERVISED, frames, labels, frames, preset=TINY, schedule=schedule)
