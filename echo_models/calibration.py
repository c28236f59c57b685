"""Calibrate a trained bundle: probabilities that mean what they say, and an honest "unknown".

Nothing is trained: the network's weights stay byte for byte, so a site calibrates a bundle on its own labels
in minutes. Frames must be of subjects the network did not learn from; on those it did it is surer than it is
right.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from echo_models.bundle import Bundle, load_bundle
from echo_models.cards import add_calibration
from echo_models.datasets import Known, LabeledFrames
from echo_models.errors import BundleError, DatasetError
from echo_models.evaluation import measure_certainty
from echo_models.manifest import (
    CARD,
    MODEL,
    REFERENCE,
    Calibration,
    Interval,
    Manifest,
    OpenSet,
    sha256_of,
    write_manifest,
)
from echo_models.open_set import Reference, cross_scores, has_features
from echo_models.preprocessing import apply_mask
from echo_models.temperature import fit_temperature, in_classes, temper
from echo_models.views import A4C, VIEWS

CALIBRATED_TASKS: Final = ("view", "lvh")
"""A mask is cut at one half, which no temperature moves."""

COVERAGE: Final = 0.95
LEAST_SUBJECTS: Final = 5
"""Subjects that must show each class; as many folds say what the score of an unseen subject is."""


class Exam(NamedTuple):
    """Labeled frames as a bundle reads them.

    Attributes:
        frames: [N, 120, 160], uint8, masked as the bundle says.
        labels: [N], int64, index into its classes.
        subjects: [N], int64.
    """

    frames: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What was fitted.

    Attributes:
        contract: goes into the manifest.
        reference: goes beside the model; None without an open-set score.
    """

    contract: Calibration
    reference: Reference | None


def exam_of(manifest: Manifest, labeled: LabeledFrames) -> Exam:
    """Take the frames whose labels a task is judged by, masked as its bundle wants them.

    Raises:
        DatasetError: if the task is not calibrated.
    """
    if manifest.task not in CALIBRATED_TASKS:
        raise DatasetError(
            f"a bundle of {' or '.join(CALIBRATED_TASKS)} can be calibrated; received {manifest.task}, whose "
            "masks are cut at one half, which no calibration moves"
        )
    needed = Known.VIEW if manifest.task == "view" else Known.VIEW | Known.HYPERTROPHY
    if manifest.mask == "lv":
        needed |= Known.LV
    chosen = labeled.knowing(needed)
    if manifest.task == "lvh":
        chosen = chosen.take(chosen.views == VIEWS.index(A4C))
    masks = {"none": None, "fov": chosen.fov_masks, "lv": chosen.lv_masks}[manifest.mask]
    frames = chosen.frames if masks is None else apply_mask(chosen.frames, masks)
    labels = chosen.views if manifest.task == "view" else chosen.hypertrophy.astype(np.int64)
    return Exam(frames, labels, chosen.subjects)


def shortage(manifest: Manifest, exam: Exam) -> str | None:
    """Say what frames lack for a calibration; None if nothing."""
    shown = [len(np.unique(exam.subjects[exam.labels == number])) for number in range(len(manifest.classes))]
    few = [
        f"{name} {count}"
        for name, count in zip(manifest.classes, shown, strict=True)
        if count < LEAST_SUBJECTS
    ]
    if not few:
        return None
    return (
        f"calibration needs {LEAST_SUBJECTS} or more subjects for each class of {manifest.name}; "
        f"received too few of {', '.join(few)}"
    )


def fit_calibration(
    bundle: Bundle, labeled: LabeledFrames, *, source: str, coverage: float = COVERAGE
) -> Fitted:
    """Fit temperature and, for a view classifier that ends in a dense layer, when a frame is unknown.

    Args:
        bundle: of view or lvh, calibrated before or not.
        labeled: frames of subjects it did not learn from.
        source: what they are, in a word or two.
        coverage: share of such frames that are to be called known.

    Raises:
        DatasetError: if frames of a class are too few, or the task is not calibrated.
    """
    exam = exam_of(bundle.manifest, labeled)
    lacking = shortage(bundle.manifest, exam)
    if lacking is not None:
        raise DatasetError(f"{lacking}. Bring more labels, or mix in the phantom")
    open_set = reference = None
    if bundle.manifest.task == "lvh" or not has_features(bundle.model):
        probabilities = bundle.uncalibrated(exam.frames)
    else:
        probabilities, features = bundle.examine(exam.frames)
        classes = len(bundle.manifest.classes)
        scores = cross_scores(features, exam.labels, exam.subjects, classes, LEAST_SUBJECTS)
        open_set = OpenSet(threshold=float(np.quantile(scores, 1 - coverage)), coverage=coverage)
        reference = Reference.fit(features, exam.labels, classes)
    contract = Calibration(
        temperature=fit_temperature(probabilities, exam.labels),
        open_set=open_set,
        source=source,
        fingerprint=labeled.fingerprint(),
        frames=len(exam.labels),
        subjects=len(np.unique(exam.subjects)),
    )
    return Fitted(contract, reference)


def judge(bundle: Bundle, fitted: Fitted, labeled: LabeledFrames) -> dict[str, Interval]:
    """Measure a calibration on frames that it was not fitted on."""
    exam = exam_of(bundle.manifest, labeled)
    known = None
    if fitted.reference is None or fitted.contract.open_set is None:
        probabilities = bundle.uncalibrated(exam.frames)
    else:
        probabilities, features = bundle.examine(exam.frames)
        known = fitted.reference.score(features) >= fitted.contract.open_set.threshold
    before = in_classes(probabilities)
    after = in_classes(temper(probabilities, fitted.contract.temperature))
    return measure_certainty(before, after, known, exam.labels, exam.subjects)


def calibrate_bundle(
    folder: Path,
    fit: LabeledFrames,
    test: LabeledFrames,
    out: Path,
    *,
    source: str,
    coverage: float = COVERAGE,
    version: str | None = None,
) -> Path:
    """Write a bundle with the same network, calibrated.

    Args:
        folder: a bundle of view or lvh, calibrated before or not; it stays as it is.
        fit: labeled frames of subjects that the network did not learn from.
        test: others, to measure on; of subjects that are in neither.
        out: the new bundle becomes `<out>/<version>/`.
        source: what the frames are, in a word or two.
        coverage: share of frames of known views that are to be called known.
        version: of the new bundle; None appends a digest of the calibration to the old one's.

    Returns:
        the new bundle's folder.

    Raises:
        BundleError: if the bundle is not whole, or the new folder is not empty.
        DatasetError: if the frames do not suffice, or the task is not calibrated.
    """
    bundle = load_bundle(folder)
    fitted = fit_calibration(bundle, fit, source=source, coverage=coverage)
    if not len(exam_of(bundle.manifest, test).labels):
        raise DatasetError("a calibration is measured on labeled frames of other subjects; received none")
    metrics = judge(bundle, fitted, test)
    version = version or _version(bundle.manifest.version, fitted.contract)
    target = out / version
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise BundleError(
            f"a bundle is written into an empty folder; {target} is not. Remove it or say another"
        )
    (target / MODEL).write_bytes((folder / MODEL).read_bytes())
    if fitted.reference is not None:
        (target / REFERENCE).write_bytes(fitted.reference.to_bytes())
    card = (folder / CARD).read_text(encoding="utf-8")
    card = card.replace(
        f"# {bundle.manifest.task} {bundle.manifest.version}\n", f"# {bundle.manifest.task} {version}\n"
    )
    (target / CARD).write_text(add_calibration(card, fitted.contract, metrics), encoding="utf-8")
    manifest = bundle.manifest.model_copy(
        update={
            "version": version,
            "calibration": fitted.contract,
            "metrics": {**bundle.manifest.metrics, **metrics},
            "files": {path.name: sha256_of(path) for path in sorted(target.iterdir())},
        }
    )
    write_manifest(target, manifest)  # last: a folder without it is no bundle
    return target


def _version(version: str, contract: Calibration) -> str:
    digest = hashlib.sha256(json.dumps(contract.model_dump(), sort_keys=True).encode()).hexdigest()[:8]
    return f"{version.split('.c', maxsplit=1)[0]}.c{digest}"
