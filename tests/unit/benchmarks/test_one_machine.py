"""The table of one machine has every benchmark of it, and its parts tell what they saw."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import services
from benchmarks.backlog import peak_of
from benchmarks.latency import QUIET_S, Passage, Size, rows_of
from benchmarks.one_machine import BENCHMARKS, write_report
from benchmarks.rounds import HEAD, Row, Spread
from benchmarks.services import wait_until, write_configuration

MIB = 2**20


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_of_the_table_exists(name: str) -> None:
    assert find_spec(f"benchmarks.{name}") is not None


def test_the_report_says_command_commit_and_machine(tmp_path: Path) -> None:
    rows = [Row("a", "b", Spread(1, 1, 1), note="3 rounds")]
    write_report(tmp_path / "page.md", rows, "python -m benchmarks.one_machine", "two cores")
    page = (tmp_path / "page.md").read_text()
    assert "Command: `python -m benchmarks.one_machine`; commit " in page
    assert "machine: two cores." in page
    assert page.endswith(f"{HEAD}\n{rows[0].as_markdown()}\n")


def test_the_peak_is_that_of_the_work_and_not_of_an_earlier_one() -> None:
    large = peak_of(lambda: np.ones(64 * MIB, np.uint8))
    assert large - peak_of(lambda: None) > 48 * MIB


def test_the_quiet_period_is_taken_off_and_the_parts_make_up_the_whole() -> None:
    passages = [Passage(claimed=QUIET_S + 0.5, done=QUIET_S + 2.5, read=QUIET_S + 2.75)]
    whole, idle, worked, read, ratio = (
        row.value.median for row in rows_of(passages, Size(4, 1)) if row.value is not None
    )
    assert (whole, idle, worked, read) == (2.75, 0.5, 2.0, 0.25)
    assert whole == idle + worked + read
    assert ratio == 2.75 / 2.0


def test_who_waits_in_vain_is_told_what_the_programs_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "DEADLINE_S", -1.0)
    (tmp_path / "work.log").write_text("the worker said this\n")
    with pytest.raises(RuntimeError, match=r"in vain for a study(?s:.*)the worker said this"):
        wait_until(lambda: False, "a study", logs=tmp_path)


def test_a_configuration_is_written_by_section(tmp_path: Path) -> None:
    write_configuration(
        tmp_path, {"listener": ["quiet_period_s = 2"], "worker": ["threads = 1", "poll_s = 1"]}
    )
    assert (tmp_path / "echobeam.toml").read_text() == (
        "[listener]\nquiet_period_s = 2\n[worker]\nthreads = 1\npoll_s = 1\n"
    )
