"""What is fastest is found once for a machine and its bundles, and never where it is set."""

import json
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import tuning
from beam_jobs.settings import WorkerSettings
from beam_jobs.tuning import FILE, best, measure, tuned
from tests.bright import publish_bright, write_bright_registry

FOUND = {"threads": 3, "batch_size": 8}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    tries: list[Path] = []

    def try_out(models: Path, _: str) -> dict[str, int]:
        tries.append(models)
        return FOUND

    monkeypatch.setattr(tuning, "_try_out", try_out)
    return tries


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_registry(tmp_path_factory.mktemp("registry") / "models").root


def settings(root: Path, models: Path, **given: Any) -> WorkerSettings:
    return WorkerSettings(root=root, models=models, **{"tune": True, **given})


def test_it_is_tried_out_once_and_then_remembered(tmp_path: Path, models: Path, tried: list[Path]) -> None:
    for _ in range(2):
        found = tuned(settings(tmp_path, models))
        assert (found.threads, found.batch_size) == (3, 8)
    assert tried == [models]
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [FOUND]


def test_other_bundles_are_tried_out_anew(tmp_path: Path, tried: list[Path]) -> None:
    registry = write_bright_registry(tmp_path / "models")
    tuned(settings(tmp_path, registry.root))
    publish_bright(registry, "view", "newer", tmp_path / "bundles", always="plax")
    tuned(settings(tmp_path, registry.root))
    registry.rollback("view")
    tuned(settings(tmp_path, registry.root))
    assert len(tried) == 2


def test_what_is_set_stays(tmp_path: Path, models: Path, tried: list[Path]) -> None:
    assert tuned(settings(tmp_path, models, batch_size=5)).batch_size == 5
    assert tuned(settings(tmp_path, models, threads=0)).threads == 0
    tried.clear()
    both = settings(tmp_path / "other", models, threads=1, batch_size=5)
    assert tuned(both) is both
    assert tried == []


@pytest.mark.parametrize(
    "given", [{"tune": False}, {"runner": "PrismRunner"}], ids=["not wanted", "on an engine"]
)
def test_nothing_is_tried_out_where_it_is_not_wanted_or_would_tell_nothing(
    tmp_path: Path, models: Path, tried: list[Path], given: dict[str, Any]
) -> None:
    same = settings(tmp_path, models, **given)
    assert tuned(same) is same
    assert tried == []


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"threads": 2}}'])
def test_a_memory_that_cannot_be_read_is_tried_out_anew(
    tmp_path: Path, models: Path, tried: list[Path], content: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / FILE).write_text(content)
    assert tuned(settings(tmp_path, models)).threads == 3
    assert tuned(settings(tmp_path, models)).threads == 3
    assert len(tried) == 1


def test_without_a_trial_both_stay_as_they_are(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "absent"))
    same = settings(tmp_path, models)
    assert tuned(same) is same
    assert not (tmp_path / FILE).exists()


def test_more_threads_and_fewer_frames_are_chosen_unless_others_are_clearly_faster() -> None:
    assert best({1: {8: 60, 16: 60}, 2: {8: 99, 16: 100}}) == {"threads": 2, "batch_size": 8}
    assert best({1: {8: 60, 16: 60}, 2: {8: 80, 16: 100}}) == {"threads": 2, "batch_size": 16}
    assert best({1: {8: 100, 16: 90}, 2: {8: 99, 16: 99}}) == {"threads": 2, "batch_size": 8}
    assert best({1: {8: 120, 16: 90}, 2: {8: 99, 16: 99}}) == {"threads": 1, "batch_size": 8}


def test_a_trial_gives_a_rate_for_each_size(models: Path) -> None:
    rates = measure(models, sizes=(1, 2))
    assert rates.keys() == {1, 2}
    assert min(rates.values()) > 0
