"""What the paper leaves open of the GAN, and what is watched while it learns."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from echo_models.augment import Augmentation
from echo_models.errors import TrainingError
from echo_models.evaluation import f1_of
from echo_models.fitting import Step
from echo_models.gan import GanOptions, GanSchedule, SemiSupervisedGan, TrainedGan, classify, train_gan
from echo_models.gan.batches import Batches, GanFrames
from echo_models.gan.curves import draw_curves, join_grids
from echo_models.gan.grids import fixed_noise, save_grid, tile
from echo_models.gan.watch import diversity_ratio, require_convergence, troubles
from echo_models.losses import generated_loss, real_loss
from echo_models.networks import Head, build_discriminator, build_generator
from echo_models.preprocessing import apply_mask, shrink, to_input
from tests.toy import TOY_PRESET, toy_frames

TINY = dataclasses.replace(TOY_PRESET, gan_size=28, discriminator_filters=(4, 4, 8))
SCHEDULE = GanSchedule(epochs=2, batch_size=4, learning_rate=0.001, max_steps=2)
SHORTEST = dataclasses.replace(SCHEDULE, max_steps=1)


def frames_and_labels() -> tuple[np.ndarray, np.ndarray]:
    labeled = toy_frames(subjects=4, frames_each=4)
    return apply_mask(labeled.frames, labeled.fov_masks), labeled.hypertrophy.astype(np.int64)


@pytest.fixture
def train(eager: None) -> Callable[..., TrainedGan]:  # noqa: ARG001 - asked for, not looked at
    frames, labels = frames_and_labels()
    return partial(train_gan, frames, labels, frames, preset=TINY, schedule=SCHEDULE, seed=3)


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "softmax"}, "head must be 'sigmoid' or 'k_plus_1'; received 'softmax'"),
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1"),
        ({"ensemble": 0}, "at least one member; received 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GanOptions(**options)  # type: ignore[arg-type]


def test_k_plus_1_is_the_softmax_of_the_papers_equations() -> None:
    keras.utils.set_random_seed(1)
    network = build_discriminator(TINY, 3, head="k_plus_1")
    frames = np.random.default_rng(0).uniform(-1, 1, (5, 28, 28, 1)).astype(np.float32)
    out = {name: np.asarray(value) for name, value in network(frames).items()}
    # p(y = K + 1 | x), with a logit of 0 for the class "generated"
    logits = np.concatenate([out["logits"], np.zeros((5, 1))], axis=1)
    generated = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, -1]
    assert float(real_loss(out["real_logit"])) == pytest.approx(-np.log(1 - generated).mean(), rel=1e-5)
    assert float(generated_loss(out["real_logit"])) == pytest.approx(-np.log(generated).mean(), rel=1e-5)


def test_the_sigmoid_is_linear_in_the_logits() -> None:
    network = build_discriminator(TINY, 3, head="sigmoid")
    frames = np.random.default_rng(0).uniform(-1, 1, (5, 28, 28, 1)).astype(np.float32)
    out = {name: np.asarray(value) for name, value in network(frames).items()}
    kernel, bias = network.get_layer("real_logit").get_weights()
    assert out["real_logit"] == pytest.approx(out["logits"] @ kernel + bias, abs=1e-5)


def test_real_starts_as_what_the_softmax_does_not_see() -> None:
    kernel = SemiSupervisedGan(TINY, 3).discriminator.get_layer("real_logit").kernel
    assert np.asarray(kernel) == pytest.approx(np.full((3, 1), 1 / 3))


def test_small_public_pictures_have_networks_of_their_own() -> None:
    generated = np.asarray(build_generator(TINY)(np.zeros((2, TINY.noise), np.float32)))
    assert generated.shape == (2, 28, 28, 1)
    assert build_discriminator(TINY, 10)(generated)["features"].shape == (2, 3 * 3 * 8)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("head", ["sigmoid", "k_plus_1"])
def test_either_head_learns_one_batch_and_its_classifier_can_be_saved(tmp_path: Path, head: Head) -> None:
    frames, labels = frames_and_labels()
    signed = to_input(shrink(frames, 28, 28)) * 2 - 1
    keras.utils.set_random_seed(1)
    plain = dataclasses.replace(TINY, input_dropout=0.0, block_dropout=0.0)
    gan = SemiSupervisedGan(plain, 2, options=GanOptions(head=head), seed=1)
    gan.compile(dataclasses.replace(SCHEDULE, learning_rate=0.01, beta_1=0.7))
    losses = []
    for _ in range(6):
        gan.reset_metrics()
        step = gan.train_on_batch((signed[:8], signed[8:]), labels[:8], return_dict=True)
        losses.append(float(step["supervised"]))
    assert losses[-1] < 0.5 * losses[0]
    classifier = gan.classifier()
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert classify(loaded, frames) == pytest.approx(classify(classifier, frames), abs=1e-5)


@pytest.mark.usefixtures("eager")
def test_the_average_of_the_weights_is_what_classifies() -> None:
    frames, labels = frames_and_labels()
    signed = to_input(frames[:4, :28, :28]) * 2 - 1
    keras.utils.set_random_seed(1)
    gan = SemiSupervisedGan(TINY, 2, options=GanOptions(ema_decay=0.2), seed=1)
    gan.compile(SCHEDULE)
    expected = [weight.numpy() for weight in gan.discriminator.weights]
    for decay in (1 / 10, 2 / 11, 0.2):  # n / (n + 9), until it reaches what was asked for
        gan.train_on_batch((signed, signed), labels[:4])
        weights = [weight.numpy() for weight in gan.discriminator.weights]
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
    learned = gan.classifier().get_weights()
    for ours, theirs in zip(learned, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert any(not np.allclose(ours, now) for ours, now in zip(learned, weights, strict=True))


@pytest.mark.usefixtures("eager")
def test_averages_of_normalisation_are_measured_again_without_dropout() -> None:
    frames, _ = frames_and_labels()
    signed = to_input(shrink(np.tile(frames, (8, 1, 1)), 28, 28)) * 2 - 1
    torn = dataclasses.replace(TINY, block_dropout=0.5)
    gan = SemiSupervisedGan(torn, 2, seed=1)
    learned, measured = gan.classifier(), gan.classifier(frames=signed)
    ours = measured.get_layer("discriminator")
    first = next(layer for layer in ours.layers if isinstance(layer, keras.layers.BatchNormalization))
    seen = np.asarray(keras.Model(ours.input, first.input)(signed))
    assert np.asarray(first.moving_mean) == pytest.approx(seen.mean(axis=(0, 1, 2)), rel=1e-3, abs=1e-5)
    assert np.asarray(first.moving_variance) == pytest.approx(seen.var(axis=(0, 1, 2)), rel=0.05)
    for before, after in zip(learned.trainable_variables, measured.trainable_variables, strict=True):
        assert np.array_equal(before, after)  # weights are as they were learned
    dropouts = {layer.rate for layer in ours.layers if isinstance(layer, keras.layers.Dropout)}
    assert 0.5 in dropouts


def test_an_ensemble_gives_the_mean_of_members_that_differ(train: Callable[..., TrainedGan]) -> None:
    trained = train(options=GanOptions(ensemble=2), schedule=SHORTEST)
    frames, _ = frames_and_labels()
    members = [trained.classifier.get_layer(f"member_{number}") for number in (1, 2)]
    ours = [classify(member, frames) for member in members]
    assert classify(trained.classifier, frames) == pytest.approx((ours[0] + ours[1]) / 2, abs=1e-5)
    assert not np.allclose(ours[0], ours[1])
    assert [entry["member"] for entry in trained.log] == [1, 1, 2, 2]
    assert len(trained.generators) == 2


def test_an_ensemble_goes_on_with_the_member_that_was_killed(
    train: Callable[..., TrainedGan], tmp_path: Path
) -> None:
    def kill(step: Step) -> None:
        if (step.stage, step.epoch) == ("gan_member_2", 2):
            raise KeyboardInterrupt

    train = partial(train, options=GanOptions(ensemble=2, ema_decay=0.5), schedule=SHORTEST, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(on_step=kill)
    steps: list[Step] = []
    resumed = train(on_step=steps.append)
    assert {(step.stage, step.epoch) for step in steps} == {("gan_member_2", 2)}
    whole = train(folder=None)
    frames, _ = frames_and_labels()
    assert classify(resumed.classifier, frames) == pytest.approx(classify(whole.classifier, frames), abs=1e-3)


def test_when_time_is_over_the_members_that_are_ready_count(train: Callable[..., TrainedGan]) -> None:
    over = iter([False, False, True])
    trained = train(options=GanOptions(ensemble=3), schedule=SHORTEST, out_of_time=lambda: next(over))
    # Asked after the first epoch of each member: the third is not ready, and is left out.
    assert [(entry["member"], entry["epoch"]) for entry in trained.log] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_labeled_and_unlabeled_frames_are_augmented_from_the_seed() -> None:
    frames, labels = frames_and_labels()
    given = GanFrames(frames, labels, frames).shrunk(28)

    def first(augmentation: Augmentation, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return next(iter(Batches(given, SCHEDULE, augmentation, (seed, 0))))[0]

    plain = first(Augmentation(rotation_degrees=0, shift_ratio=0), 1)
    moved, again, other = (first(Augmentation(), seed) for seed in (1, 1, 2))
    for part in (0, 1):
        assert np.array_equal(moved[part], again[part])
        assert not np.array_equal(moved[part], plain[part])
        assert not np.array_equal(moved[part], other[part])


# --- what is watched --------------------------------------------------------------------------------


def test_the_log_tells_each_epoch_by_itself(train: Callable[..., TrainedGan]) -> None:
    losses: dict[int, list[float]] = {1: [], 2: []}
    trained = train(on_step=lambda step: losses[step.epoch].append(step.loss))
    assert [entry["supervised"] for entry in trained.log] == pytest.approx(
        [np.mean(losses[1]), np.mean(losses[2])]
    )


def test_accuracy_and_f1_are_in_the_log_of_each_epoch(train: Callable[..., TrainedGan]) -> None:
    frames, labels = frames_and_labels()
    trained = train(validation=(frames, labels))
    assert all(0 <= entry["accuracy"] <= 1 for entry in trained.log)
    answers = classify(trained.classifier, frames).argmax(axis=1)
    assert trained.log[-1]["accuracy"] == (answers == labels).mean()
    confusion = np.array([[np.sum((labels == a) & (answers == b)) for b in (0, 1)] for a in (0, 1)])
    assert trained.log[-1]["f1"] == pytest.approx(f1_of(confusion.astype(float)))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 101.0])
def test_losses_that_run_away_stop_the_training(loss: float) -> None:
    require_convergence({"supervised": 99.0}, epoch=1, stage="gan")
    with pytest.raises(TrainingError, match="gan: the GAN's losses must stay finite and below 100; received"):
        require_convergence({"supervised": 1.0, "matching": loss}, epoch=2, stage="gan")


def test_diversity_is_within_a_class_and_beside_real_frames() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(50, 8, 8, 1)).astype(np.float32)
    alike = np.repeat(rng.normal(size=(2, 1, 8, 8, 1)), 6, axis=1).astype(np.float32)  # one frame a class
    assert diversity_ratio(alike, real) == pytest.approx(0, abs=1e-6)
    assert diversity_ratio(real[:48].reshape(2, 24, 8, 8, 1), real) == pytest.approx(1, abs=0.1)


def test_troubles_have_names() -> None:
    well = {"diversity_ratio": 0.5, "d_real": 0.7, "d_generated": 0.2}
    assert troubles(well) == {"collapsed": 0, "discriminator_won": 0}
    assert troubles(well | {"diversity_ratio": 0.01})["collapsed"] == 1
    assert troubles(well | {"d_real": 0.999, "d_generated": 0.001})["discriminator_won"] == 1


def test_a_collapse_is_reported(
    train: Callable[..., TrainedGan], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = np.zeros((16, 28, 28, 1), np.float32)
    monkeypatch.setattr("echo_models.gan.training.draw_frames", lambda *_: alike)
    with caplog.at_level(logging.WARNING):
        trained = train()
    assert caplog.messages == ["gan: collapsed in epoch 1", "gan: collapsed in epoch 2"]
    assert [entry["collapsed"] for entry in trained.log] == [1, 1]


# --- pictures ---------------------------------------------------------------------------------------


def test_generated_frames_are_drawn_each_epoch_from_the_same_noise(
    train: Callable[..., TrainedGan], tmp_path: Path
) -> None:
    trained = train(folder=tmp_path)
    grids = sorted((tmp_path / "gan_generated").iterdir())
    assert [grid.name for grid in grids] == ["epoch_0001.png", "epoch_0002.png"]
    last = trained.generators[0].predict_on_batch(fixed_noise(TINY.noise, 2, 8, seed=3))
    with Image.open(grids[-1]) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(tile(np.asarray(last), 8)))


def test_a_grid_has_a_row_for_each_class(tmp_path: Path) -> None:
    noise = fixed_noise(20, classes=3, columns=4, seed=0)
    assert noise.shape == (12, 20)
    assert noise[:, :3].argmax(axis=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    frames = np.repeat(np.linspace(-1, 1, 12, dtype=np.float32), 25).reshape(12, 5, 5, 1)
    with Image.open(save_grid(tmp_path, 7, frames, columns=4)) as picture:
        grid = np.asarray(picture)
    assert grid.shape == (3 * 7, 4 * 7)
    assert (grid[0, 0], grid[16, 23]) == (0, 255)


def test_curves_and_grids_of_a_training_become_pictures(tmp_path: Path) -> None:
    log = [
        {"epoch": epoch, "member": member, "supervised": 1.0, "matching": 0.1, "d_real": 0.5}
        for member in (1.0, 2.0)
        for epoch in (1.0, 2.0)
    ]
    draw_curves(log, tmp_path / "curves.png", caption="toy")
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.width == 3 * 504  # no accuracy, no panel for it
    frames = np.zeros((4, 5, 5, 1), np.float32)
    join_grids([save_grid(tmp_path, epoch, frames, 2) for epoch in (1, 2)], tmp_path / "grids.png")
    with Image.open(tmp_path / "grids.png") as joined:
        assert joined.size == (14, 2 * (14 + 8))
