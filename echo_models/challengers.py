"""What the semi-supervised GAN has to beat: other ways to learn from few labels and many frames.

All have the GAN's discriminator for a network, its frames in its order, its augmentation, and as many steps
of the same Adam; only what a step learns from unlabeled frames differs.

    supervised    nothing
    pseudo_label  its own answers, where it is sure (Lee 2013, with a threshold as Oliver et al. 2018)
    fixmatch      its answers to a frame, asked of a strongly changed copy of it (Sohn et al. 2020)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from echo_models.augment import NO_AUGMENTATION, Augmentation, change
from echo_models.checkpoints import Checkpoint, Log
from echo_models.errors import TrainingError
from echo_models.evaluation import accuracy_of, confusion_matrix, f1_of
from echo_models.fitting import OnStep, Step
from echo_models.gan import GAN_SCHEDULES, GanSchedule, classify
from echo_models.gan.batches import Batches, Frames, GanFrames, Labels, signed
from echo_models.gan.step import measure_averages
from echo_models.networks import (
    PRESETS,
    Preset,
    build_discriminator,
    build_discriminator_classifier,
    build_ensemble,
)

STRONG: Final = Augmentation(rotation_degrees=20.0, shift_ratio=0.15, jitter=1.5, cutout_ratio=0.35)
"""Movement, grey curve and Cutout, on top of the weak changes that every frame has."""


@dataclass(frozen=True, slots=True)
class Challenger:
    """What a step learns from unlabeled frames: L = L_labeled + weight * L_unlabeled.

    L_labeled is the mean of -log p(y | x). L_unlabeled is the mean of -log p(a | x') over the unlabeled
    frames x whose most probable class a has a probability of `confidence` or more, and of 0 over the others.

    Attributes:
        name: of the arm, in files.
        title: in tables.
        confidence: from which an answer is learned, 0 to 1; None to learn nothing from unlabeled frames.
        strong: how x' is changed further than x; None for x' = x.
        ramp_ratio: share of the epochs over which the weight rises from 0 to 1, because early answers are
            guesses; 0 for a weight of 1 throughout.
    """

    name: str
    title: str
    confidence: float | None = None
    strong: Augmentation | None = None
    ramp_ratio: float = 0.0

    def weight(self, epoch: int, epochs: int) -> float:
        """Give the weight of the unlabeled loss in an epoch, counted from 0."""
        if self.confidence is None:
            return 0.0
        return min(1.0, epoch / (self.ramp_ratio * epochs)) if self.ramp_ratio else 1.0


SUPERVISED: Final = Challenger("supervised", "labels alone")
PSEUDO_LABEL: Final = Challenger("pseudo_label", "pseudo-labels", confidence=0.95, ramp_ratio=0.4)
FIXMATCH: Final = Challenger("fixmatch", "FixMatch", confidence=0.95, strong=STRONG)

CHALLENGERS: Final[Mapping[str, Challenger]] = {
    challenger.name: challenger for challenger in (SUPERVISED, PSEUDO_LABEL, FIXMATCH)
}


@dataclass(frozen=True, slots=True)
class TrainedChallenger:
    """What a training leaves.

    Attributes:
        classifier: reads frames of the network's size as `to_input` gives them; probabilities [N, K].
        log: one entry an epoch and member: loss, share of unlabeled frames that were learned from, and
            accuracy and F1 on the validation frames if there are any.
    """

    classifier: keras.Model
    log: Log


def train_challenger(
    challenger: Challenger,
    labeled: Frames,
    labels: Labels,
    unlabeled: Frames,
    *,
    classes: int = 2,
    preset: str | Preset = "small",
    schedule: GanSchedule | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
    ema_decay: float | None = None,
    ensemble: int = 1,
    validation: tuple[Frames, Labels] | None = None,
    seed: int = 0,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainedChallenger:
    """Train a challenger, or an ensemble of it, on what `train_gan` would be given.

    Args:
        challenger: how it learns.
        labeled: [L, H, W], uint8, masked as frames will be in use; brought to the network's size here.
        labels: [L], int64, 0 to K - 1.
        unlabeled: [M, H, W], uint8, masked likewise; they count the steps of an epoch even where nothing is
            learned from them.
        classes: K.
        preset: widths.
        schedule: None for the preset's GAN schedule, the small one's for other widths.
        augmentation: of labeled and unlabeled frames alike.
        ema_decay: classify with a moving average of the weights, of which each step keeps this share; None
            for the weights themselves.
        ensemble: members, whose probabilities are averaged.
        validation: frames and labels that are classified after each epoch for the log; nothing is learned
            or chosen by them.
        seed: of weights, order, dropout and augmentation; members have other ones each.
        folder: where its log (CSV) and its checkpoint are, from which a run that was killed goes on; None
            for neither.
        on_step: called after each step.

    Raises:
        DatasetError: if there are no labeled or no unlabeled frames, or a label is not a class.
        TrainingError: if the loss is no longer finite.
    """
    frames = GanFrames(labeled, labels, unlabeled)
    frames.check(classes)
    widths = PRESETS[preset] if isinstance(preset, str) else preset
    classifiers, log = [], []
    for number in range(1, ensemble + 1):
        member = _Member(
            challenger,
            widths,
            classes,
            frames.shrunk(widths.gan_size),
            validation,
            schedule or GAN_SCHEDULES[preset if isinstance(preset, str) else "small"],
            augmentation,
            seed + 1000 * (number - 1),
            challenger.name if ensemble == 1 else f"{challenger.name}_member_{number}",
            folder,
            on_step or (lambda _: None),
            ema_decay,
        )
        classifier, entries = member.train(f"member_{number}")
        classifiers.append(classifier)
        log += [entry | {"member": float(number)} for entry in entries]
    return TrainedChallenger(build_ensemble(classifiers) if ensemble > 1 else classifiers[0], log)


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """One training of one challenger."""

    challenger: Challenger
    preset: Preset
    classes: int
    frames: GanFrames
    validation: tuple[Frames, Labels] | None
    schedule: GanSchedule
    augmentation: Augmentation
    seed: int
    stage: str
    folder: Path | None
    on_step: OnStep
    ema_decay: float | None = None

    def train(self, name: str) -> tuple[keras.Model, Log]:
        """Train from the last whole epoch that was kept."""
        keras.utils.set_random_seed(self.seed)
        discriminator = build_discriminator(self.preset, self.classes)
        learner = keras.Model(discriminator.input, discriminator.output["logits"])
        optimizer = keras.optimizers.Adam(
            self.schedule.learning_rate,
            beta_1=self.schedule.beta_1,
            use_ema=self.ema_decay is not None,
            ema_momentum=self.ema_decay or 0.0,
        )
        # Weights of the examples make means of sums: see `_together`.
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        learner.compile(optimizer, loss)
        optimizer.build(learner.trainable_variables)
        checkpoint = Checkpoint(self.folder, self.stage, [*learner.variables, *optimizer.variables])
        log, _ = checkpoint.restore() or ([], [])
        while len(log) < self.schedule.epochs:
            log.append(self._epoch(learner, len(log)) | self._score(self._classifier(learner, name)))
            checkpoint.keep(log)
        return self._classifier(learner, name), log

    def _classifier(self, learner: keras.Model, name: str) -> keras.Model:
        """Copy what it has learned, or the average of it, into a classifier."""
        calm = replace(self.preset, input_dropout=0.0, block_dropout=0.0)
        in_use = build_discriminator(calm, self.classes)
        now = learner.get_weights()
        learner.optimizer.finalize_variable_values(learner.trainable_variables)  # the average, if one is kept
        keras.Model(in_use.input, in_use.output["logits"]).set_weights(learner.get_weights())
        learner.set_weights(now)
        if self.ema_decay is not None:
            measure_averages(in_use, self.frames.mixture(self.seed))
        return build_discriminator_classifier(in_use, name)

    def _epoch(self, learner: keras.Model, epoch: int) -> dict[str, Any]:
        batches = Batches(self.frames, self.schedule, self.augmentation, seed=(self.seed, epoch))
        weight = self.challenger.weight(epoch, self.schedule.epochs)
        rng = np.random.default_rng((self.seed, epoch, 1))
        losses, sure = [], []
        for (labeled, unlabeled), labels in batches:
            batch = labeled, labels, np.full(len(labels), 1 / len(labels), np.float32)
            if self.challenger.confidence is not None:
                answers, weights = self._answers(learner, unlabeled)
                sure.append(float((weights > 0).mean()))
                batch = _together(batch, (self._asked(unlabeled, rng), answers, weight * weights))
            learner.reset_metrics()
            losses.append(float(learner.train_on_batch(*batch, return_dict=True)["loss"]))
            if not np.isfinite(losses[-1]):
                raise TrainingError(
                    f"{self.stage}: loss must stay finite; received {losses[-1]} in epoch {epoch + 1}. "
                    "Train with a smaller learning rate or another seed"
                )
            step = Step(self.stage, epoch + 1, self.schedule.epochs, len(losses), len(batches), losses[-1])
            self.on_step(step)
        return {
            "epoch": float(epoch + 1),
            "loss": float(np.mean(losses)),
            "sure_ratio": float(np.mean(sure)) if sure else 0.0,
        }

    def _answers(self, learner: keras.Model, frames: npt.NDArray[np.float32]) -> tuple[Labels, Any]:
        """Ask the network as it is in use, without dropout: classes [N], and weights [N], 0 where unsure."""
        logits = np.asarray(learner.predict_on_batch(frames), np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        best = 1 / odds.sum(axis=1)  # the most probable class has odds of 1
        sure = best >= (self.challenger.confidence or 0.0)
        return logits.argmax(axis=1), (sure / len(frames)).astype(np.float32)

    def _asked(self, frames: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Change the frames further, if this challenger does: [N, H, W, 1], -1 to 1."""
        if self.challenger.strong is None:
            return frames
        grey = np.rint((frames[..., 0] + 1) * 127.5).astype(np.uint8)
        return signed(change(grey, self.challenger.strong, rng))

    def _score(self, classifier: keras.Model) -> dict[str, float]:
        if self.validation is None:
            return {}
        frames, labels = self.validation
        answers = classify(classifier, frames).argmax(axis=1)
        confusion = confusion_matrix(labels, answers, self.classes)
        return {"accuracy": accuracy_of(confusion), "f1": f1_of(confusion)}


_Batch = tuple[npt.NDArray[np.float32], Labels, npt.NDArray[np.float32]]


def _together(labeled: _Batch, unlabeled: _Batch) -> _Batch:
    """Put labeled and unlabeled frames, classes and weights into one batch.

    Weights are 1 / N of each half, so that the weighted sum of losses is the sum of the two means.
    """
    (ours, labels, even), (theirs, answers, sure) = labeled, unlabeled
    return np.concatenate([ours, theirs]), np.concatenate([labels, answers]), np.concatenate([even, sure])
