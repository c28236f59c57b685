from pathlib import Path

import numpy as np
import pytest

from echo_models import foreign
from echo_models.bundle import Bundle, load_bundle
from echo_models.errors import BundleError, TrainingError
from echo_models.experiments import open_set
from echo_models.experiments.open_set import AMOUNTS, Amount, Outcome, measure_open_set
from echo_models.experiments.open_set_report import write_open_set_report
from echo_models.manifest import Calibration, OpenSet
from echo_models.open_set import Reference
from tests.experiments import toy_setup
from tests.toy import write_toy_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Untrained networks; the view classifier knows half of what it is shown, whatever it is."""
    folder = tmp_path_factory.mktemp("bundles")
    fov = load_bundle(write_toy_bundle(folder / "fov", "fov"))
    view = load_bundle(write_toy_bundle(folder / "view", "view"))
    frames = np.random.default_rng(0).integers(0, 120, (60, 120, 160), np.uint8)
    features = view.examine(frames).features
    view.reference = Reference.fit(features, np.arange(60) % 15, 15)
    view.manifest = view.manifest.model_copy(
        update={
            "calibration": Calibration(
                temperature=2.0,
                open_set=OpenSet(threshold=float(np.median(view.reference.score(features))), coverage=0.8),
                source="noise",
                fingerprint="0",
                frames=60,
                subjects=60,
            )
        }
    )
    return fov, view


@pytest.fixture(scope="module")
def folder(bundles: tuple[Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open-set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AMOUNTS, "toy", Amount(2, 2, 2))
        patch.setattr(open_set, "FOREIGN_KINDS", ("liver", "noise"))
        patch.setattr(open_set, "_render_all", _here)
        fov, view = bundles
        measure_open_set(toy_setup(folder), fov=fov, view=view)
    return folder


def _here(count: int, seed: int, processes: int) -> list[tuple[str, list[np.ndarray]]]:  # noqa: ARG001
    """Render without another process, which takes seconds to start."""
    return [
        (kind, [foreign.render_foreign(kind, seed=n).frame for n in range(count)])
        for kind in ("liver", "noise")
    ]


def test_the_outcome_tells_of_the_bundle_and_of_every_score(
    folder: Path, bundles: tuple[Bundle, Bundle]
) -> None:
    outcome = Outcome.read(folder / "open_set.json")
    assert outcome.bundle == bundles[1].name
    assert outcome.target == 0.8
    assert [score.name for score in outcome.scores] == [
        "highest probability",
        "energy",
        "Mahalanobis distance",
        "relative Mahalanobis distance",
    ]
    assert all(set(score.rejected) == {"liver", "noise"} for score in outcome.scores)
    assert all(0 <= score.area <= 1 for score in outcome.scores)
    assert (outcome.known["coverage"].n, outcome.harder["coverage"].n) == (30, 30)
    coverages, _, away = np.array(outcome.curve).T
    assert coverages[0] == 1
    assert (np.diff(away) >= 0).all()  # who keeps less turns more away


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.normal(1, 1, 40), rng.normal(0, 1, 30)
    pairs = (near[:, None] > far).mean()
    assert open_set._area(near, far) == pytest.approx(pairs)


def test_the_report_has_the_numbers_and_says_that_all_is_synthetic(folder: Path, tmp_path: Path) -> None:
    page = write_open_set_report(folder, tmp_path, command="echobeam experiment open-set --size toy")
    outcome, text = Outcome.read(folder / "open_set.json"), page.read_text()
    for interval in (*outcome.rejected.values(), outcome.known["coverage"], outcome.harder["accuracy"]):
        assert f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f}, n = {interval.n})" in text
    assert "echobeam experiment open-set --size toy" in text
    assert text.lower().count("synthetic") >= 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "open-set.md",
        "open-set.png",
        "open-set-kinds.png",
        "open-set",
    }


def test_a_bundle_that_is_not_calibrated_is_refused(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    plain = load_bundle(write_toy_bundle(tmp_path / "view", "view"))
    with pytest.raises(BundleError, match="echobeam models calibrate"):
        measure_open_set(toy_setup(tmp_path), fov=bundles[0], view=plain)


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must be a result"):
        write_open_set_report(tmp_path, command="")
