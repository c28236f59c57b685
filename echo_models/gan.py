"""The semi-supervised GAN (paper, Methods, "GAN"): labels for few frames, learning from all.

Reads from top to bottom: config, model, step, loop.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from echo_models.backend import Precision, computing_in, differentiate, require_backend, run_step
from echo_models.checkpoints import Checkpoint
from echo_models.errors import DatasetError, TrainingError
from echo_models.fitting import OnStep, Step
from echo_models.losses import feature_matching_loss, generated_loss, real_loss, supervised_loss
from echo_models.networks import (
    GAN_SIZE,
    PRESETS,
    Preset,
    build_discriminator,
    build_discriminator_classifier,
    build_generator,
)
from echo_models.preprocessing import shrink, to_input

# --- config -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GanSchedule:
    """How long and how fast the GAN learns.

    Attributes:
        epochs: passes over the unlabeled frames; labeled ones repeat.
        batch_size: frames of each of the three passes of a step.
        learning_rate: of both Adams; it does not decay.
        beta_1: of both Adams.
        max_steps: of an epoch, None for no bound: a budget for one night.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    beta_1: float = 0.9
    max_steps: int | None = None


GAN_SCHEDULES: Final[Mapping[str, GanSchedule]] = {
    # The paper says Adam's default betas; the authors' code has 0.7 and the batch of 40.
    "paper": GanSchedule(epochs=100, batch_size=40, learning_rate=0.0003),
    # A small discriminator learns too little in a night's few steps at 0.0003.
    "small": GanSchedule(epochs=6, batch_size=32, learning_rate=0.001, beta_1=0.7),
}


# --- model ------------------------------------------------------------------------------------------


_MEASURES: Final = ("supervised", "unsupervised", "generated", "matching", "d_real", "d_generated")


class SemiSupervisedGan(keras.Model):
    """A classifier that also learns from unlabeled frames, by telling them from generated ones.

    `fit` on batches ((labeled frames, unlabeled frames), labels); frames [N, 110, 110, 1], float32,
    -1 to 1. Runs on TensorFlow and on JAX: see `echo_models.backend`.

    Raises:
        TrainingError: if Keras runs on another backend.
    """

    def __init__(self, preset: Preset, classes: int, *, seed: int = 0, **kwargs: Any) -> None:
        require_backend()
        super().__init__(**kwargs)
        self.generator = build_generator(preset)
        self.discriminator = build_discriminator(preset, classes)
        self.classes = classes
        self._noise = preset.noise
        self._random = keras.random.SeedGenerator(seed)
        self._trackers = {name: keras.metrics.Mean(name) for name in _MEASURES}
        self.built = True  # both networks are

    @property
    def metrics(self) -> list[keras.Metric]:
        """List the means that `fit` resets at each epoch."""
        return list(self._trackers.values())

    def compile(self, schedule: GanSchedule) -> None:
        """Give each network its own Adam."""
        super().compile(optimizer=_AdamPair(schedule, self.discriminator, self.generator))

    def call(self, frames: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """Classify frames: [N, 110, 110, 1] to logits [N, K]."""
        return self.discriminator(frames, training=training)["logits"]

    def draw_noise(self, count: int) -> keras.KerasTensor:
        """Draw the generator's input: a random one-hot class, then Gaussian noise; [N, noise]."""
        of_class = keras.random.randint((count,), 0, self.classes, seed=self._random)
        gaussian = keras.random.normal((count, self._noise - self.classes), seed=self._random)
        return ops.concatenate([ops.one_hot(of_class, self.classes), gaussian], axis=1)

    def discriminator_losses(
        self,
        labeled: keras.KerasTensor,
        labels: keras.KerasTensor,
        unlabeled: keras.KerasTensor,
        generated: keras.KerasTensor,
    ) -> dict[str, keras.KerasTensor]:
        """Pass labeled, unlabeled and generated frames through the discriminator, one after another.

        Returns:
            the three losses, whose sum is learned, and the mean probabilities of being real.
        """
        of_labeled = self.discriminator(labeled, training=True)
        of_unlabeled = self.discriminator(unlabeled, training=True)
        of_generated = self.discriminator(generated, training=True)
        return {
            "supervised": supervised_loss(labels, of_labeled["logits"]),
            "unsupervised": real_loss(of_unlabeled["real_logit"]),
            "generated": generated_loss(of_generated["real_logit"]),
            "d_real": ops.mean(ops.sigmoid(of_unlabeled["real_logit"])),
            "d_generated": ops.mean(ops.sigmoid(of_generated["real_logit"])),
        }

    def generator_loss(self, noise: keras.KerasTensor, unlabeled: keras.KerasTensor) -> keras.KerasTensor:
        """Compare the features of generated and of unlabeled frames (feature matching)."""
        of_generated = self.discriminator(self.generator(noise, training=True), training=True)
        of_unlabeled = self.discriminator(unlabeled, training=True)
        return feature_matching_loss(of_generated["features"], of_unlabeled["features"])

    def train_step(self, *arguments: Any) -> Any:
        """Learn from one batch: one step of the discriminator, then one of the generator."""
        return run_step(self, self._learn, arguments)

    def _learn(self, data: Any) -> dict[str, keras.KerasTensor]:
        (labeled, unlabeled), labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        count = ops.shape(unlabeled)[0]
        generated = self.generator(self.draw_noise(count), training=True)

        def of_discriminator() -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
            losses = self.discriminator_losses(labeled, labels, unlabeled, generated)
            return losses["supervised"] + losses["unsupervised"] + losses["generated"], losses

        weights = self.discriminator.trainable_variables
        losses, gradients = differentiate(of_discriminator, weights, self.variables)
        self.optimizer.discriminator.apply(gradients, weights)

        noise = self.draw_noise(count)

        def of_generator() -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
            loss = self.generator_loss(noise, unlabeled)
            return loss, {"matching": loss}

        weights = self.generator.trainable_variables
        matching, gradients = differentiate(of_generator, weights, self.variables)
        self.optimizer.generator.apply(gradients, weights)

        losses |= matching
        for name, tracker in self._trackers.items():
            tracker.update_state(losses[name])
        return {name: tracker.result() for name, tracker in self._trackers.items()}


class _AdamPair(keras.optimizers.Optimizer):
    """Two Adams, one for each network, whose state Keras' trainers carry as that of one optimizer."""

    def __init__(self, schedule: GanSchedule, discriminator: keras.Model, generator: keras.Model) -> None:
        super().__init__(schedule.learning_rate)
        self.discriminator, self.generator = (
            keras.optimizers.Adam(schedule.learning_rate, beta_1=schedule.beta_1) for _ in range(2)
        )
        self.discriminator.build(discriminator.trainable_variables)
        self.generator.build(generator.trainable_variables)
        self.built = True  # both are

    @property
    def variables(self) -> list[Any]:
        """List the state of both."""
        return [*self.discriminator.variables, *self.generator.variables]


# --- loop -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainedGan:
    """What a training of the GAN leaves.

    Attributes:
        classifier: reads [N, 110, 110, 1] as `to_input` gives it, gives probabilities [N, K].
        generator: draws frames from noise.
        log: one entry an epoch: losses, D of unlabeled and of generated frames.
    """

    classifier: keras.Model
    generator: keras.Model
    log: list[dict[str, float]]


def train_gan(
    labeled: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    unlabeled: npt.NDArray[np.uint8],
    *,
    classes: int = 2,
    preset: str | Preset = "small",
    schedule: GanSchedule | None = None,
    seed: int = 0,
    folder: Path | None = None,
    precision: Precision = "float32",
    on_step: OnStep | None = None,
    on_epoch: Callable[[int, SemiSupervisedGan], None] | None = None,
) -> TrainedGan:
    """Train the semi-supervised GAN.

    Args:
        labeled: [L, H, W], uint8, masked as frames will be in use; brought to 110 x 110 here.
        labels: [L], int64, 0 to K - 1.
        unlabeled: [M, H, W], uint8, masked likewise.
        classes: K.
        preset: widths.
        schedule: None for the preset's, the small one's for other widths.
        seed: of weights, noise, order and dropout.
        folder: where its log (CSV) and its checkpoint are, from which a run that was killed goes on;
            None for neither.
        precision: what the networks compute in while they learn; what is returned computes in float32.
        on_step: called after each step; the loss is the supervised one.
        on_epoch: called after each epoch with its number from 1 and the model.

    Raises:
        DatasetError: if there are no labeled or no unlabeled frames, or a label is not a class.
        TrainingError: if a loss is no longer finite, or Keras runs on a backend it does not know.
    """
    _check(labeled, labels, unlabeled, classes)
    if schedule is None:
        schedule = GAN_SCHEDULES[preset if isinstance(preset, str) else "small"]
    keras.utils.set_random_seed(seed)
    widths = PRESETS[preset] if isinstance(preset, str) else preset
    with computing_in(precision):
        gan = SemiSupervisedGan(widths, classes, seed=seed)
    gan.compile(schedule)
    labeled, unlabeled = (shrink(frames, GAN_SIZE, GAN_SIZE) for frames in (labeled, unlabeled))
    checkpoint = Checkpoint(folder, "gan", [*gan.variables, *gan.optimizer.variables])
    log, _ = checkpoint.restore() or ([], [])
    for epoch in range(len(log), schedule.epochs):
        steps = []
        batches = _Batches(labeled, labels, unlabeled, schedule, np.random.default_rng((seed, epoch)))
        for inputs, targets in batches:
            steps.append(gan.train_on_batch(inputs, targets, return_dict=True))
            loss = float(steps[-1]["supervised"])
            if on_step is not None:
                on_step(Step("gan", epoch + 1, schedule.epochs, len(steps), len(batches), loss))
        means = {name: float(np.mean([step[name] for step in steps])) for name in _MEASURES}
        if not np.isfinite(list(means.values())).all():
            raise TrainingError(
                f"the GAN's losses must stay finite; received {means} in epoch {epoch + 1}. "
                "Train with a smaller learning rate or another seed"
            )
        log.append({"epoch": float(epoch + 1), **means})
        checkpoint.keep(log)
        if on_epoch is not None:
            on_epoch(epoch + 1, gan)
    discriminator, generator = gan.discriminator, gan.generator
    if precision != "float32":
        discriminator, generator = build_discriminator(widths, classes), build_generator(widths)
        discriminator.set_weights(gan.discriminator.get_weights())
        generator.set_weights(gan.generator.get_weights())
    return TrainedGan(build_discriminator_classifier(discriminator), generator, log)


def classify(
    classifier: keras.Model, frames: npt.NDArray[np.uint8], batch_size: int = 64
) -> npt.NDArray[np.float32]:
    """Run a trained classifier on frames.

    Args:
        classifier: as `TrainedGan` has it.
        frames: [N, H, W], uint8, masked as the training frames were.
        batch_size: frames at a time.

    Returns:
        [N, K], float32 probabilities.
    """
    inputs = to_input(shrink(frames, GAN_SIZE, GAN_SIZE))
    padded = np.pad(inputs, [(0, -len(inputs) % batch_size), (0, 0), (0, 0), (0, 0)])  # one shape
    parts = [
        classifier.predict_on_batch(padded[start : start + batch_size])
        for start in range(0, len(padded), batch_size)
    ]
    return np.concatenate(parts)[: len(inputs)].astype(np.float32)


def _check(
    labeled: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    unlabeled: npt.NDArray[np.uint8],
    classes: int,
) -> None:
    if not len(labeled) or not len(unlabeled) or len(labels) != len(labeled):
        raise DatasetError(
            "the GAN needs unlabeled frames, and labeled frames with as many labels; "
            f"received {len(unlabeled)}, {len(labeled)} and {len(labels)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DatasetError(f"labels must be 0 to {classes - 1}; received {labels.min()} to {labels.max()}")


class _Batches:
    """The batches of one epoch: unlabeled frames once each, labeled ones as often as it takes."""

    def __init__(
        self,
        labeled: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        unlabeled: npt.NDArray[np.uint8],
        schedule: GanSchedule,
        rng: np.random.Generator,
    ) -> None:
        self._arrays = labeled, labels, unlabeled
        self._size = schedule.batch_size
        steps = max(1, len(unlabeled) // schedule.batch_size)
        self._steps = steps if schedule.max_steps is None else min(steps, schedule.max_steps)
        self._unlabeled_order = _endless_order(len(unlabeled), self._steps * self._size, rng)
        self._labeled_order = _endless_order(len(labeled), self._steps * self._size, rng)

    def __len__(self) -> int:
        return self._steps

    def __iter__(
        self,
    ) -> Iterator[tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], npt.NDArray[np.int64]]]:
        labeled, labels, unlabeled = self._arrays
        for start in range(0, self._steps * self._size, self._size):
            ours = self._labeled_order[start : start + self._size]
            others = self._unlabeled_order[start : start + self._size]
            yield (_signed(labeled[ours]), _signed(unlabeled[others])), labels[ours]


def _endless_order(count: int, wanted: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Give `wanted` indices: shuffled passes over `count`, one after another."""
    passes = [rng.permutation(count) for _ in range(-(-wanted // count))]
    return np.concatenate(passes)[:wanted]


def _signed(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bring frames to the range of tanh: [N, 110, 110, 1], float32, -1 to 1."""
    return to_input(frames) * np.float32(2) - np.float32(1)
