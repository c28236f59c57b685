"""The training loop every supervised network shares: schedule, steps, early stopping, checkpoints."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from echo_models.augment import Augmentation
from echo_models.backend import Precision, computing_in
from echo_models.checkpoints import Checkpoint
from echo_models.datasets import Examples
from echo_models.errors import TrainingError
from echo_models.networks import Preset, logits_of


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast one stage learns, with Adam.

    Attributes:
        epochs: at most.
        batch_size: frames of a step.
        learning_rate: in the first epoch.
        decay: what it is multiplied by after each epoch.
        patience: epochs without a better validation loss after which it stops and goes back to the
            best; None to run to the end and keep the end.
        augmentation: of the training frames.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    decay: float
    patience: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, slots=True)
class Step:
    """Where training is, for a progress bar.

    Attributes:
        stage: what is being trained.
        epoch: from 1.
        epochs: at most.
        step: steps done of this epoch.
        steps: steps of an epoch.
        loss: mean of the epoch so far.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


OnStep = Callable[[Step], None]

_LOSSES: Final = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}


def _silent(step: Step) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a training needs besides its data.

    Attributes:
        preset: widths of the networks.
        schedules: by stage.
        seed: of weights, order, dropout and augmentation.
        folder: where its log and checkpoints are; None for neither.
        on_step: called after each step.
        precision: what the networks compute in while they learn.
    """

    preset: Preset
    schedules: Mapping[str, Schedule]
    seed: int = 0
    folder: Path | None = None
    on_step: OnStep = _silent
    precision: Precision = "float32"

    def build(self, builder: Callable[[], keras.Model]) -> keras.Model:
        """Build a network that learns in this run's precision."""
        with computing_in(self.precision):
            return builder()

    def finish(self, model: keras.Model, builder: Callable[[], keras.Model]) -> keras.Model:
        """Give what was learned as a network that computes in float32, as every bundle does."""
        if self.precision == "float32":
            return model
        exact = builder()
        exact.set_weights(model.get_weights())
        return exact


def fit(
    model: keras.Model,
    loss: str,
    train: Examples,
    validation: Examples,
    *,
    stage: str,
    run: Run,
    schedule: Schedule | None = None,
) -> list[dict[str, Any]]:
    """Train a model; a run that was killed goes on from its last whole epoch.

    Args:
        model: gives probabilities; learns with Adam.
        loss: Keras' name of a cross-entropy.
        train: what it learns from.
        validation: what early stopping looks at.
        stage: names schedule, log and checkpoint.
        run: seed, folder and progress.
        schedule: instead of the run's of that stage.

    Returns:
        one entry an epoch: stage, epoch, learning_rate, loss, validation_loss.

    Raises:
        TrainingError: if the loss is no longer finite.
    """
    schedule = schedule or run.schedules[stage]
    # From logits: the logarithm of a probability that has come to 0 or 1 has no slope on every backend.
    learner = logits_of(model)
    optimizer = keras.optimizers.Adam(schedule.learning_rate)
    learner.compile(optimizer, _LOSSES[loss](from_logits=True))
    optimizer.build(learner.trainable_variables)
    checkpoint = Checkpoint(run.folder, stage, [*learner.variables, *optimizer.variables])
    log, best = checkpoint.restore() or ([], model.get_weights())
    while not _finished(log, schedule):
        epoch = len(log)
        learning_rate = schedule.learning_rate * schedule.decay**epoch
        optimizer.learning_rate = learning_rate
        steps = max(1, len(train) // schedule.batch_size)
        losses: list[float] = []
        for inputs, targets in _batches(train, schedule, (run.seed, epoch)):
            losses.append(_step(learner, inputs, targets))
            run.on_step(Step(stage, epoch + 1, schedule.epochs, len(losses), steps, float(np.mean(losses))))
        value = float(np.mean(losses))
        validation_value = loss_on(model, loss, validation)
        if not np.isfinite([value, validation_value]).all():
            raise TrainingError(
                f"{stage}: loss must stay finite; received {value} and {validation_value} on validation in "
                f"epoch {epoch + 1}. Train with a smaller learning rate or another seed"
            )
        log.append(
            {
                "stage": stage,
                "epoch": epoch + 1,
                "learning_rate": learning_rate,
                "loss": value,
                "validation_loss": validation_value,
            }
        )
        if schedule.patience is None or _best_epoch(log) == epoch:
            best = model.get_weights()
        checkpoint.keep(log, best)
    model.set_weights(best)
    return log


def _step(model: keras.Model, inputs: Any, targets: Any) -> float:
    """Take one step and give the loss of this batch alone, weight decay included."""
    model.reset_metrics()
    return float(model.train_on_batch(inputs, targets, return_dict=True)["loss"])


def _best_epoch(log: Sequence[Mapping[str, Any]]) -> int:
    return int(np.argmin([entry["validation_loss"] for entry in log]))


def _finished(log: Sequence[Mapping[str, Any]], schedule: Schedule) -> bool:
    if len(log) >= schedule.epochs:
        return True
    return (
        bool(log) and schedule.patience is not None and len(log) - 1 - _best_epoch(log) >= schedule.patience
    )


def _batches(
    examples: Examples, schedule: Schedule, seed: tuple[int, int]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Give the batches of one epoch in random order; a thread prepares the next while one is learned."""
    order = np.random.default_rng(seed).permutation(len(examples))
    size = min(schedule.batch_size, len(examples))
    starts = range(0, len(examples) - size + 1, size)  # a smaller last batch is left out: one shape
    waiting: deque[Future[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for start in starts:
            which = order[start : start + size]
            waiting.append(pool.submit(examples.batch, which, schedule.augmentation, (*seed, start)))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def predict(model: keras.Model, examples: Examples, batch_size: int = 64) -> npt.NDArray[np.float32]:
    """Give the model's output on examples, unchanged: [N, ...], float32."""
    return np.concatenate([outputs for outputs, _ in _outputs(model, examples, batch_size)])


def loss_on(model: keras.Model, loss: str, examples: Examples, batch_size: int = 64) -> float:
    """Give the mean loss on examples, unchanged, without weight decay."""
    function = keras.losses.get(loss)
    losses, counts = [], []
    for outputs, targets in _outputs(model, examples, batch_size):
        # Binary cross-entropy has an axis of one unit, sparse cross-entropies have none.
        fitting = targets[:, None] if outputs.shape[1:] == (1,) else targets
        losses.append(float(keras.ops.mean(function(fitting, outputs))))
        counts.append(len(outputs))
    return float(np.average(losses, weights=counts))


def _outputs(
    model: keras.Model, examples: Examples, batch_size: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Run a model on examples: (outputs, targets) of batch after batch, all computed at one shape."""
    for start in range(0, len(examples), batch_size):
        inputs, targets = examples.batch(slice(start, start + batch_size))
        padding = [(0, batch_size - len(inputs)), *[(0, 0)] * (inputs.ndim - 1)]
        outputs = model.predict_on_batch(np.pad(inputs, padding))[: len(inputs)]
        yield np.asarray(outputs, np.float32), targets
