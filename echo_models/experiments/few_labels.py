"""What the experiments with few labels share: one network and budget for every method, two exams.

Labels come from one site and unlabeled frames from the archive of another; a method is measured on other
subjects of both.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import keras
import numpy as np
import numpy.typing as npt

from echo_models.challengers import CHALLENGERS
from echo_models.datasets import Examples, LabeledFrames, Plan
from echo_models.evaluation import measure_classes
from echo_models.experiments.code import code_of
from echo_models.experiments.methods import AUGMENTATION, Frames, Labels, learn
from echo_models.experiments.runs import Exam, Facts, Result, Shelf, Stopwatch, measure
from echo_models.experiments.setups import Setup
from echo_models.fitting import OnStep, predict
from echo_models.gan import GanSchedule
from echo_models.networks import PRESETS, Preset
from echo_models.preprocessing import apply_mask, shrink

THERE: Final = "there_"
"""Before the names of metrics on the archive's site."""

# At 28 x 28 with three narrow blocks a GAN step costs a tenth of a CPU second, at 110 x 110 two: minutes hold
# the hundreds of steps that a generator needs. Labels alone stayed at chance for
# hypertrophy in trials with dropout, and rose above it without, with averaged weights and more steps.
QUICK: Final = dataclasses.replace(
    PRESETS["small"],
    gan_size=28,
    discriminator_filters=(8, 16, 32, 32),
    input_dropout=0.0,
    block_dropout=0.0,
)
TOY: Final = dataclasses.replace(QUICK, discriminator_filters=(4, 4, 4, 8), generator_filters=2)


@dataclass(frozen=True, slots=True)
class People:
    """How many phantom subjects are scanned for what; nobody is in two sets.

    Attributes:
        labeled: whose frames labels are drawn from.
        archive: whose frames have no labels.
        test: of each exam.
    """

    labeled: int
    archive: int
    test: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What every method is given at one size of an experiment.

    Attributes:
        network: widths, and the size of the frames.
        schedule: steps, with the same Adam.
        people: how many phantom subjects are scanned.
        members: networks of an arm, whose probabilities are averaged.
        ema_decay: share of the moving average of weights that a step keeps, by which every method is
            measured; None for the last weights.
    """

    network: Preset
    schedule: GanSchedule
    people: People
    members: int = 1
    ema_decay: float | None = 0.99


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be told, and in which frames.

    Attributes:
        classes: names of the K classes.
        plan: frames of the labeled site; others differ in seed, subjects and site.
        mask: what is put on the frames.
    """

    classes: tuple[str, ...]
    plan: Plan
    mask: Literal["fov", "lv"]

    def usable(self, labeled: LabeledFrames) -> LabeledFrames:
        """Leave out of training, though never of an exam, what shows no ventricle where that is asked of."""
        if self.mask == "fov":
            return labeled
        return labeled.take(np.asarray(labeled.lv_masks.any(axis=(1, 2))))

    def labels(self, labeled: LabeledFrames) -> Labels:
        """Give the classes of frames: [N], int64."""
        return labeled.hypertrophy.astype(np.int64) if len(self.classes) == 2 else labeled.views

    def frames(self, labeled: LabeledFrames, size_px: int) -> Frames:
        """Mask frames and bring them to the network's size: [N, size, size], uint8."""
        masks = labeled.lv_masks if self.mask == "lv" else labeled.fov_masks
        return shrink(apply_mask(labeled.frames, masks), size_px, size_px)

    def exam(self, labeled: LabeledFrames, size_px: int) -> Exam:
        """Make an exam of frames."""
        examples = Examples(self.frames(labeled, size_px), None, self.labels(labeled))
        return Exam(examples, labeled.subjects, self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every arm of one experiment works with.

    Attributes:
        facts: of the experiment.
        shelf: of its results.
        question: what is told.
        budget: of every method.
        labeled: frames that labels are drawn from.
        labels: of these frames.
        archive: unlabeled frames.
        archive_labels: of these, which no method is given that is not told so.
        home: exam of the labeled frames' site.
        there: exam of the archive's site.
        on_step: called after each training step.
    """

    facts: Facts
    shelf: Shelf
    question: Question
    budget: Budget
    labeled: Frames
    labels: Labels
    archive: Frames
    archive_labels: Labels
    home: Exam
    there: Exam
    on_step: OnStep

    def run(
        self,
        method: str,
        arm: str,
        title: str,
        which: npt.NDArray[np.intp] | None = None,
        *,
        by_epoch: bool = False,
    ) -> None:
        """Train and measure one arm, unless its result is there.

        Args:
            method: one of `METHODS`.
            arm: names the result.
            title: what a table calls it.
            which: indices of the labeled frames whose labels it is given; None for all.
            by_epoch: classify the home exam after each epoch, for the log.

        Raises:
            TrainingError: if training diverges.
        """
        given = np.arange(len(self.labels)) if which is None else which
        settings: dict[str, Any] = {
            "method": method,
            "budget": self.budget,
            "augmentation": AUGMENTATION,
            "challenger": CHALLENGERS.get(method),
            "given": given.tolist(),
            "by_epoch": by_epoch,
        }
        self.shelf.obtain(
            self.facts, arm, settings, lambda: self._result(method, arm, title, given, settings)
        )

    def _result(
        self, method: str, arm: str, title: str, given: npt.NDArray[np.intp], settings: Mapping[str, Any]
    ) -> Result:
        stopwatch = Stopwatch(self.on_step)
        test = self.home.test
        classifier, log = learn(
            method,
            self.labeled[given],
            self.labels[given],
            self.archive,
            classes=len(self.question.classes),
            preset=self.budget.network,
            schedule=self.budget.schedule,
            ensemble=self.budget.members,
            ema_decay=self.budget.ema_decay,
            validation=(test.frames, np.asarray(test.targets, np.int64)) if settings["by_epoch"] else None,
            seed=self.facts.seed,
            folder=self.facts.checkpoints(self.shelf.folder, arm, settings),
            on_step=stopwatch,
        )
        result = measure(
            self.facts, arm, title, classifier, self.home, settings=settings, log=log, stopwatch=stopwatch
        )
        return result.model_copy(update={"metrics": result.metrics | measure_there(classifier, self.there)})


def set_up(
    name: str,
    question: Question,
    setup: Setup,
    *,
    module: str,
    budget: Budget,
    site: str,
) -> Bench:
    """Render what an experiment needs.

    Args:
        name: of the experiment.
        question: what is told.
        setup: how.
        module: of the experiment, whose code decides its results.
        budget: of every method.
        site: that the archive comes from.
    """
    people, home = budget.people, question.plan.site
    plans = {
        "labeled": (0, people.labeled, home),
        "archive": (1, people.archive, site),
        "home": (2, people.test, home),
        "there": (2, people.test, site),  # the same people at another site: the shift alone
    }
    sets = {
        what: setup.render(
            dataclasses.replace(question.plan, seed=3 * setup.seed + part, subjects=subjects, site=where)
        )
        for what, (part, subjects, where) in plans.items()
    }
    labeled, size_px = question.usable(sets["labeled"]), budget.network.gan_size
    data = {
        "source": "phantom (synthetic)",
        "plan": dataclasses.asdict(question.plan) | dataclasses.asdict(people) | {"archive_site": site},
        "fingerprint": "-".join(frames.fingerprint()[:8] for frames in sets.values()),
        "frames": {what: len(frames) for what, frames in sets.items()},
        "test_subjects": people.test,
    }
    return Bench(
        facts=Facts(name, setup.size, setup.seed, code_of(module), data),
        shelf=Shelf(setup.folder),
        question=question,
        budget=budget,
        labeled=question.frames(labeled, size_px),
        labels=question.labels(labeled),
        archive=question.frames(sets["archive"], size_px),
        archive_labels=question.labels(sets["archive"]),
        home=question.exam(sets["home"], size_px),
        there=question.exam(sets["there"], size_px),
        on_step=setup.on_step,
    )


def measure_there(classifier: keras.Model, exam: Exam) -> dict[str, Any]:
    """Measure a classifier at the archive's site: metrics by `THERE` and their name."""
    predicted = predict(classifier, exam.test).argmax(axis=1)
    truth = np.asarray(exam.test.targets, np.int64)
    metrics = measure_classes(truth, predicted, exam.subjects, exam.classes)
    return {THERE + name: interval for name, interval in metrics.items()}
