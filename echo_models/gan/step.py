"""One step of the semi-supervised GAN (paper, Methods, "GAN"): the model, its losses, its two Adams."""

import dataclasses
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from echo_models.backend import differentiate, require_backend, run_step
from echo_models.gan.options import GanOptions, GanSchedule
from echo_models.losses import feature_matching_loss, generated_loss, real_loss, supervised_loss
from echo_models.networks import (
    Preset,
    build_discriminator,
    build_discriminator_classifier,
    build_generator,
)

MEASURES: Final = ("supervised", "unsupervised", "generated", "matching", "d_real", "d_generated")
"""Losses of a step, then D(x) and D(G(z)): mean probabilities that frames are real."""


_MEASURED_TOGETHER: Final = 64
"""Frames of a batch whose mean and variance are measured."""


class SemiSupervisedGan(keras.Model):
    """A classifier that also learns from unlabeled frames, by telling them from generated ones.

    `fit` on batches ((labeled frames, unlabeled frames), labels); frames [N, 110, 110, 1], float32,
    -1 to 1. Runs on TensorFlow and on JAX: see `echo_models.backend`.

    Raises:
        TrainingError: if Keras runs on another backend.
    """

    def __init__(
        self, preset: Preset, classes: int, *, options: GanOptions | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        require_backend()
        super().__init__(**kwargs)
        options = options or GanOptions()
        self.generator = build_generator(preset)
        self.discriminator = build_discriminator(preset, classes, head=options.head)
        if options.head == "sigmoid":
            # "Real" starts as the mean of the logits, of which the softmax over the classes knows nothing:
            # random weights would push real frames towards the classes of the positive ones.
            kernel = self.discriminator.get_layer("real_logit").kernel
            kernel.assign(ops.full(kernel.shape, 1 / classes))
        self.classes = classes
        self._preset, self._head, self._decay = preset, options.head, options.ema_decay
        self._random = keras.random.SeedGenerator(seed)
        self._trackers = {name: keras.metrics.Mean(name) for name in MEASURES}
        self._averages = (
            []
            if options.ema_decay is None
            else [
                keras.Variable(weight.numpy(), trainable=False, name=f"average_{index}")
                for index, weight in enumerate(self.discriminator.weights)
            ]
        )
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

    def classifier(
        self, name: str = "discriminator_classifier", frames: npt.NDArray[np.float32] | None = None
    ) -> keras.Model:
        """Copy what it has learned into a classifier that computes in float32.

        Its weights are the moving average where one is kept. It reads frames as every network of this
        package does: [N, 110, 110, 1], float32, 0 to 1, and gives probabilities [N, K].

        Args:
            name: of the model.
            frames: [N, 110, 110, 1], float32, -1 to 1, real ones, with which the averages of its batch
                normalisation are measured again: those of training were taken under dropout, which
                makes every activation after it vary more than it does in use. None for those.
        """
        discriminator = build_discriminator(self._preset, self.classes, head=self._head)
        discriminator.set_weights([weight.numpy() for weight in self._averages or self.discriminator.weights])
        if frames is not None:
            calm = dataclasses.replace(self._preset, input_dropout=0.0, block_dropout=0.0)
            measured = build_discriminator(calm, self.classes, head=self._head)
            measured.set_weights(discriminator.get_weights())
            measure_averages(measured, frames)
            discriminator.set_weights(measured.get_weights())
        return build_discriminator_classifier(discriminator, name=name)

    def drawer(self) -> keras.Model:
        """Copy its generator into one that computes in float32."""
        generator = build_generator(self._preset)
        generator.set_weights(self.generator.get_weights())
        return generator

    def draw_noise(self, count: int) -> keras.KerasTensor:
        """Draw the generator's input: a random one-hot class, then Gaussian noise; [N, noise]."""
        of_class = keras.random.randint((count,), 0, self.classes, seed=self._random)
        gaussian = keras.random.normal((count, self._preset.noise - self.classes), seed=self._random)
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
        of_generated = self._pass_generated(generated)
        return {
            "supervised": supervised_loss(labels, of_labeled["logits"]),
            "unsupervised": real_loss(of_unlabeled["real_logit"]),
            "generated": generated_loss(of_generated["real_logit"]),
            "d_real": ops.mean(ops.sigmoid(of_unlabeled["real_logit"])),
            "d_generated": ops.mean(ops.sigmoid(of_generated["real_logit"])),
        }

    def generator_loss(self, noise: keras.KerasTensor, unlabeled: keras.KerasTensor) -> keras.KerasTensor:
        """Compare the features of generated and of unlabeled frames (feature matching)."""
        of_generated = self._pass_generated(self.generator(noise, training=True))
        of_unlabeled = self.discriminator(unlabeled, training=True)
        return feature_matching_loss(of_generated["features"], of_unlabeled["features"])

    def _pass_generated(self, generated: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Pass generated frames through the discriminator, and leave no mark on its running averages.

        Its batch normalisation uses them in inference, where every frame is a real one.
        """
        averages = self.discriminator.non_trainable_weights
        before = [ops.convert_to_tensor(average) for average in averages]
        outputs: dict[str, keras.KerasTensor] = self.discriminator(generated, training=True)
        for average, value in zip(averages, before, strict=True):
            average.assign(value)
        return outputs

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
        self._average()

        losses |= matching
        for name, tracker in self._trackers.items():
            tracker.update_state(losses[name])
        return {name: tracker.result() for name, tracker in self._trackers.items()}

    def _average(self) -> None:
        """Move the averages towards the weights, faster at first: the first weights are random."""
        if self._decay is None:
            return
        steps = ops.cast(self.optimizer.discriminator.iterations, "float32")
        decay = ops.minimum(self._decay, steps / (steps + 9))
        for average, weight in zip(self._averages, self.discriminator.weights, strict=True):
            average.assign(decay * average + (1 - decay) * weight)


def measure_averages(discriminator: keras.Model, frames: npt.NDArray[np.float32]) -> None:
    """Give batch normalisation averages that fit its weights: those over frames, batch after batch.

    Args:
        discriminator: without dropout, which would make activations vary more than they do in use.
        frames: [N, 110, 110, 1], float32, -1 to 1.
    """
    normalizations = [
        layer for layer in discriminator.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    size = min(_MEASURED_TOGETHER, len(frames))
    for number, start in enumerate(range(0, len(frames) - size + 1, size)):
        for layer in normalizations:
            layer.momentum = number / (number + 1)
        discriminator(frames[start : start + size], training=True)


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
