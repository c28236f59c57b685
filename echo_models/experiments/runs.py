"""One arm of a comparison: trained, timed and measured."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from echo_models.datasets import Examples, LabeledFrames, Split
from echo_models.evaluation import confusion_matrix, measure_classes
from echo_models.experiments.code import commit, machine
from echo_models.experiments.results import Facts, Result, Shelf
from echo_models.fitting import OnStep, Step, predict

__all__ = ["Exam", "Facts", "Result", "Shelf", "Stopwatch", "describe_data", "measure"]

_FRAMES_TIMED: Final = 256


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
        commit=commit(),
        machine=machine(),
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
