"""Curves of severity: what they scan, what they measure, and that a stopped run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echo_models.experiments import severity
from echo_models.experiments.results import Curve
from echo_models.experiments.severity import FACTORS, Exam, Factor, Part, Scan, measure_severity
from echo_models.phantom import Site, random_subject, render_clip
from echo_models.phantom.artefacts import ARTEFACTS
from tests.experiments import toy_setup

HARD = Factor("hard", "hard", "times", (1, 1), (2, 4), lambda level: Scan(level, Site("x", "")))


class FakeBundle:
    """Answers by a rule, and remembers the frames it was given."""

    def __init__(self, name: str, answer: Any, mask: str = "none") -> None:
        self.name = name
        self.answer = answer
        self.manifest = SimpleNamespace(mask=mask)
        self.seen: list[np.ndarray[Any, Any]] = []

    def predict(self, frames: np.ndarray[Any, Any]) -> Any:
        self.seen.append(frames)
        return self.answer(frames)


def bundles(*, lvh_mask: str = "lv") -> dict[str, Any]:
    """Make a set whose field of view is what is lit and whose ventricle is what is bright.

    A view is told by its brightest pixel, and so is hypertrophy.
    """
    return {
        "fov": FakeBundle("fov-a", lambda frames: (frames > 9).astype(np.float32)),
        "view": FakeBundle("view-a", lambda frames: np.eye(15)[frames.max(axis=(1, 2)) // 10 - 1]),
        "lv": FakeBundle("lv-a", lambda frames: (frames > 100).astype(np.float32)),
        "lvh": FakeBundle("lvh-a", lambda frames: frames.max(axis=(1, 2)) > 200, lvh_mask),
    }


def part(brightest: list[int], *, lit: int, bright: int) -> Part:
    """Draw frames whose left columns are lit, of which the first are bright; a speck lies outside."""
    count = len(brightest)
    frames = np.full((count, 4, 10), 5, np.uint8)
    frames[:, :, :lit] = 50
    frames[:, :, :bright] = np.array(brightest)[:, None, None]
    fov, ventricle = np.zeros((2, count, 4, 10), np.bool_)
    fov[:, :, :lit] = True
    ventricle[:, :, :bright] = True
    return Part(
        frames, fov, ventricle, np.array(brightest) // 10 - 1, np.array(brightest) // 201, np.arange(count)
    )


def drawn() -> Exam:
    return Exam(part([60, 70, 80], lit=8, bright=2), part([150, 250, 250], lit=8, bright=4))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let two curves be measured on drawn frames; gives the orders."""
    orders: list[Any] = []

    def render(order: Any) -> Exam:
        orders.append(order)
        return drawn()

    monkeypatch.setattr(severity, "FACTORS", (FACTORS[0], HARD))
    monkeypatch.setattr(severity, "_render", render)
    return orders


def measure(folder: Path, models: dict[str, Any]) -> list[tuple[int, int]]:
    done: list[tuple[int, int]] = []
    setup = toy_setup(folder, seed=1, on_render=lambda part, whole: done.append((part, whole)))
    measure_severity(setup, bundles=models)
    return done


def test_networks_that_are_right_score_one_at_every_level(tmp_path: Path, shown: list[Any]) -> None:
    assert measure(tmp_path, bundles()) == [(1, 3), (3, 3)]
    assert [order.scan.severity for order in shown] == [1.0, 2, 4]
    hard = Curve.read(tmp_path / "hard.json")
    assert [point.level for point in hard.points] == [2, 4]
    for point in hard.points:
        assert {name: value.value for name, value in point.metrics.items()} == {
            "fov_dice": 1.0, "view_accuracy": 1.0, "lv_dice": 1.0, "lvh_balanced_accuracy": 1.0,
        }  # fmt: skip
    assert hard.data["bundles"] == ["fov-a", "view-a", "lv-a", "lvh-a"]


def test_each_network_gets_what_the_one_before_it_gives(tmp_path: Path, shown: list[Any]) -> None:
    models = bundles()
    measure(tmp_path, models)
    assert len(shown) == 3
    assert models["fov"].seen[0].min() == 5
    assert set(np.unique(models["view"].seen[0][:, :, 8:])) == {0}  # outside the field of view
    assert set(np.unique(models["lv"].seen[0])) == {0, 50, 150, 250}
    assert set(np.unique(models["lvh"].seen[0])) == {0, 150, 250}  # outside the ventricle


def test_hypertrophy_that_reads_the_field_of_view_is_given_it(tmp_path: Path, shown: list[Any]) -> None:
    models = bundles(lvh_mask="fov")
    measure(tmp_path, models)
    assert len(shown) == 3
    assert 50 in models["lvh"].seen[0]


def test_a_wrong_outline_costs_its_dice_beside_a_mask_that_looks_at_no_frame(
    tmp_path: Path, shown: list[Any]
) -> None:
    models = bundles()
    models["lv"].answer = lambda frames: np.where(np.arange(10) < 2, 1.0, 0.0) * np.ones_like(frames)
    measure(tmp_path, models)
    assert len(shown) == 3
    dice = Curve.read(tmp_path / "usual.json").points[0].metrics["lv_dice"]
    assert dice.value == pytest.approx(2 * 2 / (2 + 4))
    assert dice.control == 1.0


def test_curves_that_are_there_are_not_measured_again_unless_models_change(
    tmp_path: Path, shown: list[Any]
) -> None:
    measure(tmp_path, bundles())
    (tmp_path / "hard.json").unlink()
    assert measure(tmp_path, bundles()) == [(1, 3), (3, 3)]
    assert len(shown) == 3 + 2
    models = bundles()
    models["lvh"].name = "lvh-b"
    measure(tmp_path, models)
    assert len(shown) == 3 + 2 + 3


def test_every_artefact_and_every_kind_of_setting_has_a_curve() -> None:
    names = [factor.name for factor in FACTORS]
    assert len(set(names)) == len(names)
    assert {*ARTEFACTS, "all", "gain", "dynamic_range", "gamma", "blur", "depth", "opening", "size"} == {
        *names[1:]
    }
    assert names[0] == "usual"


@pytest.mark.parametrize("factor", FACTORS[1:], ids=lambda factor: factor.name)
def test_a_curve_goes_beyond_training_and_its_ends_are_other_scans(factor: Factor) -> None:
    assert list(factor.levels) == sorted(factor.levels)
    low, high = factor.trained
    assert factor.levels[0] < low or factor.levels[-1] > high

    def frame(scan: Scan) -> np.ndarray[Any, Any]:
        clip = render_clip(
            random_subject(4), "a4c", seed=4, number_of_frames=1, severity=scan.severity, site=scan.site
        )
        return clip.frames

    first, last = (frame(factor.scan(level)) for level in (factor.levels[0], factor.levels[-1]))
    assert not np.array_equal(first, last)


def test_a_level_scans_unseen_subjects_in_all_views_and_others_in_one() -> None:
    exam = severity._render(severity._Order(1, 1, 2, FACTORS[0].scan(1)))
    assert exam.everything.frames.shape == (15, 120, 160)
    assert sorted(exam.everything.views) == list(range(15))
    assert len(set(exam.hearts.subjects)) == len(exam.hearts.frames) == 2
    assert not set(exam.hearts.subjects) & set(exam.everything.subjects)
    assert exam.hearts.lv_masks.any(axis=(1, 2)).all()
