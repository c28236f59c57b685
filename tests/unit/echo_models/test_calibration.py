import json
from pathlib import Path

import numpy as np
import pytest

from echo_models.bundle import load_bundle
from echo_models.calibration import CALIBRATED_TASKS, calibrate_bundle, exam_of
from echo_models.datasets import Known, LabeledFrames
from echo_models.errors import BundleError, DatasetError
from echo_models.manifest import CARD, MANIFEST, MODEL, REFERENCE, read_manifest, verify
from echo_models.temperature import temper
from echo_models.views import A4C, VIEWS
from tests.toy import toy_frames, write_toy_bundle

K = len(VIEWS)


def striped(subjects: int, seed: int = 0) -> LabeledFrames:
    """Draw a frame of each view of each subject: as many bright rows as the view's number says."""
    rng = np.random.default_rng(seed)
    count = subjects * K
    views = np.tile(np.arange(K), subjects)
    frames = rng.integers(0, 60, (count, 120, 160), np.uint8)
    for frame, view in zip(frames, views, strict=True):
        frame[: 8 * (view + 1)] += 150
    return LabeledFrames(
        frames=frames,
        fov_masks=np.ones(frames.shape, np.bool_),
        lv_masks=np.zeros(frames.shape, np.bool_),
        views=views,
        hypertrophy=np.repeat(np.arange(subjects) % 2 == 1, K),
        subjects=np.repeat(np.arange(subjects), K),
        known=np.full(count, Known.ALL, np.uint8),
    )


FIT, TEST = striped(20), striped(6, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("trained") / "view", "view")


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated")
    return calibrate_bundle(trained, FIT, TEST, out, source="stripes", coverage=0.9)


def test_the_network_stays_and_the_old_bundle_too(trained: Path, calibrated: Path) -> None:
    assert (calibrated / MODEL).read_bytes() == (trained / MODEL).read_bytes()
    assert verify(trained).calibration is None
    assert "calibration" not in json.loads((trained / MANIFEST).read_text())
    manifest = verify(calibrated)
    assert manifest.version == calibrated.name
    assert manifest.version.startswith("toy.c")
    assert set(manifest.files) == {CARD, MODEL, REFERENCE}
    contract = manifest.calibration
    assert contract is not None
    assert (contract.source, contract.frames, contract.subjects) == ("stripes", 20 * K, 20)
    assert contract.fingerprint == FIT.fingerprint()
    assert contract.open_set is not None
    assert contract.open_set.coverage == 0.9


def test_probabilities_are_tempered_and_frames_like_none_are_unknown(trained: Path, calibrated: Path) -> None:
    bundle = load_bundle(calibrated)
    assert bundle.manifest.calibration is not None
    raw = load_bundle(trained).predict(TEST.frames)
    said = bundle.predict_known(TEST.frames)
    np.testing.assert_allclose(
        said.probabilities, temper(raw, bundle.manifest.calibration.temperature), atol=1e-5
    )
    np.testing.assert_array_equal(said.probabilities.argmax(axis=1), raw.argmax(axis=1))
    np.testing.assert_allclose(bundle.predict(TEST.frames), said.probabilities, atol=1e-6)
    assert said.known.mean() > 0.7  # of 0.9 that it was fitted for, on 90 frames of other subjects
    foreign = np.zeros((3, 120, 160), np.uint8)
    foreign[:, :, 80:] = 255
    assert not bundle.predict_known(foreign).known.any()
    assert bundle.predict_known(foreign[:0]).known.shape == (0,)


def test_what_is_not_calibrated_knows_every_frame(trained: Path) -> None:
    assert load_bundle(trained).predict_known(np.zeros((2, 120, 160), np.uint8)).known.all()


def test_the_manifest_and_the_card_tell_what_was_measured(calibrated: Path) -> None:
    metrics = read_manifest(calibrated).metrics
    assert {"coverage", "cross_entropy", "cross_entropy_uncalibrated", "calibration_error"} <= set(metrics)
    assert metrics["coverage"].n == 6 * K
    card = (calibrated / CARD).read_text()
    for name, it in metrics.items():
        assert f"| {name} | {it.value:.3f} | {it.low:.3f} to {it.high:.3f} | {it.n} |" in card
    assert "keeps 90%" in card


def test_calibrating_again_takes_the_place_of_the_first(calibrated: Path, tmp_path: Path) -> None:
    again = calibrate_bundle(calibrated, striped(8, seed=2), TEST, tmp_path, source="more stripes")
    assert again.name.count(".c") == 1
    assert again.name != calibrated.name
    card = (again / CARD).read_text()
    assert card.count("## Calibration") == 1
    assert "more stripes" in card
    assert load_bundle(again).predict_known(TEST.frames).known.any()
    with pytest.raises(BundleError, match="empty folder"):
        calibrate_bundle(calibrated, FIT, TEST, tmp_path, source="stripes", version=again.name)


def test_hypertrophy_gets_a_temperature_and_no_unknown(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "lvh", "lvh")
    made = calibrate_bundle(
        folder, toy_frames(12), toy_frames(4, seed=1), tmp_path, source="discs", version="v2"
    )
    contract = verify(made).calibration
    assert made == tmp_path / "v2"
    assert contract is not None
    assert contract.open_set is None
    frames = toy_frames(4, seed=1).frames
    raw = load_bundle(folder).predict(frames)
    tempered = temper(raw[:, None], contract.temperature)[:, 0]
    np.testing.assert_allclose(load_bundle(made).predict(frames), tempered, atol=1e-5)


def test_an_exam_is_what_the_bundle_reads(tmp_path: Path) -> None:
    labeled = toy_frames(4)
    a4c = labeled.views == VIEWS.index(A4C)
    exam = exam_of(read_manifest(write_toy_bundle(tmp_path / "lvh", "lvh")), labeled)
    assert len(exam.labels) == a4c.sum()
    assert not exam.frames[~labeled.lv_masks[a4c]].any()
    np.testing.assert_array_equal(exam.labels, labeled.hypertrophy[a4c])
    unknown = LabeledFrames(**{n: getattr(labeled, n) for n in labeled.__slots__} | {
        "known": np.full(len(labeled), Known.FOV, np.uint8)})  # fmt: skip
    assert len(exam_of(read_manifest(write_toy_bundle(tmp_path / "view", "view")), unknown).labels) == 0


def test_too_few_subjects_of_a_class_are_named(trained: Path, tmp_path: Path) -> None:
    most = FIT.take((FIT.views != VIEWS.index("a5c")) | (FIT.subjects < 4))
    with pytest.raises(DatasetError, match="too few of a5c 4"):
        calibrate_bundle(trained, most, TEST, tmp_path, source="stripes")
    with pytest.raises(DatasetError, match="other subjects"):
        calibrate_bundle(trained, FIT, TEST.take(TEST.views < 0), tmp_path, source="stripes")
    assert not list(tmp_path.iterdir())


def test_a_mask_is_not_calibrated(tmp_path: Path) -> None:
    assert "fov" not in CALIBRATED_TASKS
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    with pytest.raises(DatasetError, match="received fov"):
        calibrate_bundle(folder, FIT, TEST, tmp_path, source="stripes")


def test_a_manifest_that_says_unknown_without_a_reference_is_refused(
    calibrated: Path, tmp_path: Path
) -> None:
    content = json.loads((calibrated / MANIFEST).read_text())
    del content["files"][REFERENCE]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="can say unknown"):
        read_manifest(tmp_path)
