"""The training loop of the semi-supervised GAN: members, epochs, checkpoints, what is watched."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from echo_models.backend import Precision, computing_in
from echo_models.checkpoints import Checkpoint, Log
from echo_models.evaluation import accuracy_of, confusion_matrix, f1_of
from echo_models.fitting import OnStep, Step
from echo_models.gan.batches import Batches, Frames, GanFrames, Labels, signed
from echo_models.gan.grids import draw_frames, fixed_noise, save_grid
from echo_models.gan.options import GAN_SCHEDULES, GanOptions, GanSchedule
from echo_models.gan.step import MEASURES, SemiSupervisedGan
from echo_models.gan.watch import diversity_ratio, require_convergence, troubles
from echo_models.networks import PRESETS, Preset, build_ensemble
from echo_models.preprocessing import shrink, to_input

_COLUMNS: Final = 8
"""Frames that are drawn with each one-hot class to look at."""

_REAL_FRAMES: Final = 128
"""Unlabeled frames that generated ones are compared with."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedGan:
    """What a training of the GAN leaves.

    Attributes:
        classifier: reads [N, 110, 110, 1] as `to_input` gives it, gives probabilities [N, K]: the mean
            of the members'.
        generators: of each member; draw frames from noise.
        log: one entry an epoch and member: losses, D of unlabeled and of generated frames, diversity of
            generated frames, accuracy and F1 on the validation frames if there are any, and 1 for each
            trouble it had (see `echo_models.gan.watch`).
        stopped_early: whether time was over before the schedule was.
    """

    classifier: keras.Model
    generators: tuple[keras.Model, ...]
    log: Log
    stopped_early: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """One training of one GAN."""

    preset: Preset
    classes: int
    frames: GanFrames
    validation: tuple[Frames, Labels] | None
    schedule: GanSchedule
    options: GanOptions
    seed: int
    stage: str
    folder: Path | None
    precision: Precision
    on_step: OnStep
    on_epoch: Callable[[int, SemiSupervisedGan], None]
    out_of_time: Callable[[], bool]

    def train(self) -> tuple[SemiSupervisedGan, Log]:
        """Train from the last whole epoch that was kept; the log is shorter if time was over."""
        keras.utils.set_random_seed(self.seed)
        with computing_in(self.precision):
            gan = SemiSupervisedGan(self.preset, self.classes, options=self.options, seed=self.seed)
        gan.compile(self.schedule)
        checkpoint = Checkpoint(self.folder, self.stage, [*gan.variables, *gan.optimizer.variables])
        log, _ = checkpoint.restore() or ([], [])
        while len(log) < self.schedule.epochs and not (log and self.out_of_time()):
            log.append(self._epoch(gan, len(log) + 1))
            checkpoint.keep(log)
            self.on_epoch(len(log), gan)
        return gan, log

    def _epoch(self, gan: SemiSupervisedGan, epoch: int) -> dict[str, Any]:
        batches = Batches(self.frames, self.schedule, self.options.augmentation, seed=(self.seed, epoch - 1))
        steps = []
        for inputs, targets in batches:
            gan.reset_metrics()
            steps.append(gan.train_on_batch(inputs, targets, return_dict=True))
            require_convergence(steps[-1], epoch=epoch, stage=self.stage)
            loss = float(steps[-1]["supervised"])
            self.on_step(Step(self.stage, epoch, self.schedule.epochs, len(steps), len(batches), loss))
        entry = {"epoch": float(epoch)}
        entry |= {name: float(np.mean([step[name] for step in steps])) for name in MEASURES}
        return entry | self._look(gan, epoch, entry)

    def _look(self, gan: SemiSupervisedGan, epoch: int, entry: dict[str, float]) -> dict[str, float]:
        """Draw frames, compare them with real ones, and classify the validation frames."""
        noise = fixed_noise(self.preset.noise, self.classes, _COLUMNS, self.seed)
        generated = draw_frames(gan.generator, noise)
        if self.folder is not None:
            save_grid(self.folder / f"{self.stage}_generated", epoch, generated, _COLUMNS)
        by_class = generated.reshape(self.classes, _COLUMNS, *generated.shape[1:])
        seen = {"diversity_ratio": diversity_ratio(by_class, signed(self.frames.unlabeled[:_REAL_FRAMES]))}
        if self.validation is not None:
            seen |= _score(self.classifier(gan), *self.validation, self.classes)
        found = troubles(entry | seen)
        for trouble, there in found.items():
            if there:
                _log.warning("%s: %s in epoch %d", self.stage, trouble.replace("_", " "), epoch)
        return seen | found

    def classifier(self, gan: SemiSupervisedGan, name: str = "discriminator_classifier") -> keras.Model:
        """Take the classifier out, with averages measured on labeled and unlabeled frames alike."""
        return gan.classifier(name, self.frames.mixture(self.seed))


def _score(classifier: keras.Model, frames: Frames, labels: Labels, classes: int) -> dict[str, float]:
    confusion = confusion_matrix(labels, classify(classifier, frames).argmax(axis=1), classes)
    return {"accuracy": accuracy_of(confusion), "f1": f1_of(confusion)}


def train_gan(
    labeled: Frames,
    labels: Labels,
    unlabeled: Frames,
    *,
    classes: int = 2,
    preset: str | Preset = "small",
    schedule: GanSchedule | None = None,
    options: GanOptions | None = None,
    validation: tuple[Frames, Labels] | None = None,
    seed: int = 0,
    folder: Path | None = None,
    precision: Precision = "float32",
    on_step: OnStep | None = None,
    on_epoch: Callable[[int, SemiSupervisedGan], None] | None = None,
    out_of_time: Callable[[], bool] | None = None,
) -> TrainedGan:
    """Train the semi-supervised GAN, or an ensemble of it.

    Args:
        labeled: [L, H, W], uint8, masked as frames will be in use; brought to 110 x 110 here.
        labels: [L], int64, 0 to K - 1.
        unlabeled: [M, H, W], uint8, masked likewise.
        classes: K.
        preset: widths.
        schedule: None for the preset's, the small one's for other widths.
        options: what the paper leaves open; None for its own choices and one member.
        validation: frames and labels, as the labeled ones, that are classified after each epoch for the
            log; nothing is learned or chosen by them.
        seed: of weights, noise, order, dropout and augmentation; members have other ones each.
        folder: where its log (CSV), its grids of generated frames and its checkpoint are, from which a
            run that was killed goes on; None for none of them.
        precision: what the networks compute in while they learn; what is returned computes in float32.
        on_step: called after each step; the loss is the supervised one.
        on_epoch: called after each epoch with its number from 1 and the model.
        out_of_time: asked after each epoch; once it says yes, training ends with what there is. A member
            of an ensemble that is not ready by then counts only if it is the first.

    Raises:
        DatasetError: if there are no labeled or no unlabeled frames, or a label is not a class.
        TrainingError: if a loss runs away, or Keras runs on a backend it does not know.
    """
    frames = GanFrames(labeled, labels, unlabeled)
    frames.check(classes)
    options = options or GanOptions()
    widths = PRESETS[preset] if isinstance(preset, str) else preset
    first = _Member(
        preset=widths,
        classes=classes,
        frames=frames.shrunk(widths.gan_size),
        validation=validation,
        schedule=schedule or GAN_SCHEDULES[preset if isinstance(preset, str) else "small"],
        options=options,
        seed=seed,
        stage="gan",
        folder=folder,
        precision=precision,
        on_step=on_step or (lambda _: None),
        on_epoch=on_epoch or (lambda _, __: None),
        out_of_time=out_of_time or (lambda: False),
    )
    classifiers: list[keras.Model] = []
    generators: list[keras.Model] = []
    log: Log = []
    stopped_early = False
    for number in range(1, options.ensemble + 1):
        stage = "gan" if options.ensemble == 1 else f"gan_member_{number}"
        member = replace(first, seed=seed + 1000 * (number - 1), stage=stage)
        gan, entries = member.train()
        stopped_early = len(entries) < first.schedule.epochs
        if stopped_early and classifiers:
            break
        classifiers.append(member.classifier(gan, f"member_{number}"))
        generators.append(gan.drawer())
        log += [entry | {"member": float(number)} for entry in entries]
        if stopped_early:
            break
    classifier = build_ensemble(classifiers) if len(classifiers) > 1 else classifiers[0]
    return TrainedGan(classifier, tuple(generators), log, stopped_early)


def classify(classifier: keras.Model, frames: Frames, batch_size: int = 64) -> npt.NDArray[np.float32]:
    """Run a trained classifier on frames.

    Args:
        classifier: as `TrainedGan` has it.
        frames: [N, H, W], uint8, masked as the training frames were.
        batch_size: frames at a time.

    Returns:
        [N, K], float32 probabilities.
    """
    inputs = to_input(shrink(frames, *classifier.input_shape[1:3]))
    padded = np.pad(inputs, [(0, -len(inputs) % batch_size), (0, 0), (0, 0), (0, 0)])  # one shape
    parts = [
        classifier.predict_on_batch(padded[start : start + batch_size])
        for start in range(0, len(padded), batch_size)
    ]
    return np.concatenate(parts)[: len(inputs)].astype(np.float32)
