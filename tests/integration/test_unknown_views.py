"""Public real ultrasound and the calibrated view classifier that ships: an anecdote with a test.

Two hearts and a few files of other things cannot measure anything; they can show that something is absurd.
"""

from pathlib import Path

import numpy as np
import pytest

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import classify_views, segment_field_of_view
from beam_jobs.records import Placement
from echo_models.bundle import Bundle, load_bundle
from echo_models.registry import SHIPPED
from tests.real_files import real_file

PLACEMENT = Placement("0" * 32, "0" * 32, "0" * 32, 1, 1, "0" * 32, "0" * 32)
HEARTS = ("apical", "parasternal")
FOREIGN = ("grey_cine", "palette_cropped", "palette_16", "rgb", "rgb_planar")
"""A probe in air, other organs, and vessels."""


def shipped(task: str) -> Bundle:
    (folder,) = (SHIPPED / task).iterdir()
    return load_bundle(folder)


@pytest.fixture(scope="module")
def fov() -> Bundle:
    return shipped("fov")


@pytest.fixture(scope="module")
def view() -> Bundle:
    bundle = shipped("view")
    if bundle.reference is None:
        pytest.skip("the view classifier that ships has no open-set score")
    return bundle


def known_share(name: str, fov: Bundle, view: Bundle, tmp_path: Path) -> float:
    """Give the share of a file's first chunk that is called known, as the worker says it."""
    ds = read_instance(real_file(name, tmp_path))
    chunk = next(flatten_frames(deidentify_instance(ds, PLACEMENT, Pseudonymizer(bytes(32)))))
    segmented = segment_field_of_view([chunk], fov, frames_per_clip=3, batch_size=64)
    return float(classify_views(segmented, view, batch_size=64)[0].view_known.mean())


def test_real_hearts_are_mostly_known_and_other_things_are_less(
    fov: Bundle, view: Bundle, tmp_path: Path
) -> None:
    hearts = [known_share(name, fov, view, tmp_path) for name in HEARTS]
    others = [known_share(name, fov, view, tmp_path) for name in FOREIGN]
    assert min(hearts) > 0.5
    assert np.mean(others) < np.mean(hearts) - 0.25
