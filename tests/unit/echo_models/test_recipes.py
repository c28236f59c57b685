from pathlib import Path

import pytest

from echo_models.datasets import Split
from echo_models.errors import BundleError
from echo_models.manifest import CARD, MANIFEST, MODEL, verify
from echo_models.recipes import _finished
from tests.toy import toy_frames, write_toy_bundle


def split(validation_subjects: int) -> Split:
    return Split(toy_frames(4), toy_frames(validation_subjects, seed=1), toy_frames(4, seed=2))


def test_what_was_trained_is_calibrated_on_its_validation_frames_where_they_suffice(tmp_path: Path) -> None:
    draft = write_toy_bundle(tmp_path / "draft" / "toy", "lvh")
    data = split(10)
    made = _finished(draft, data, tmp_path / "out")
    manifest = verify(made)
    assert made == tmp_path / "out" / "toy"
    assert manifest.calibration is not None
    assert manifest.calibration.fingerprint == data.validation.fingerprint()
    assert "## Calibration" in (made / CARD).read_text()


@pytest.mark.parametrize(("task", "validation_subjects"), [("lvh", 9), ("fov", 10)])
def test_else_it_is_left_as_it_is(tmp_path: Path, task: str, validation_subjects: int) -> None:
    draft = write_toy_bundle(tmp_path / "draft" / "toy", task)
    made = _finished(draft, split(validation_subjects), tmp_path / "out")
    assert verify(made).calibration is None
    for name in (CARD, MANIFEST, MODEL):
        assert (made / name).read_bytes() == (draft / name).read_bytes()
    with pytest.raises(BundleError, match="empty folder"):
        _finished(draft, split(validation_subjects), tmp_path / "out")
