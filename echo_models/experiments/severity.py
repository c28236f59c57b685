"""What trained networks come to as scans get harder than those they learned from.

Each curve changes one thing, an artefact or a setting of the machine, and leaves the rest as in training.
All levels of all curves scan the same subjects, whom training has not seen.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from echo_models.bundle import Bundle
from echo_models.evaluation import (
    accuracy_of,
    balanced_accuracy_of,
    bootstrap,
    confusion_matrix,
    constant_mask,
    dice_by_frame,
)
from echo_models.experiments.code import code_of, commit, machine
from echo_models.experiments.results import Curve, Facts, Point, Shelf
from echo_models.experiments.setups import Setup
from echo_models.experiments.sizes import SIZES
from echo_models.manifest import Interval
from echo_models.phantom import Site, generate_frames
from echo_models.phantom.artefacts import ARTEFACTS
from echo_models.preprocessing import apply_mask
from echo_models.views import A4C, VIEWS

NAME: Final = "severity"
TASKS: Final = ("fov", "view", "lv", "lvh")

_UNSEEN: Final = 900_000
"""Added to the seed, so that these subjects are none of a training: sets of different seeds share nobody."""

_STRENGTHS: Final = (0, 2, 4, 8)
_AMPLITUDES: Final = (0, 4, 16, 64)
"""12 dB apart: haze and noise lie far below the tissue, and gain is set by the brightest parts."""

Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


class Scan(NamedTuple):
    """How one level is scanned."""

    severity: float
    site: Site


@dataclass(frozen=True, slots=True)
class Factor:
    """One thing that gets harder.

    Attributes:
        name: of the curve.
        title: in tables and pictures.
        unit: of the levels.
        trained: least and most that training had.
        levels: rising.
        scan: from a level to a scan.
    """

    name: str
    title: str
    unit: str
    trained: tuple[float, float]
    levels: tuple[float, ...]
    scan: Callable[[float], Scan]


def _artefact(name: str) -> Factor:
    def scan(level: float) -> Scan:
        return Scan(1.0, Site(NAME, "", artefacts={name: level}))

    levels = _AMPLITUDES if name in ("haze", "noise") else _STRENGTHS
    return Factor(name, name.replace("_", " "), "times as in training", (1, 1), levels, scan)


def _setting(
    name: str,
    title: str,
    unit: str,
    *,
    trained: tuple[float, float],
    levels: tuple[float, ...],
    fields: tuple[str, ...],
    scale: float = 1.0,
) -> Factor:
    def scan(level: float) -> Scan:
        return Scan(1.0, Site(NAME, "", machine=dict.fromkeys(fields, (level * scale, level * scale))))

    return Factor(name, title, unit, trained, levels, scan)


FACTORS: Final = (
    Factor("usual", "as in training", "", (1, 1), (1,), lambda _: Scan(1.0, Site(NAME, ""))),
    Factor(
        "all", "all at once", "times as in training", (1, 1), (0, 0.5, 1.5, 2),
        lambda level: Scan(level, Site(NAME, "")),
    ),
    *map(_artefact, ARTEFACTS),
    _setting(
        "gain", "gain", "of 255 in the brightest parts",
        trained=(65, 245), levels=(25, 45, 65, 155, 245), fields=("bright_grey",),
    ),
    _setting(
        "dynamic_range", "dynamic range", "dB",
        trained=(34, 72), levels=(20, 28, 34, 72, 90), fields=("dynamic_range_db",),
    ),
    _setting(
        "gamma", "exponent of the grey curve", "",
        trained=(0.75, 2.3), levels=(0.4, 0.75, 2.3, 3.5), fields=("gamma",),
    ),
    _setting(
        "blur", "blur across lines", "samples",
        trained=(0.7, 3), levels=(1, 3, 5, 8), fields=("near_lateral_px", "far_lateral_px"),
    ),
    _setting(
        "depth", "depth", "mm",
        trained=(90, 240), levels=(90, 140, 240, 320), fields=("depth_mm",),
    ),
    _setting(
        "opening", "half of the opening", "degrees",
        trained=(30, 55), levels=(20, 30, 55, 65), fields=("half_angle",), scale=math.pi / 180,
    ),
    Factor(
        "size", "size on the screen", "times as in training", (1, 1), (0.35, 0.5, 0.75),
        lambda level: Scan(1.0, Site(NAME, "", image_ratio=level)),
    ),
)  # fmt: skip


def measure_severity(setup: Setup, *, bundles: Mapping[str, Bundle]) -> None:
    """Measure bundles along every curve, each network on what the one before it gives.

    Args:
        setup: how; nothing is trained.
        bundles: by task, one for each of `TASKS`.
    """
    amounts, seed = SIZES[setup.size], setup.seed
    plan = {"subjects": amounts.severity_subjects, "hearts": amounts.severity_hearts}
    data = {"source": "phantom (synthetic)", "plan": plan, "fingerprint": f"seed {_UNSEEN + seed}"}
    facts = Facts(NAME, setup.size, seed, code_of(__name__), data)
    shelf = Shelf(setup.folder)
    settings = {"bundles": [bundles[task].name for task in TASKS]}
    done, total = 0, sum(len(factor.levels) for factor in FACTORS)
    with _at_once(setup.processes) as each:
        for factor in FACTORS:
            key = facts.key(factor.name, settings | {"levels": factor.levels})
            if not shelf.has(factor.name, key):
                orders = [_Order(seed, **plan, scan=factor.scan(level)) for level in factor.levels]
                exams = each(_render, orders)
                points = tuple(
                    Point(level=level, metrics=_examine(exam, bundles))
                    for level, exam in zip(factor.levels, exams, strict=True)
                )
                shelf.keep(_curve(facts, factor, key, points, settings))
            done += len(factor.levels)
            setup.on_render(done, total)


@contextmanager
def _at_once(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give what maps a function over orders, in this process or in several."""
    if processes == 1:
        yield map
        return
    # Spawned, not forked: a fork of a process with TensorFlow's threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool.imap


def _curve(
    facts: Facts, factor: Factor, key: str, points: tuple[Point, ...], settings: dict[str, Any]
) -> Curve:
    return Curve(
        experiment=NAME,
        arm=factor.name,
        title=factor.title,
        key=key,
        seed=facts.seed,
        size=facts.size,
        data=dict(facts.data) | settings,
        code_version=facts.code_version,
        commit=commit(),
        machine=machine(),
        unit=factor.unit,
        trained=factor.trained,
        points=points,
    )


# --- one level --------------------------------------------------------------------------------------


class _Order(NamedTuple):
    """What to scan for one level."""

    seed: int
    subjects: int
    hearts: int
    scan: Scan


@dataclass(frozen=True, slots=True)
class Part:
    """Frames with their truth.

    Attributes:
        frames: [N, 120, 160], uint8.
        fov_masks: [N, 120, 160], bool.
        lv_masks: [N, 120, 160], bool.
        views: [N], int64, index into `VIEWS`.
        hypertrophy: [N], int64, 1 for the paper's LVH.
        subjects: [N], int64.
    """

    frames: Frames
    fov_masks: Masks
    lv_masks: Masks
    views: npt.NDArray[np.int64]
    hypertrophy: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]


class Exam(NamedTuple):
    """What one level is measured on: subjects in all views, and other subjects' four-chamber views."""

    everything: Part
    hearts: Part


def _render(order: _Order) -> Exam:
    first = 2 * (_UNSEEN + order.seed)
    return Exam(
        _part(first, order.subjects, VIEWS, order.scan), _part(first + 1, order.hearts, (A4C,), order.scan)
    )


def _part(seed: int, subjects: int, views: Iterable[str], scan: Scan) -> Part:
    clips = list(
        generate_frames(
            seed=seed,
            subjects=subjects,
            views=tuple(views),
            frames_per_clip=1,
            lvh_ratio=0.5,
            any_phase=False,
            severity=scan.severity,
            site=scan.site,
        )
    )
    return Part(
        frames=np.concatenate([clip.frames for clip in clips]),
        fov_masks=np.stack([clip.fov_mask for clip in clips]),
        lv_masks=np.concatenate([clip.lv_masks for clip in clips]),
        views=np.array([VIEWS.index(clip.view) for clip in clips], np.int64),
        hypertrophy=np.array([clip.hypertrophy.is_lvh for clip in clips], np.int64),
        subjects=np.array([clip.subject_id for clip in clips], np.int64),
    )


def _examine(exam: Exam, bundles: Mapping[str, Bundle]) -> dict[str, Interval]:
    everything, hearts = exam
    fan = bundles["fov"].predict(everything.frames) > 0.5
    named = bundles["view"].predict(apply_mask(everything.frames, fan)).argmax(axis=1)
    masked = apply_mask(hearts.frames, bundles["fov"].predict(hearts.frames) > 0.5)
    outlines = bundles["lv"].predict(masked) > 0.5
    seen = apply_mask(hearts.frames, outlines) if bundles["lvh"].manifest.mask == "lv" else masked
    graded = (bundles["lvh"].predict(seen) > 0.5).astype(np.int64)
    return {
        "fov_dice": _dice(everything.fov_masks, fan, everything.subjects),
        "view_accuracy": _share(accuracy_of, everything.views, named, len(VIEWS), everything.subjects),
        "lv_dice": _dice(hearts.lv_masks, outlines, hearts.subjects),
        "lvh_balanced_accuracy": _share(balanced_accuracy_of, hearts.hypertrophy, graded, 2, hearts.subjects),
    }


def _dice(truth: Masks, predicted: Masks, subjects: npt.NDArray[np.int64]) -> Interval:
    """Give the mean Dice, beside that of the best mask that looks at no frame."""
    dice = dice_by_frame(truth, predicted)
    control = float(dice_by_frame(truth, constant_mask(truth)).mean())
    return bootstrap(lambda weights: float(np.average(dice, weights=weights)), subjects, control=control)


def _share(
    measure: Callable[[npt.NDArray[np.float64]], float],
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    classes: int,
    subjects: npt.NDArray[np.int64],
) -> Interval:
    return bootstrap(lambda weights: measure(confusion_matrix(labels, predicted, classes, weights)), subjects)
