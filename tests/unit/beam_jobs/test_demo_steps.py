"""The steps of the demo, without services, clients or models."""

import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import demo
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.demo import DemoError
from beam_jobs.demo_clips import Clip
from beam_jobs.phantom_studies import PhantomStudy
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.ledger.completion import CompletionRule

NOW = 1_700_000_000.0
CLIP = Clip(Path("a.dcm"), "a clip", "1.2.3", "1.2.3.4", "1.2.840.10008.1.2.1")


class Told:
    """Keeps what the demo said about its progress."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.done: list[int] = []

    def step(self, title: str, total: int) -> None:
        self.steps.append(f"{title}: {total}")

    def advance(self, done: int) -> None:
        self.done.append(done)


def services(program: str, tmp_path: Path) -> demo._Services:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    return demo._Services(process, tmp_path / "up.log")


def ended(started: demo._Services) -> None:
    started._process.communicate()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def receive(ledger: Ledger) -> None:
    spooled = SpooledInstance(
        "1.2.3.4", "1.2.3.5", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1", "p", "s", 1
    )
    ledger.record_instance(ReceivedInstance("1.2.3", "", spooled), association="a", hold_until=NOW, now=NOW)
    ledger.release_holds("a")
    assert ledger.complete_studies(CompletionRule(0, 1), now=NOW + 2) == 1


def claim(ledger: Ledger) -> str:
    (claimed,) = ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=1, now=NOW + 3)
    return claimed.claim_token


def test_the_announced_place_is_read(tmp_path: Path) -> None:
    up = services("print('{\"port\": 7}')", tmp_path)
    told = Told()
    assert up.announced(told) == {"port": 7}
    assert told.done == [1]
    ended(up)


@pytest.mark.parametrize("program", ["raise SystemExit(2)", "print('[7]')"])
def test_services_that_announce_no_place_are_an_error_with_the_log(tmp_path: Path, program: str) -> None:
    up = services(program, tmp_path)
    with pytest.raises(DemoError, match=r"up\.log"):
        up.announced(Told())
    ended(up)


def test_services_that_end_early_are_an_error(tmp_path: Path) -> None:
    up = services("raise SystemExit(9)", tmp_path)
    ended(up)
    with pytest.raises(DemoError, match="code 9"):
        up.check()


@pytest.fixture
def running(tmp_path: Path) -> demo._Services:
    return services("", tmp_path)


def test_waiting_ends_when_every_study_is_done(
    ledger: Ledger, running: demo._Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo._Services, "check", lambda _: None)
    receive(ledger)
    with ledger.committing(claim(ledger), now=NOW + 4):
        pass
    told = Told()
    (record,) = demo._wait(ledger, [CLIP], running, told)
    assert record.state == "done"
    assert told.done == [1]
    ended(running)


def test_waiting_ends_when_a_study_failed_and_its_reason_is_reported(
    ledger: Ledger, running: demo._Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo._Services, "check", lambda _: None)
    receive(ledger)
    ledger.release_claims([claim(ledger)], error="OSError in WriteStudies", max_attempts=1, now=NOW + 4)
    records = demo._wait(ledger, [CLIP], running, Told())
    outcome = demo._outcome(records[0], [CLIP], Pseudonymizer(b"k" * 32))
    assert (outcome.state, outcome.error, outcome.files) == ("failed", "OSError in WriteStudies", ("a clip",))
    ended(running)


def test_waiting_too_long_is_an_error(
    ledger: Ledger, running: demo._Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo._Services, "check", lambda _: None)
    monkeypatch.setattr(demo, "DONE_WITHIN_S", -1.0)
    receive(ledger)
    with pytest.raises(DemoError, match="1 studies are not through"):
        demo._wait(ledger, [CLIP], running, Told())
    ended(running)


def test_a_study_that_did_not_arrive_is_an_error(
    ledger: Ledger, running: demo._Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo._Services, "check", lambda _: None)
    with pytest.raises(DemoError, match="a study is not there"):
        demo._wait(ledger, [CLIP], running, Told())
    ended(running)


def test_instances_are_counted_by_the_studies_that_the_ledger_knows(ledger: Ledger) -> None:
    assert demo._instances_known(ledger, [CLIP]) == 0
    receive(ledger)
    assert demo._instances_known(ledger, [CLIP, CLIP]) == 1


def test_the_synthetic_study_is_drawn_once(tmp_path: Path) -> None:
    study = PhantomStudy(seed=1, frames_per_clip=1, views=("a4c", "cw"))
    told = Told()
    first = demo._phantom_clips(study, tmp_path, told)
    assert [clip.what for clip in first] == ["synthetic a4c", "synthetic cw"]
    assert told.done == [1, 2]
    assert demo._phantom_clips(study, tmp_path, told) == first
    assert told.done == [1, 2], "nothing was drawn again"
