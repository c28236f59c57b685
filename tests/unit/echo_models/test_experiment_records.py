"""Where results come from, and the pages made of them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from echo_models.errors import TrainingError
from echo_models.experiments import code
from echo_models.experiments.code import code_of, commit, machine
from echo_models.experiments.results import Curve, Facts, Point, Record, Result, Shelf
from echo_models.experiments.science import science_page
from echo_models.experiments.severity_report import METRICS, read_curves, write_severity_report
from echo_models.manifest import Interval

COMMON: dict[str, Any] = {
    "key": "k",
    "seed": 3,
    "size": "toy",
    "code_version": "echobeam 0",
    "commit": "c0ffee",
    "machine": "2 cores, 24 GiB",
}


def interval(value: float, control: float | None = None) -> Interval:
    return Interval(value=value, low=max(value - 0.1, 0), high=min(value + 0.1, 1), n=30, control=control)


def curve(arm: str, levels: tuple[float, ...], *, trained: tuple[float, float] = (1, 1)) -> Curve:
    points = tuple(
        Point(level=level, metrics={name: interval(0.9 - level / 20, control=0.7) for name in METRICS})
        for level in levels
    )
    data = {"bundles": ["view-a"], "fingerprint": "f"}
    return Curve(
        experiment="severity", arm=arm, title=f"title of {arm}", data=data, unit="times", trained=trained,
        points=points, **COMMON,
    )  # fmt: skip


def result(experiment: str, arm: str, classes: tuple[str, ...] = ("a", "b", "c")) -> Result:
    names = ("accuracy", "f1", "balanced_accuracy", "sensitivity", "specificity", "recall_a")
    data = {"plan": {"subjects": 9}, "fingerprint": "f", "test_subjects": 2,
            "frames": {"train": 5, "validation": 2, "test": 2}}  # fmt: skip
    return Result(
        experiment=experiment, arm=arm, title=f"title of {arm}", data=data, classes=classes,
        metrics=dict.fromkeys(names, interval(0.625)), confusion=[[1] * len(classes)] * len(classes),
        parameters=7, epochs=1, seconds_per_epoch=1.0, images_per_second=1.0, log=[], **COMMON,
    )  # fmt: skip


# --- code -------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package: `experiment` imports `near`, and in a function `far.away`; `else` is on its own."""
    root = tmp_path / "pack"
    (root / "far").mkdir(parents=True)
    (root / "experiment.py").write_text("import json\nfrom pack import near\n")
    (root / "near.py").write_text("def f():\n    from pack.far.away import a\n    return a\n")
    (root / "far" / "__init__.py").write_text("")
    (root / "far" / "away.py").write_text("a = 1\n")
    (root / "else.py").write_text("import pack.experiment\n")
    monkeypatch.setattr(code, "_PACKAGE", root)
    return root


def name_of_code() -> str:
    code_of.cache_clear()
    try:
        return code_of("pack.experiment")
    finally:
        code_of.cache_clear()


def test_a_change_elsewhere_leaves_the_code_its_name(package: Path) -> None:
    before = name_of_code()
    (package / "else.py").write_text("changed = True\n")
    assert name_of_code() == before


@pytest.mark.parametrize("file", ["experiment.py", "near.py", "far/away.py"])
def test_a_change_of_what_is_imported_gives_the_code_another_name(package: Path, file: str) -> None:
    before = name_of_code()
    path = package / file
    path.write_text(path.read_text() + "more = 1\n")
    assert name_of_code() != before


def test_a_change_while_a_process_runs_is_not_seen(package: Path) -> None:
    code_of.cache_clear()
    before = code_of("pack.experiment")
    (package / "near.py").write_text("changed = True\n")
    assert code_of("pack.experiment") == before
    code_of.cache_clear()


def test_the_resolution_study_is_decided_by_the_phantom_and_not_by_the_registry() -> None:
    reached = {path.name for path in code._reached("echo_models.experiments.resolution")}
    assert {"resolution.py", "datasets.py", "sector.py", "networks.py", "fitting.py"} <= reached
    assert not {"registry.py", "bundle.py", "labels.py", "report.py", "verb.py"} & reached


def test_the_commit_is_what_git_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(out: str) -> None:
        commit.cache_clear()
        done = subprocess.CompletedProcess([], 0, out, "")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    answer("abc1234\n")
    assert commit() == "abc1234"
    answer("")
    assert commit() == ""
    commit.cache_clear()


def test_the_machine_is_told_in_words() -> None:
    cores, memory = machine().split(", ")
    assert int(cores.removesuffix(" cores")) >= 1
    assert int(memory.removesuffix(" GiB")) >= 1


# --- the shelf --------------------------------------------------------------------------------------


def test_a_shelf_knows_a_curve_by_its_key(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.keep(curve("usual", (1,)))
    assert shelf.has("usual", "k")
    assert not shelf.has("usual", "other")
    assert not shelf.has("absent", "k")


@pytest.mark.parametrize(
    ("facts", "settings"),
    [
        (Facts("views", "toy", 1, "code", {"fingerprint": "f"}), {"a": 2}),
        (Facts("views", "toy", 1, "other code", {"fingerprint": "f"}), {"a": 1}),
        (Facts("views", "small", 1, "code", {"fingerprint": "f"}), {"a": 1}),
        (Facts("views", "toy", 1, "code", {"fingerprint": "other frames"}), {"a": 1}),
    ],
)
def test_no_training_goes_on_from_what_others_left(
    tmp_path: Path, facts: Facts, settings: dict[str, int]
) -> None:
    usual = Facts("views", "toy", 1, "code", {"fingerprint": "f"})
    assert usual.checkpoints(tmp_path, "arm", {"a": 1}) == usual.checkpoints(tmp_path, "arm", {"a": 1})
    assert usual.checkpoints(tmp_path, "arm", {"a": 1}) != facts.checkpoints(tmp_path, "arm", settings)


# --- pages ------------------------------------------------------------------------------------------


def test_the_report_of_severity_has_every_level_and_a_picture(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for record in (
        curve("usual", (1,)),
        curve("gain", (25, 65), trained=(65, 245)),
        curve("shadow", (0, 2, 8)),
    ):
        shelf.keep(record)
    page = write_severity_report(tmp_path, command="echobeam experiment severity").read_text()
    assert page.index("title of shadow | 8 times") < page.index("title of gain | 25 times")
    assert "mask alone 0.70" in page
    assert "`echobeam experiment severity` at commit `c0ffee` on 2 cores, 24 GiB" in page
    assert "Synthetic" in page
    assert (tmp_path / "report" / "severity.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "report" / "severity").iterdir()} == {
        "usual.json", "gain.json", "shadow.json"
    }  # fmt: skip


def test_curves_without_the_usual_scans_are_no_report(tmp_path: Path) -> None:
    Shelf(tmp_path).keep(curve("shadow", (2,)))
    with pytest.raises(TrainingError, match=r"must hold usual\.json"):
        read_curves(tmp_path)


def put(folder: Path, *records: Record) -> None:
    for record in records:
        Shelf(folder).keep(record)


def test_the_page_of_science_is_made_of_the_files_of_the_runs(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    put(reports / "views", result("views", "masked"), result("views", "plain"))
    put(reports / "lvh", result("lvh", "whole_stage1", ("normal", "lvh")))
    put(reports / "severity", curve("usual", (1,)), curve("shadow", (2, 8)))
    put(reports / "labels", result("labels", "gan_1"))
    (reports / "labels.md").write_text("# Few labels\n\nText.\n")
    page = science_page(reports, tmp_path / "no bundles")
    assert "`echobeam experiment views --size toy --seed 3` at commit `c0ffee`" in page
    plain, masked = page.index("title of plain"), page.index("title of masked")
    assert plain < masked
    assert "0.625 (0.525 to 0.725)" in page
    assert page[plain:].partition("\n")[0].endswith("92.05 ± 0.72 |")
    assert "title of shadow | 8 times" in page
    assert "title of shadow | 2 times" not in page
    assert "- [Few labels](reports/labels.md)" in page
    assert "resolution" not in page
    assert page.count("Synthetic frames of the phantom") == 5


def test_the_page_of_science_tells_of_the_bundles_that_ship() -> None:
    from echo_models.registry import SHIPPED  # noqa: PLC0415

    page = science_page(Path("nowhere"), SHIPPED)
    for task in ("fov", "view", "lv", "lvh"):
        assert f"| `{task}-" in page
    assert "recall" not in page
