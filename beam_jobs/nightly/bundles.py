"""The bundle of a night: how it is written, what is checked once it is, and its card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_listener.log import describe_error
from echo_models.bundle import Bundle, load_bundle
from echo_models.errors import BundleError
from echo_models.gate import by_class
from echo_models.manifest import (
    CARD,
    Interval,
    Manifest,
    Mask,
    read_manifest,
    sha256_of,
    write_manifest,
)
from echo_models.preprocessing import shrink, to_input

MASK: Final[Mask] = "fov"
"""The pool's frames are masked by their field of view, so the labeled ones are too."""

_ROUNDING: Final = 0.02
"""Weights are stored as float16: probabilities move in their third decimal."""

_TITLES: Final = {
    "lvh": "Reads an apical four-chamber frame, 0 outside the field of view; gives the probability of\n"
    "left ventricular hypertrophy.",
    "view": "Reads a frame, 0 outside the field of view; gives the probability of each of fifteen views.",
}


def check_bundle(
    folder: Path, probe: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> tuple[Bundle | None, str | None]:
    """Load a bundle as it was written and let it predict.

    Args:
        folder: the bundle's.
        probe: [N, 120, 160], uint8, masked frames.
        expected: [N, K], float32, what the network said of them before it was written.

    Returns:
        the bundle, and None; or None, and what is wrong with it.
    """
    try:
        bundle = load_bundle(folder)
    except (BundleError, OSError, ValueError) as error:
        return None, f"the written bundle cannot be loaded: {describe_error(error)}"
    inputs = to_input(shrink(probe, bundle.manifest.rows, bundle.manifest.columns))
    stored = np.asarray(bundle.model.predict_on_batch(inputs))
    if not np.allclose(stored, expected, rtol=0, atol=_ROUNDING, equal_nan=True):
        apart = float(np.nanmax(np.abs(stored - expected)))
        return None, f"the written bundle differs from what was trained, by {apart:.3f} in a probability"
    predicted = by_class(bundle.predict(probe))
    alone = by_class(bundle.predict(probe[:1]))
    if np.isfinite(predicted).all() and (
        not np.allclose(predicted.sum(axis=1), 1, atol=1e-3) or predicted.min() < 0
    ):
        return None, "what the written bundle gives are no probabilities"
    if not np.allclose(alone, predicted[:1], atol=1e-3, equal_nan=True):
        return None, "the written bundle says another thing of a frame that comes alone"
    return bundle, None


def finish_bundle(draft: Path, folder: Path, measured: Mapping[str, Interval]) -> Path:
    """Copy a bundle and put down what was measured, in its manifest and its card.

    Args:
        draft: the bundle as training left it.
        folder: where it is to be; what is there is replaced.
        measured: by name; what the draft says of its calibration stays.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(draft, folder)
    manifest = read_manifest(draft)
    manifest = manifest.model_copy(update={"metrics": {**measured, **manifest.metrics}})
    (folder / CARD).write_text(write_card(manifest), encoding="utf-8")
    files = manifest.files | {CARD: sha256_of(folder / CARD)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))
    return folder


def write_card(manifest: Manifest) -> str:
    """Say in words what a night's model is, and what was measured of it."""
    training, calibration = manifest.training, manifest.calibration
    labeled, pool = training["labeled"], training["pool"]
    rows = "".join(f"| {name} | {interval} |\n" for name, interval in manifest.metrics.items())
    calibrated = (
        ""
        if calibration is None
        else f"""
Its probabilities are calibrated on {calibration.frames} frames of {calibration.subjects} other phantom
subjects: logits are divided by {calibration.temperature:.2f}.
"""
    )
    return f"""# {manifest.task} {manifest.version}

The discriminator of a semi-supervised GAN (Madani et al., npj Digital Medicine 1:59, 2018), made by the
nightly job. {_TITLES[manifest.task]}

**Research use only; not a medical device, and for no clinical decision.** Its labels are synthetic: nothing
is known of its accuracy on patients.

Learned from {labeled["frames"]} labeled frames of {labeled["subjects"]} phantom subjects and
{training["unlabeled_frames"]} of the {pool["frames"]} unlabeled frames of the site's own pool, in
{training["epochs"]} epochs from seed {training["seed"]}.
{calibrated}
On the fixed set of labeled phantom frames, masked with the phantom's true masks, with 95 % intervals
over subjects:

| measure | value |
|---|---|
{rows}"""
