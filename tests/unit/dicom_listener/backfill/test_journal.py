from pathlib import Path

import pytest

from dicom_listener.backfill.journal import Journal
from dicom_listener.errors import JobRunningError, StartRefusedError


def test_what_is_done_is_known_to_the_next_run(tmp_path: Path) -> None:
    with Journal.opened(tmp_path, "night", asks_sha256="q") as journal:
        journal.note_done("1.2.3", "fetched")
        assert "1.2.3" in journal
    with Journal.opened(tmp_path, "night", asks_sha256="q") as journal:
        assert "1.2.3" in journal
        assert "1.2.4" not in journal
    assert Journal.done(tmp_path, "night") == {"1.2.3"}


def test_jobs_do_not_know_of_each_other(tmp_path: Path) -> None:
    with Journal.opened(tmp_path, "one", asks_sha256="q") as journal:
        journal.note_done("1.2.3", "fetched")
    with Journal.opened(tmp_path, "other", asks_sha256="q") as journal:
        assert "1.2.3" not in journal


def test_a_line_cut_short_spoils_only_itself(tmp_path: Path) -> None:
    with Journal.opened(tmp_path, "night", asks_sha256="q") as journal:
        journal.note_done("1.2.3", "fetched")
    with (tmp_path / "backfill" / "night.jsonl").open("a") as file:
        file.write('{"study_instance_uid": "1.2.')
    with Journal.opened(tmp_path, "night", asks_sha256="q") as journal:
        journal.note_done("1.2.5", "fetched")
    assert Journal.done(tmp_path, "night") == {"1.2.3", "1.2.5"}


def test_a_job_cannot_ask_for_something_else(tmp_path: Path) -> None:
    with Journal.opened(tmp_path, "night", asks_sha256="q"):
        pass
    with (
        pytest.raises(StartRefusedError, match="something else"),
        Journal.opened(tmp_path, "night", asks_sha256="r"),
    ):
        pass


def test_a_job_runs_once(tmp_path: Path) -> None:
    with (
        Journal.opened(tmp_path, "night", asks_sha256="q"),
        pytest.raises(JobRunningError, match="already"),
        Journal.opened(tmp_path, "night", asks_sha256="q"),
    ):
        pass


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "x" * 65])
def test_a_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(StartRefusedError, match="cannot name a job"),
        Journal.opened(tmp_path, name, asks_sha256="q"),
    ):
        pass
    assert Journal.done(tmp_path, name) == frozenset()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backfill").write_text("")
    with (
        pytest.raises(StartRefusedError, match="cannot be written"),
        Journal.opened(tmp_path, "night", asks_sha256="q"),
    ):
        pass


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    with Journal.opened(tmp_path, "night", asks_sha256="q"):
        pass
    assert (tmp_path / "backfill" / "night.jsonl").stat().st_mode & 0o777 == 0o600
