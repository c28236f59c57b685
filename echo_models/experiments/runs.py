"""One arm of a comparison: trained, measured, and kept as a file that a second start finds."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from echo_models.datasets import Examples, LabeledFrames, Split
from echo_models.errors import TrainingError
from echo_models.evaluation import confusion_matrix, measure_classes
from echo_models.fitting import OnStep, Step, predict
from echo_models.manifest import Interval

_FRAMES_TIMED: Final = 256


class Result(BaseModel):
    """What one arm came to.

    Attributes:
        experiment: which comparison.
        arm: names it within its experiment; the file is called so.
        title: what a table calls it.
        key: digest of everything that decides the result.
        seed: of frames, split and training.
        size: of the experiment.
        data: which frames, always synthetic here: plan, fingerprint, frames of each part.
        code_version: of this package.
        classes: of the output.
        metrics: on the test frames, with intervals by bootstrap over subjects.
        confusion: [K][K], row is the true class.
        parameters: of the network or networks.
        epochs: run until it stopped.
        seconds_per_epoch: median; None if every epoch came from a checkpoint.
        images_per_second: of prediction in batches.
        log: one entry an epoch of each stage.
        note: what a reader must know, "" for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    arm: str
    title: str
    key: str
    seed: int
    size: str
    data: dict[str, Any]
    code_version: str
    classes: tuple[str, ...]
    metrics: dict[str, Interval]
    confusion: list[list[int]]
    parameters: int
    epochs: int
    seconds_per_epoch: float | None
    images_per_second: float
    log: list[dict[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the same for all arms of one experiment.

    Attributes:
        experiment: which.
        size: how much of everything.
        seed: of everything random.
        code_version: of this package.
        data: plan, fingerprint and frames of each part.
    """

    experiment: str
    size: str
    seed: int
    code_version: str
    data: Mapping[str, Any]

    def key(self, arm: str, settings: Mapping[str, Any]) -> str:
        """Digest all that decides an arm's result."""
        decisive = {
            "experiment": self.experiment,
            "size": self.size,
            "seed": self.seed,
            "code_version": self.code_version,
            "fingerprint": self.data["fingerprint"],
            "arm": arm,
            "settings": settings,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Stopwatch:
    """Times epochs from the steps that training reports."""

    on_step: OnStep
    epochs_s: list[float] = field(default_factory=list)
    _began: tuple[str, int, float] | None = None

    def __call__(self, step: Step) -> None:
        """Note a step, and pass it on."""
        now = time.perf_counter()
        if self._began is None or self._began[:2] != (step.stage, step.epoch):
            self._began = (step.stage, step.epoch, now)
        elif step.step == step.steps and step.steps > 1:
            # Between the first and the last step of an epoch lie all of its steps but one.
            self.epochs_s.append((now - self._began[2]) * step.steps / (step.steps - 1))
        self.on_step(step)

    @property
    def seconds_per_epoch(self) -> float | None:
        """Give the median, None where nothing was timed."""
        return float(np.median(self.epochs_s)) if self.epochs_s else None


def describe_data(plan: Mapping[str, Any], labeled: LabeledFrames, data: Split) -> dict[str, Any]:
    """Say which frames an experiment used."""
    return {
        "source": "phantom (synthetic)",
        "plan": dict(plan),
        "fingerprint": labeled.fingerprint()[:16],
        "frames": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "test_subjects": len(np.unique(data.test.subjects)),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What the arms of an experiment are measured on.

    Attributes:
        test: the frames.
        subjects: [N], int64, whose they are.
        classes: names of the K classes.
    """

    test: Examples
    subjects: npt.NDArray[np.int64]
    classes: Sequence[str]


def measure(
    facts: Facts,
    arm: str,
    title: str,
    model: keras.Model,
    exam: Exam,
    *,
    settings: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    stopwatch: Stopwatch,
    note: str = "",
) -> Result:
    """Measure a trained classifier on the test frames.

    Args:
        facts: of the experiment.
        arm: names the result.
        title: what a table calls it.
        model: gives probabilities [N, K], or [N, 1] of the second of two classes.
        exam: what it is measured on.
        settings: what else decides the result.
        log: one entry an epoch.
        stopwatch: that timed the training.
        note: what a reader must know.
    """
    probabilities = predict(model, exam.test)
    predicted = (
        (probabilities[:, 0] > 0.5).astype(np.int64)
        if probabilities.shape[1] == 1
        else probabilities.argmax(axis=1)
    )
    labels = np.asarray(exam.test.targets, np.int64)
    return Result(
        experiment=facts.experiment,
        arm=arm,
        title=title,
        key=facts.key(arm, settings),
        seed=facts.seed,
        size=facts.size,
        data=dict(facts.data),
        code_version=facts.code_version,
        classes=tuple(exam.classes),
        metrics=measure_classes(labels, predicted, exam.subjects, exam.classes),
        confusion=confusion_matrix(labels, predicted, len(exam.classes)).astype(int).tolist(),
        parameters=model.count_params(),
        epochs=len(log),
        seconds_per_epoch=stopwatch.seconds_per_epoch,
        images_per_second=_images_per_second(model, exam.test),
        log=[dict(entry) for entry in log],
        note=note,
    )


def _images_per_second(model: keras.Model, test: Examples) -> float:
    count = min(_FRAMES_TIMED, len(test))
    inputs, _ = test.batch(slice(0, count))
    model.predict_on_batch(inputs)  # traces
    started = time.perf_counter()
    model.predict_on_batch(inputs)
    return count / (time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of an experiment's results, one file an arm."""

    folder: Path

    def find(self, arm: str, key: str) -> Result | None:
        """Give the kept result of an arm, None if there is none or other settings made it."""
        path = self.folder / f"{arm}.json"
        if not path.exists():
            return None
        result = read_result(path)
        return result if result.key == key else None

    def keep(self, result: Result) -> None:
        """Write a result, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{result.arm}.json"
        temporary.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.folder / f"{result.arm}.json")

    def obtain(self, facts: Facts, arm: str, settings: Mapping[str, Any], make: Callable[[], Result]) -> None:
        """Make and keep a result, unless it is there."""
        if self.find(arm, facts.key(arm, settings)) is None:
            self.keep(make())


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        TrainingError: if the file is not one.
    """
    try:
        return Result.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"{path} must be a result of `echobeam experiment`; it cannot be read as one. Remove it and "
            "run the experiment again"
        ) from error
