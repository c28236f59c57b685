"""The training loop every supervised network shares: schedule, steps, early stopping, checkpoints."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from echo_models.augment import Augmentation
from echo_models.datasets import Examples
from echo_models.errors import TrainingError
from echo_models.networks import Preset


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
    """

    preset: Preset
    schedules: Mapping[str, Schedule]
    seed: int = 0
    folder: Path | None = None
    on_step: OnStep = _silent


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
        model: compiled here, with Adam.
        loss: Keras' name of a cross-entropy of probabilities.
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
    model.compile(keras.optimizers.Adam(schedule.learning_rate), loss)
    model.optimizer.build(model.trainable_variables)
    checkpoint = _Checkpoint(run.folder, stage, model)
    log, best = checkpoint.restore()
    while not _finished(log, schedule):
        epoch = len(log)
        learning_rate = schedule.learning_rate * schedule.decay**epoch
        model.optimizer.learning_rate = learning_rate
        steps = max(1, len(train) // schedule.batch_size)
        losses: list[float] = []
        for inputs, targets in _batches(train, schedule, (run.seed, epoch)):
            losses.append(_step(model, inputs, targets))
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


class _Checkpoint:
    """The state of a stage after its last whole epoch: all variables, the best weights, the log."""

    def __init__(self, folder: Path | None, stage: str, model: keras.Model) -> None:
        self._path = None if folder is None else folder / f"{stage}.npz"
        self._model = model

    def _variables(self) -> list[Any]:
        # Those of the model include the states of its random generators: dropout goes on as it would have.
        return [*self._model.variables, *self._model.optimizer.variables]

    def restore(self) -> tuple[list[dict[str, Any]], list[Any]]:
        """Bring the model back to where it was.

        Returns:
            the log so far, and the best weights; empty and the model's own where nothing was kept.
        """
        if self._path is None or not self._path.exists():
            return [], self._model.get_weights()
        with np.load(self._path) as stored:
            variables = self._variables()
            for index, variable in enumerate(variables):
                variable.assign(stored[f"variable_{index}"])
            best = [stored[f"best_{index}"] for index in range(len(self._model.weights))]
            return json.loads(str(stored["log"])), best

    def keep(self, log: list[dict[str, Any]], best: list[Any]) -> None:
        """Replace what was kept, so that a kill leaves the old or the new, whole."""
        if self._path is None:
            return
        arrays = {f"variable_{index}": np.asarray(value) for index, value in enumerate(self._variables())}
        arrays |= {f"best_{index}": value for index, value in enumerate(best)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, log=np.array(json.dumps(log)), **arrays)
        temporary.replace(self._path)
        _write_csv(self._path.with_suffix(".csv"), log)


def _write_csv(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(log[0]), *(",".join(str(value) for value in entry.values()) for entry in log)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
