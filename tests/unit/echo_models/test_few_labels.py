"""Experiments with few labels: who is given what, what is kept, and what a page says."""

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from echo_models import evaluation
from echo_models.augment import NO_AUGMENTATION
from echo_models.datasets import Known, LabeledFrames, Plan
from echo_models.errors import TrainingError
from echo_models.experiments import few_labels, labels, lvh_gan, methods, setups, sites
from echo_models.experiments.few_labels import TOY, Budget, People
from echo_models.experiments.few_labels_report import write_few_labels_report
from echo_models.experiments.methods import METHODS, draw_labels
from echo_models.experiments.results import Result, read_results
from echo_models.gan import GanSchedule
from echo_models.phantom import SITES
from echo_models.views import VIEWS
from tests.experiments import toy_setup

SCHEDULE = GanSchedule(epochs=1, batch_size=4, learning_rate=0.001, max_steps=1)


PLANS: list[Plan] = []


def noise(plan: Plan, **_: Any) -> LabeledFrames:
    """Stand in for the phantom: two frames of each subject and view, of one grey a site."""
    PLANS.append(plan)
    subjects = np.repeat(np.arange(plan.subjects), 2 * len(plan.views))
    shape = (len(subjects), 120, 160)
    masks = np.ones(shape, np.bool_)
    lv_masks = masks.copy()
    lv_masks[0] = False  # the first subject's first frame shows no ventricle
    views = np.tile(np.repeat([VIEWS.index(view) for view in plan.views], 2), plan.subjects)
    grey = 10 + 40 * list(SITES).index(plan.site)
    known = np.full(len(subjects), Known.ALL, np.uint8)
    frames = np.full(shape, grey, np.uint8)
    return LabeledFrames(frames, masks, lv_masks, views, subjects % 2 == 0, subjects, known)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Render noise, train nothing, and tell what each training was given."""
    calls: list[dict[str, Any]] = []

    def learn(method: str, labeled: Any, known: Any, unlabeled: Any, **others: Any) -> tuple[Any, Any]:
        calls.append({"method": method, "labeled": labeled, "labels": known, "unlabeled": unlabeled} | others)
        classes = others["classes"]
        size = others["preset"].gan_size
        answer = keras.Sequential(
            [
                keras.Input((size, size, 1)),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(classes, activation="softmax"),
            ]
        )
        log = [
            {"epoch": float(epoch), "accuracy": 0.5, "f1": 0.4, "member": float(member)}
            for member in range(1, others["ensemble"] + 1)
            for epoch in (1, 2)
        ]
        return answer, log

    PLANS.clear()
    monkeypatch.setattr(setups, "render", noise)
    monkeypatch.setattr(few_labels, "learn", learn)
    monkeypatch.setattr(evaluation, "bootstrap", partial(evaluation.bootstrap, resamples=20))
    monkeypatch.setattr(few_labels, "code_of", lambda _: "echobeam 0")
    people = People(labeled=4, archive=3, test=2)
    for experiment in (labels, lvh_gan, sites):
        members = experiment.BUDGETS["toy"].members
        monkeypatch.setitem(experiment.BUDGETS, "toy", Budget(TOY, SCHEDULE, people, members))
    return calls


def test_a_smaller_draw_of_labels_is_part_of_a_larger_one() -> None:
    classes = np.repeat(np.arange(3), [4, 9, 20])
    few, more, every = (draw_labels(classes, count, seed=1) for count in (2, 6, None))
    assert set(few) < set(more) < set(every)
    assert Counter(classes[more].tolist()) == {0: 4, 1: 6, 2: 6}
    assert every.tolist() == list(range(33))
    assert draw_labels(classes, 2, seed=2).tolist() != few.tolist()


def test_every_method_has_the_same_budget_frames_and_labels(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    labels.compare_label_counts(toy_setup(tmp_path), site="smooth")
    # Four subjects have eight frames of a view: 1 and 5 labels a class, then all.
    assert [call["method"] for call in given] == list(METHODS) * 3
    for start, count in zip(range(0, 15, 5), (1, 5, 8), strict=True):
        first, *others = given[start : start + 5]
        assert set(Counter(first["labels"].tolist()).values()) == {count}
        for call in others:
            for same in ("preset", "schedule", "ensemble", "seed"):
                assert call[same] == first[same]
            for equal in ("labeled", "labels", "unlabeled"):
                assert np.array_equal(call[equal], first[equal])
    assert len({call["folder"] for call in given}) == 15


def test_unlabeled_frames_come_from_the_archives_site_and_other_people(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    labels.compare_label_counts(toy_setup(tmp_path), site="bedside")
    assert (given[0]["labeled"] == 10).all()
    assert (given[0]["unlabeled"] == 50).all()
    labeled, archive, home, there = PLANS
    assert len({labeled.seed, archive.seed, home.seed}) == 3
    assert there == dataclasses.replace(home, site="bedside")


def test_what_is_done_is_not_trained_again(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    lvh_gan.compare_hypertrophy_methods(toy_setup(tmp_path), site="smooth")
    assert len(given) == len(METHODS)
    (tmp_path / "gan.json").unlink()
    lvh_gan.compare_hypertrophy_methods(toy_setup(tmp_path), site="smooth")
    assert [call["method"] for call in given[len(METHODS) :]] == ["gan"]
    lvh_gan.compare_hypertrophy_methods(toy_setup(tmp_path), site="bedside")
    assert len(given) == 2 * len(METHODS) + 1  # other frames, other results


def test_a_frame_without_a_ventricle_is_in_the_exam_alone(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    lvh_gan.compare_hypertrophy_methods(toy_setup(tmp_path), site="smooth")
    assert len(given[0]["labeled"]) == 4 * 2 - 1
    frames, truth = given[0]["validation"]
    assert len(frames) == len(truth) == 2 * 2
    assert given[0]["ensemble"] == lvh_gan.BUDGETS["toy"].members > 1


def test_only_the_oracle_is_given_labels_of_the_site(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    sites.adapt_to_sites(toy_setup(tmp_path))
    elsewhere = [name for name in SITES if name != "home"]
    arms = {f"{site}_{arm}" for site in elsewhere for arm in (*METHODS, "oracle")}
    assert {result.arm for result in read_results(tmp_path)} == arms
    told = [call for call in given if (call["labeled"] != 10).any()]
    assert len(told) == len(elsewhere)
    assert all(np.array_equal(call["labeled"], call["unlabeled"]) for call in told)
    assert {call["method"] for call in told} == {"supervised"}


def test_both_exams_are_kept(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    labels.compare_label_counts(toy_setup(tmp_path), site="smooth")
    assert given
    result = Result.read(tmp_path / "gan_5.json")
    for prefix in ("", few_labels.THERE):
        assert result.metrics[f"{prefix}accuracy"].n == 2 * 2 * len(VIEWS)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", list(METHODS))
def test_each_method_can_be_trained_by_name(method: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 28, 28), np.uint8)
    classifier, log = methods.learn(
        method,
        frames,
        np.arange(6) % 2,
        frames,
        ensemble=1,
        ema_decay=None,
        classes=2,
        preset=TOY,
        schedule=SCHEDULE,
        seed=0,
    )
    assert classifier.output_shape == (None, 2)
    assert [entry["epoch"] for entry in log] == [1.0]


def test_frames_and_averages_are_alike_for_the_gan_and_its_challengers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    class StopError(Exception):
        pass

    def gan(*_: Any, options: Any, **__: Any) -> None:
        seen.append((options.augmentation, options.ema_decay))
        raise StopError

    def challenger(*_: Any, augmentation: Any, ema_decay: float, **__: Any) -> None:
        seen.append((augmentation, ema_decay))
        raise StopError

    monkeypatch.setattr(methods, "train_gan", gan)
    monkeypatch.setattr(methods, "train_challenger", challenger)
    nothing = np.zeros((0, 28, 28), np.uint8)
    for method in METHODS:
        with pytest.raises(StopError):
            methods.learn(method, nothing, np.zeros(0, np.int64), nothing, ensemble=1, ema_decay=0.9)
    assert len(seen) == len(METHODS)
    assert set(seen) == {(methods.AUGMENTATION, 0.9)}
    assert methods.AUGMENTATION != NO_AUGMENTATION


def test_the_page_of_labels_has_a_row_a_count_for_both_sites(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    labels.compare_label_counts(toy_setup(tmp_path), site="smooth")
    assert given
    page = write_few_labels_report(tmp_path, command="echobeam experiment labels")
    text = page.read_text()
    for count in ("1", "5", "all"):
        assert text.count(f"\n| {count} | ") == 2
    assert "| 0.88 |" in text  # the paper's
    assert "`smooth`" in text
    assert "synthetic" in text.lower()
    assert (page.parent / "labels.png").exists()
    assert len(list((page.parent / "labels").glob("*.json"))) == 15


def test_the_page_of_hypertrophy_shows_generated_frames_by_epoch(
    tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    lvh_gan.compare_hypertrophy_methods(toy_setup(tmp_path), site="smooth")
    assert given
    assert "Generated" not in write_few_labels_report(tmp_path, command="-").read_text()
    result = Result.read(tmp_path / "gan.json")
    grids = tmp_path / "work" / "checkpoints" / f"gan-{result.key}" / "gan_member_1_generated"
    from echo_models.gan.grids import save_grid  # noqa: PLC0415

    for epoch in (1, 6):
        save_grid(grids, epoch, np.zeros((4, 28, 28, 1), np.float32), 2)
    page = write_few_labels_report(tmp_path, command="-")
    text = page.read_text()
    assert "lvh-gan-generated.png" in text
    for title in METHODS.values():
        assert f"\n| {title} | " in text
    assert (page.parent / "lvh-gan.png").exists()


def test_the_page_of_sites_names_each_site_and_method(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    sites.adapt_to_sites(toy_setup(tmp_path))
    assert given
    text = write_few_labels_report(tmp_path, tmp_path / "docs", command="-").read_text()
    for site in ("bedside", "smooth", "mirrored"):
        for title in (*METHODS.values(), "labels of the site itself"):
            assert f"\n| {site} | {title} | " in text


def test_a_folder_without_results_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must hold results"):
        write_few_labels_report(tmp_path, command="-")


@pytest.mark.parametrize("experiment", [labels, lvh_gan, sites])
def test_sizes_are_those_that_can_be_asked_for(experiment: Any) -> None:
    assert list(experiment.BUDGETS) == ["toy", "small", "medium", "paper"]
    paper = experiment.BUDGETS["paper"]
    assert (paper.network.gan_size, paper.schedule.batch_size, paper.schedule.learning_rate) == (
        110,
        40,
        0.0003,
    )
