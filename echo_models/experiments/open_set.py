"""How well a view classifier knows what it does not know.

Scans of fresh subjects, and frames that are no transthoracic view, go through the field-of-view network and
the view classifier as the worker's do. Two questions: which score tells them apart best, each with a
threshold at the same coverage of known frames; and what the bundle's own calibration turns away and keeps.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from echo_models.bundle import Bundle
from echo_models.datasets import LabeledFrames, Plan
from echo_models.errors import BundleError
from echo_models.evaluation import bootstrap, measure_certainty
from echo_models.experiments.code import code_of, commit, machine
from echo_models.experiments.results import Facts, Record, Shelf
from echo_models.experiments.setups import Setup
from echo_models.foreign import FOREIGN_KINDS, render_foreign
from echo_models.manifest import Interval
from echo_models.open_set import Reference, last_layers
from echo_models.preprocessing import apply_mask
from echo_models.temperature import temper

NAME: Final = "open-set"
ARM: Final = "open_set"

_UNSEEN: Final = 950_000
"""Added to the seed: subjects that no training, calibration or other experiment has seen."""
_HARDER: Final = 1.5

Floats = npt.NDArray[np.float64]


class Amount(NamedTuple):
    """Subjects that scores are fitted on, subjects to measure on, and frames of each foreign kind."""

    fitted: int
    measured: int
    foreign: int


AMOUNTS: Final = {
    "toy": Amount(5, 4, 3),
    "small": Amount(60, 60, 100),
    "medium": Amount(200, 200, 500),
    "paper": Amount(500, 500, 2000),
}


class Score(BaseModel):
    """What one score comes to with its threshold at the coverage it was fitted for.

    Attributes:
        name: of the score.
        coverage: of known frames of other subjects.
        accuracy: of the known frames that are kept; None if none is.
        rejected: share of foreign frames turned away, by kind.
        area: probability that a known frame has a higher score than a foreign one (area under the ROC curve).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    coverage: Interval
    accuracy: Interval | None
    rejected: dict[str, Interval]
    area: float


class Outcome(Record):
    """What a calibrated bundle comes to.

    Attributes:
        bundle: by name.
        target: coverage that its threshold was fitted for.
        known: measures of certainty on scans as in training.
        harder: the same on scans with harder settings.
        rejected: share of foreign frames turned away, by kind.
        named: what foreign frames that are kept are called most, by kind; "" if all are turned away.
        curve: coverage, accuracy of what is kept, and share of foreign frames turned away, by threshold.
        scores: the comparison of scores, on frames of its own.
    """

    bundle: str
    target: float
    known: dict[str, Interval]
    harder: dict[str, Interval]
    rejected: dict[str, Interval]
    named: dict[str, str]
    curve: tuple[tuple[float, float, float], ...]
    scores: tuple[Score, ...]


class Seen(NamedTuple):
    """Frames as the view classifier saw them.

    Attributes:
        probabilities: [N, K], not calibrated.
        features: [N, M, D].
        labels: [N], int64, true view; -1 of a foreign frame.
        subjects: [N], int64; each foreign frame is its own.
    """

    probabilities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Say which frames are named right."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)


def measure_open_set(setup: Setup, *, fov: Bundle, view: Bundle) -> Outcome:
    """Measure, and keep the outcome as `open_set.json` in the folder of the results.

    Args:
        setup: how; its size is one of `AMOUNTS`, and nothing is trained.
        fov: finds the field of view.
        view: a calibrated view classifier.

    Raises:
        BundleError: if the view classifier is not calibrated.
    """
    calibration, reference = view.manifest.calibration, view.reference
    if calibration is None or calibration.open_set is None or reference is None:
        raise BundleError(
            f"{view.name} has no open-set score; make one with `echobeam models calibrate view`, and "
            "promote it"
        )
    amount, seed = AMOUNTS[setup.size], setup.seed
    plan = Plan(seed=_UNSEEN + seed, subjects=amount.fitted + amount.measured, frames_per_clip=1)
    usual = setup.render(plan)
    harder = setup.render(
        dataclasses.replace(plan, seed=plan.seed + 1, subjects=amount.measured, severity=_HARDER)
    )
    look = partial(_look, fov, view)
    fitted = look(usual.take(usual.subjects < amount.fitted))
    known, hard = look(usual.take(usual.subjects >= amount.fitted)), look(harder)
    foreign = {
        kind: _look_at_foreign(fov, view, frames)
        for kind, frames in _render_all(amount.foreign, seed, setup.processes)
    }
    target = calibration.open_set.coverage
    data = {
        "source": "phantom and other procedural frames (synthetic)",
        "plan": {"subjects": plan.subjects, **amount._asdict()},
        "fingerprint": usual.fingerprint()[:16],
    }
    facts = Facts(NAME, setup.size, seed, code_of(__name__), data)
    threshold = calibration.open_set.threshold
    nearness = reference.score(known.features)
    turned_away = {kind: reference.score(it.features) < threshold for kind, it in foreign.items()}

    def certainty(seen: Seen) -> dict[str, Interval]:
        kept = reference.score(seen.features) >= threshold
        after = temper(seen.probabilities, calibration.temperature).astype(np.float64)
        before = seen.probabilities.astype(np.float64)
        return measure_certainty(before, after, kept, seen.labels, seen.subjects) | {
            "accuracy": bootstrap(_mean_of(seen.right), seen.subjects)
        }

    outcome = Outcome(
        experiment=NAME,
        arm=ARM,
        title="the bundle's own calibration",
        key=facts.key(ARM, {"bundles": [fov.name, view.name]}),
        seed=seed,
        size=setup.size,
        data=data,
        code_version=facts.code_version,
        commit=commit(),
        machine=machine(),
        bundle=view.name,
        target=target,
        known=certainty(known),
        harder=certainty(hard),
        rejected={kind: _share(away) for kind, away in turned_away.items()},
        named={kind: _most_named(view, foreign[kind], away) for kind, away in turned_away.items()},
        curve=_curve(
            nearness, known.right, {kind: reference.score(it.features) for kind, it in foreign.items()}
        ),
        scores=tuple(
            _try(name, score, fitted, known, foreign, target=target)
            for name, score in _scores(view, fitted).items()
        ),
    )
    Shelf(setup.folder).keep(outcome)
    return outcome


# --- frames -----------------------------------------------------------------------------------------

Frames = list[npt.NDArray[np.uint8]]


def _render_all(count: int, seed: int, processes: int) -> list[tuple[str, Frames]]:
    orders = [(kind, count, seed) for kind in FOREIGN_KINDS]
    # Spawned, not forked: a fork of a process with TensorFlow's threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return list(zip(FOREIGN_KINDS, pool.imap(_render_kind, orders), strict=True))


def _render_kind(order: tuple[str, int, int]) -> Frames:
    kind, count, seed = order
    return [render_foreign(kind, seed=1000 * (_UNSEEN + seed) + number).frame for number in range(count)]


def _look(fov: Bundle, view: Bundle, labeled: LabeledFrames) -> Seen:
    return Seen(*_examined(fov, view, labeled.frames), labeled.views, labeled.subjects)


def _look_at_foreign(fov: Bundle, view: Bundle, frames: Frames) -> Seen:
    return Seen(*_examined(fov, view, np.stack(frames)), np.full(len(frames), -1), np.arange(len(frames)))


def _examined(
    fov: Bundle, view: Bundle, frames: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Run the view classifier inside the field of view that the network finds, as the worker does."""
    masked = apply_mask(frames, fov.predict(frames) > 0.5) if view.manifest.mask == "fov" else frames
    return view.examine(masked)


# --- scores -----------------------------------------------------------------------------------------

_Score = Callable[[Seen], Floats]


def _scores(view: Bundle, fitted: Seen) -> dict[str, _Score]:
    """Give the scores that are compared; higher is more like a known frame."""
    reference = Reference.fit(fitted.features, fitted.labels, len(view.manifest.classes))
    dense = last_layers(view.model)

    def energy(seen: Seen) -> Floats:
        """Mean over members of the log-sum-exp of logits (Liu W et al., NeurIPS 2020)."""
        values = []
        for member, layer in enumerate(dense):
            kernel, bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
            values.append(np.logaddexp.reduce(seen.features[:, member] @ kernel + bias, axis=1))
        return np.asarray(np.mean(values, axis=0), np.float64)

    return {
        "highest probability": lambda seen: seen.probabilities.max(axis=1).astype(np.float64),
        "energy": energy,
        "Mahalanobis distance": lambda seen: -reference.distances(seen.features)[0],
        "relative Mahalanobis distance": lambda seen: reference.score(seen.features),
    }


def _try(
    name: str,
    score: _Score,
    fitted: Seen,
    known: Seen,
    foreign: dict[str, Seen],
    *,
    target: float,
) -> Score:
    threshold = float(np.quantile(score(fitted), 1 - target))
    near = score(known)
    kept = near >= threshold
    far = {kind: score(seen) for kind, seen in foreign.items()}
    return Score(
        name=name,
        coverage=bootstrap(_mean_of(kept), known.subjects),
        accuracy=bootstrap(_mean_of(known.right[kept]), known.subjects[kept]) if kept.any() else None,
        rejected={kind: _share(values < threshold) for kind, values in far.items()},
        area=_area(near, np.concatenate(list(far.values()))),
    )


def _mean_of(values: npt.NDArray[np.bool_]) -> Callable[[Floats], float]:
    return lambda weights: float(np.average(values, weights=weights))


def _share(values: npt.NDArray[np.bool_]) -> Interval:
    return bootstrap(_mean_of(values), np.arange(len(values)))


def _area(near: Floats, far: Floats) -> float:
    """Give the area under the ROC curve by ranks (Mann and Whitney)."""
    ranks = rankdata(np.concatenate([near, far]))[: len(near)]
    return float((ranks.sum() - len(near) * (len(near) + 1) / 2) / (len(near) * len(far)))


def _most_named(view: Bundle, seen: Seen, away: npt.NDArray[np.bool_]) -> str:
    if away.all():
        return ""
    named = seen.probabilities[~away].argmax(axis=1)
    return view.manifest.classes[int(np.bincount(named).argmax())]


def _curve(
    near: Floats, right: npt.NDArray[np.bool_], far: dict[str, Floats]
) -> tuple[tuple[float, float, float], ...]:
    """Sweep the threshold: kinds count alike, whatever their number of frames."""
    points = []
    for coverage in (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, *np.arange(0.9, 0.0, -0.1).round(1)):
        threshold = float(np.quantile(near, 1 - coverage))
        away = float(np.mean([(values < threshold).mean() for values in far.values()]))
        points.append((float(coverage), float(right[near >= threshold].mean()), away))
    return tuple(points)
