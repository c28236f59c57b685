from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from dicom_listener.backfill import job as job_module
from dicom_listener.backfill.fetch import Fetched
from dicom_listener.backfill.job import FAILURES_IN_A_ROW, Failure, Job, Outcome, Summary
from dicom_listener.backfill.journal import Journal
from dicom_listener.backfill.pace import Pace, Window
from dicom_listener.backfill.plan import Question
from dicom_listener.errors import PeerRefusedError, PeerUnreachableError
from dicom_listener.ledger import Ledger
from dicom_listener.peers.find import FoundStudy, StudyQuery
from dicom_listener.peers.outgoing import Caller
from dicom_listener.settings import Peer
from tests.unit.dicom_listener.instances import make_received

PEER = Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=104)


@dataclass
class Archive:
    """Stands for caller, archive, fetcher, watcher and time. `holds` is how many instances each study has."""

    ledger: Ledger
    holds: dict[str, int | None]
    answers: dict[str, list[str]]
    broken: dict[str, list[Exception]] = field(default_factory=dict)
    refuses: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    said: list[tuple[Any, ...]] = field(default_factory=list)
    associations: int = 0
    attempts: list[int] = field(default_factory=list)

    @contextmanager
    def associated(self, *_: Any, **__: Any) -> Iterator["Archive"]:
        self.associations += 1
        if self.refuses:
            self.refuses -= 1
            raise PeerUnreachableError("not there")
        yield self

    def find(self, _assoc: Any, query: StudyQuery) -> Iterator[FoundStudy]:
        name = query.keys["PatientID"]
        if self.broken.get(name):
            raise self.broken[name].pop(0)
        return iter([FoundStudy(uid, self.holds[uid]) for uid in self.answers[name]])

    def fetch(self, uid: str, *, attempt: int) -> Fetched:
        self.attempts.append(attempt)
        if self.broken.get(uid):
            raise self.broken[uid].pop(0)
        count, lost = self.holds[uid] or 1, self.lost.get(uid, 0)
        for number in range(count - lost):
            self.ledger.record_instance(
                make_received(uid, number), association="b", hold_until=0, now=self.now
            )
        self.ledger.release_holds("b")
        self.now += 2
        return Fetched(count - lost, lost)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def asking(self, questions: int) -> None:
        self.said.append(("asking", questions))

    def asked(self, found: int) -> None:
        self.said.append(("asked", found))

    def fetching(self, studies: int) -> None:
        self.said.append(("fetching", studies))

    def looked_at(self, outcome: Outcome, size_bytes: int) -> None:
        self.said.append((outcome, size_bytes))

    def waiting(self, seconds: float, why: str) -> None:
        self.said.append(("waiting", why))


@pytest.fixture
def archive(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = Archive(ledger, {"1.1": 2, "1.2": 3, "1.3": None}, {"a": ["1.1", "1.2"], "b": ["1.2", "1.3"]})
    monkeypatch.setattr(job_module, "find_studies", archive.find)
    return archive


def questions(*names: str) -> list[Question]:
    return [
        Question(f"question {name}", StudyQuery(keys={"PatientID": name}), must_find=True) for name in names
    ]


def run(
    archive: Archive,
    *names: str,
    journal: Journal | frozenset[str] = frozenset(),
    dry: bool = False,
    pace: Pace | None = None,
    window: Window | None = None,
) -> Summary:
    return Job(
        peer=PEER,
        caller=cast("Caller", archive),
        ledger=archive.ledger,
        journal=journal,
        watcher=archive,
        fetcher=None if dry else archive,
        pace=pace or Pace(),
        window=window,
        clock=lambda: archive.now,
        sleep=archive.sleep,
    ).run(questions(*names))


def test_every_study_is_found_once_and_fetched(archive: Archive) -> None:
    summary = run(archive, "a", "b")
    assert (summary.found, summary.fetched, summary.instances) == (3, 3, 6)
    assert summary.size_bytes == 600
    assert not summary.has_failed
    assert archive.associations == 1  # one for both questions; fetching is the fetcher's
    assert archive.said[:4] == [("asking", 2), ("asked", 2), ("asked", 3), ("fetching", 3)]


def test_what_is_here_whole_is_not_fetched_again(archive: Archive) -> None:
    run(archive, "a", "b")
    summary = run(archive, "a", "b")
    # of 1.3 the archive does not say how many instances it has
    assert (summary.already_there, summary.fetched) == (2, 1)


def test_what_is_here_in_part_is_fetched(archive: Archive, ledger: Ledger) -> None:
    ledger.record_instance(make_received("1.2", 0), association="a", hold_until=0, now=0)
    summary = run(archive, "a")
    assert (summary.already_there, summary.fetched, summary.instances) == (0, 2, 4)


def test_a_job_that_is_run_again_passes_over_what_it_did(archive: Archive, tmp_path: Path) -> None:
    archive.broken = {"1.2": [PeerRefusedError("not now")] * 3}
    with Journal.opened(tmp_path, "job", asks_sha256="q") as journal:
        first = run(archive, "a", "b", journal=journal)
    assert (first.fetched, first.failed) == (2, 1)
    with Journal.opened(tmp_path, "job", asks_sha256="q") as journal:
        second = run(archive, "a", "b", journal=journal)
    assert (second.done_before, second.fetched, second.failed) == (2, 1, 0)


def test_a_dry_run_finds_and_changes_nothing(archive: Archive, ledger: Ledger) -> None:
    ledger.record_instance(make_received("1.1", 0), association="a", hold_until=0, now=0)
    summary = run(archive, "a", "b", dry=True)
    assert (summary.found, summary.to_fetch, summary.fetched) == (3, 3, 0)
    assert ledger.show_study("1.1").instances == 1
    assert len(ledger.list_studies()) == 1


def test_a_study_that_fails_is_tried_again_and_then_told_with_its_reason(archive: Archive) -> None:
    archive.broken = {
        "1.1": [PeerUnreachableError("gone")],
        "1.2": [PeerRefusedError("status 0xA702")] * 3,
    }
    summary = run(archive, "a")
    assert (summary.fetched, summary.failed) == (1, 1)
    assert summary.failures == [Failure("1.2", "status 0xA702")]
    assert archive.slept == [5, 5, 10]


def test_failed_sub_operations_are_counted_and_what_came_is_kept(archive: Archive, ledger: Ledger) -> None:
    archive.lost = {"1.2": 1}
    summary = run(archive, "a")
    assert summary.failures == [Failure("1.2", "1 of 3 sub-operations failed")]
    assert archive.attempts == [0, 0, 1, 2]
    assert ledger.show_study("1.2").instances == 2
    assert summary.instances == 4


def test_fewer_than_the_archive_promised_is_a_failure(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = archive.fetch

    def half(uid: str, *, attempt: int) -> Fetched:
        archive.lost = {"1.2": 1}
        return Fetched(fetch(uid, attempt=attempt).completed, 0)

    monkeypatch.setattr(archive, "fetch", half)
    summary = run(archive, "a")
    [failure] = summary.failures
    assert "2 of the 3 instances came" in failure.reason


def test_what_came_by_several_attempts_counts_together(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an archive that sends some syntaxes only by the first proposal, others only by the second."""
    archive.answers["a"] = ["1.2"]

    def half(uid: str, *, attempt: int) -> Fetched:
        for number in (0, 1) if attempt == 0 else (2,):
            received = make_received(uid, number)
            archive.ledger.record_instance(received, association="b", hold_until=0, now=archive.now)
        return Fetched(1, 2)

    monkeypatch.setattr(archive, "fetch", half)
    summary = run(archive, "a")
    assert (summary.fetched, summary.failures, summary.instances) == (1, [], 3)


def test_a_study_that_came_whole_is_evidence(archive: Archive, ledger: Ledger) -> None:
    run(archive, "b")
    rows = {study.study_instance_uid: study for study in ledger.list_studies()}
    assert rows["1.2"].expected_instances == 3
    assert rows["1.3"].expected_instances is None


def test_a_question_is_asked_again_and_one_that_keeps_failing_is_told(archive: Archive) -> None:
    archive.refuses = 2
    summary = run(archive, "a")
    assert (summary.fetched, archive.slept) == (2, [5, 10])
    archive.broken = {"a": [PeerRefusedError("too many answers")] * 3}
    summary = run(archive, "a", "b")
    assert summary.failures == [Failure("question a", "too many answers")]
    assert summary.found == 2


def test_an_archive_that_is_away_fails_every_question(archive: Archive) -> None:
    archive.refuses = 99
    summary = run(archive, "a", "b")
    assert [failure.what for failure in summary.failures] == ["question a", "question b"]
    assert summary.has_failed


def test_a_line_of_a_list_that_is_not_found_is_a_failure(archive: Archive) -> None:
    archive.answers["none"] = []
    summary = run(archive, "none")
    assert summary.failures == [Failure("question none", "the archive has no such study")]


def test_a_job_whose_studies_all_fail_stops(archive: Archive) -> None:
    uids = [f"2.{number}" for number in range(1, 30)]
    archive.holds.update(dict.fromkeys(uids, 1))
    archive.answers["c"] = uids
    archive.broken = {uid: [PeerRefusedError("disk full")] * 3 for uid in uids}
    summary = run(archive, "c")
    assert summary.failed == FAILURES_IN_A_ROW
    assert "disk full" in str(summary.stopped_because)


def test_a_rate_is_kept(archive: Archive) -> None:
    run(archive, "a", "b", pace=Pace(studies_per_minute=6))
    assert archive.slept == [8, 8]  # each took 2 of its 10 seconds
    assert ("waiting", "to keep to the rate") in archive.said


def test_nothing_is_asked_or_fetched_outside_the_window(archive: Archive) -> None:
    archive.now = datetime(2024, 5, 17, 12).astimezone().timestamp()
    run(archive, "a", window=Window.parse("22:00-22:01"), pace=Pace(studies_per_minute=0.5))
    opened = 10 * 3600
    assert archive.slept[0] == opened
    assert archive.slept[1] == 118  # the rate; it is 22:02 then, so the window is closed again
    assert archive.slept[2] == 24 * 3600 - 120
    assert archive.said.count(("waiting", "until 22:00")) == 2
