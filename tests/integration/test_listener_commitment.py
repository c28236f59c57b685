"""Storage commitment over real associations: pynetdicom requests, and takes the reports."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydicom.dataset import Dataset
from pynetdicom import AE

from dicom_listener.commitment import requests
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentCollector, CommitmentMetrics
from dicom_listener.commitment.records import CommitmentState, Reference
from dicom_listener.commitment.sender import CommitmentSender
from dicom_listener.ledger import Ledger
from dicom_listener.peers.outgoing import Caller
from dicom_listener.settings import ListenerSettings, Peer
from dicom_listener.spool.writing import Spool
from tests.integration.commitment_peers import ask, request_dataset, requester
from tests.integration.listener_peers import associate, listening, store
from tests.integration.serving import serving
from tests.programs import DEADLINE_S, wait_for
from tests.unit.dicom_listener.commitments import US, keep, references
from tests.unit.dicom_listener.instances import make_dataset


@dataclass
class Provider:
    """A listener that does nothing but storage commitment."""

    root: Path
    ledger: Ledger
    registry: CollectorRegistry
    settings: ListenerSettings
    port: int
    sender: CommitmentSender
    now: list[float] = field(default_factory=lambda: [1000.0])

    @property
    def commitments(self) -> CommitmentLedger:
        return CommitmentLedger(self.ledger)

    def keep(self, *numbers: int) -> list[Path]:
        return [keep(Spool(self.root / "spool"), self.ledger, number) for number in numbers]

    def metrics(self) -> str:
        return generate_latest(self.registry).decode()


@contextmanager
def provider(root: Path, *peers: Peer, sends: bool = True, **settings: Any) -> Iterator[Provider]:
    """Run it; with `sends=False` nothing is reported but by `sender.report_due()`."""
    configured = ListenerSettings(root=root, peers=peers, housekeeping_s=0.01, **settings)
    ledger = Ledger(configured.ledger_url)
    registry = CollectorRegistry()
    metrics = CommitmentMetrics(registry)
    commitments = CommitmentLedger(ledger)
    now = [1000.0]
    clock = lambda: now[0]  # noqa: E731 - a clock that the test moves
    registry.register(CommitmentCollector(commitments, clock))
    sender = CommitmentSender(commitments, configured, metrics, clock=clock)
    ae = AE(ae_title="ECHOBEAM")
    ae.supported_contexts = requests.contexts()
    scp = requests.CommitmentProvider(commitments, configured.peers, metrics, clock, sender.wake)
    try:
        with serving(ae, requests.handlers(scp)) as port, ExitStack() as stack:
            if sends:
                stack.enter_context(sender)
            yield Provider(root, ledger, registry, configured, port, sender, now)
    finally:
        ledger.close()


def uids(sequence: Any) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in sequence]


def test_what_is_kept_is_committed_on_an_association_of_its_own(tmp_path: Path) -> None:
    with requester() as scu, provider(tmp_path, scu.peer) as scp:
        scp.keep(1, 2)
        assert ask(scp.port, references(1, 2)) == 0x0000
        report = scu.next_report()
        assert (report.event_type, report.information.TransactionUID) == (1, "1.9")
        assert uids(report.information.ReferencedSOPSequence) == ["1.2.3.1.1", "1.2.3.1.2"]
        assert report.calling_ae_title == "ECHOBEAM"
        assert report.roles == (True, False)  # it is the SCU of our association, so we are the SCP
        wait_for("the end", lambda: scp.commitments.show("1.9").state is CommitmentState.REPORTED)
        assert scp.commitments.show("1.9").committed == 2
        said = scp.metrics()
    assert 'echobeam_listener_commitment_requests_total{result="new"} 1.0' in said
    assert 'echobeam_listener_commitment_reports_total{result="taken"} 1.0' in said
    assert 'echobeam_listener_commitment_instances_total{result="committed"} 2.0' in said
    assert 'echobeam_listener_commitments{state="reported"} 1.0' in said


def test_each_failure_is_reported_with_its_reason(tmp_path: Path) -> None:
    with requester() as scu, provider(tmp_path, scu.peer) as scp:
        _whole, damaged, gone, _other = scp.keep(1, 2, 3, 4)
        damaged.write_bytes(b"rotten")
        gone.unlink()
        wanted = [*references(1, 2, 3, 9), *references(4, sop_class="1.2.840.10008.5.1.4.1.1.88.11")]
        assert ask(scp.port, wanted) == 0x0000
        report = scu.next_report()
    assert report.event_type == 2
    assert uids(report.information.ReferencedSOPSequence) == ["1.2.3.1.1"]
    reasons = {
        str(item.ReferencedSOPInstanceUID)[-1]: item.FailureReason
        for item in report.information.FailedSOPSequence
    }
    assert reasons == {"2": 0x0110, "3": 0x0112, "4": 0x0119, "9": 0x0112}


def test_a_requester_that_is_no_peer_is_refused(tmp_path: Path) -> None:
    with requester() as scu, provider(tmp_path, scu.peer) as scp:
        assert ask(scp.port, references(1), ae_title="STRANGER") == 0x0124
        assert scp.commitments.list() == []
        assert 'result="unknown_requester"} 1.0' in scp.metrics()


def without(*keywords: str) -> Dataset:
    ds = request_dataset(references(1))
    for keyword in keywords:
        delattr(ds, keyword)
    return ds


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"action": 2}, 0x0123),
        ({"instance": "1.2.3"}, 0x0112),
        ({"information": without("TransactionUID")}, 0x0115),
        ({"information": without("ReferencedSOPSequence")}, 0x0115),
        ({"information": request_dataset([])}, 0x0115),
        ({"information": request_dataset([Reference(US, "1.02.3")])}, 0x0115),
        ({"information": request_dataset(references(1), transaction="no uid")}, 0x0115),
        ({"information": request_dataset([Reference(US, "1.2"), Reference("1.3", "1.2")])}, 0x0115),
    ],
    ids=["action", "instance", "no transaction", "no sequence", "empty", "bad uid", "bad transaction", "two"],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # what the test sends on purpose
def test_a_malformed_request_is_refused(tmp_path: Path, options: dict[str, Any], status: int) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    with provider(tmp_path, peer, sends=False) as scp:
        assert ask(scp.port, references(1), **options) == status
        assert scp.commitments.list() == []
        assert 'result="malformed"} 1.0' in scp.metrics()


def test_a_request_for_too_many_instances_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAXIMUM_REFERENCES", 2)
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    with provider(tmp_path, peer, sends=False) as scp:
        assert ask(scp.port, references(1, 2)) == 0x0000
        assert ask(scp.port, references(1, 2, 3), transaction="1.8") == 0x0213


def test_success_is_not_answered_while_the_ledger_cannot_be_written(tmp_path: Path) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    with provider(tmp_path, peer, sends=False) as scp:
        scp.ledger.close()
        (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
        assert ask(scp.port, references(1)) == 0x0110


def test_a_repeated_request_is_reported_again_and_another_by_its_uid_is_not_committed(tmp_path: Path) -> None:
    with requester() as scu, provider(tmp_path, scu.peer) as scp:
        scp.keep(1, 2)
        for _ in range(2):
            assert ask(scp.port, references(1)) == 0x0000
            assert scu.next_report().event_type == 1
            wait_for("the end", lambda: scp.commitments.show("1.9").state is CommitmentState.REPORTED)
        assert ask(scp.port, references(1, 2)) == 0x0000
        report = scu.next_report()
        assert report.event_type == 2
        assert {item.FailureReason for item in report.information.FailedSOPSequence} == {0x0131}
        assert len(scp.commitments.list()) == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_report_is_tried_again_with_growing_pauses_across_restarts(tmp_path: Path) -> None:
    port = free_port()
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    with provider(tmp_path, peer, sends=False, commitment_retry_s=30) as scp:
        scp.keep(1)
        assert ask(scp.port, references(1)) == 0x0000
        for pause_s in (30, 60, 120):
            assert scp.sender.report_due() == 1
            assert scp.sender.report_due() == 0
            failed = scp.commitments.show("1.9")
            assert failed.next_attempt_at == scp.now[0] + pause_s
            assert "does not answer" in str(failed.last_error)
            scp.now[0] += pause_s
        now = scp.now[0]
    with provider(tmp_path, peer, sends=False) as scp, requester(port) as scu:
        scp.now[0] = now
        assert scp.sender.report_due() == 1
        assert scu.next_report().event_type == 1
        assert scp.commitments.show("1.9").state is CommitmentState.REPORTED


def test_a_report_that_is_refused_is_tried_again_and_given_up_some_day(tmp_path: Path) -> None:
    with (
        requester(answers=[0x0110] * 2) as scu,
        provider(tmp_path, scu.peer, sends=False, commitment_retry_s=30, commitment_give_up_s=50) as scp,
    ):
        scp.keep(1)
        assert ask(scp.port, references(1)) == 0x0000
        scp.sender.report_due()
        assert "0x0110" in str(scp.commitments.show("1.9").last_error)
        scp.now[0] += 30
        scp.sender.report_due()
        assert scp.commitments.show("1.9").state is CommitmentState.FAILED
        scp.commitments.retry("1.9", now=scp.now[0])
        scp.sender.report_due()
        assert [scu.next_report().event_type for _ in range(3)] == [1, 1, 1]
        assert scp.commitments.show("1.9").state is CommitmentState.REPORTED


def test_an_old_verdict_is_not_reported(tmp_path: Path) -> None:
    port = free_port()
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    with provider(tmp_path, peer, sends=False, commitment_retry_s=4000) as scp:
        [file] = scp.keep(1)
        assert ask(scp.port, references(1)) == 0x0000
        scp.sender.report_due()
        file.unlink()
        scp.now[0] += 4000
        with requester(port) as scu:
            scp.sender.report_due()
            assert scu.next_report().event_type == 2


def test_a_peer_that_is_no_longer_configured_is_told_in_the_ledger(tmp_path: Path) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    with provider(tmp_path, peer, sends=False) as scp:
        assert ask(scp.port, references(1)) == 0x0000
    with provider(tmp_path, sends=False) as scp:
        assert scp.sender.report_due() == 1
        assert "add it as [[listener.peers]]" in str(scp.commitments.show("1.9").last_error)


def test_many_requests_of_one_requester_go_over_one_association(tmp_path: Path) -> None:
    with requester() as scu, provider(tmp_path, scu.peer, sends=False) as scp:
        scp.keep(1)
        for number in range(5):
            assert ask(scp.port, references(1), transaction=f"1.9.{number}") == 0x0000
        assert scp.sender.report_due() == 5
        assert len({scu.next_report().information.TransactionUID for _ in range(5)}) == 5
        assert scp.commitments.counts_by_state()["reported"] == 5


def test_stopping_does_not_wait_for_a_requester_that_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=silent.getsockname()[1])
        reached = threading.Event()
        with provider(tmp_path, peer, sends=False, peer_timeout_s=60) as scp:
            assert ask(scp.port, references(1)) == 0x0000
            with scp.sender:
                connection, _ = silent.accept()
                reached.set()
            connection.close()
            assert not scp.sender._thread.is_alive()
            assert scp.commitments.show("1.9").attempts == 0


def test_what_was_answered_with_success_is_reported_after_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    port = free_port()
    (root / "echobeam.toml").write_text(
        "[listener]\nminimum_free_bytes = 0\ncommitment_retry_s = 1\n"
        f'[[listener.peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
    )
    with listening(root) as (running, ports, _log):
        assoc = associate(ports["dicom_port"])
        assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
        assoc.release()
        assert ask(ports["dicom_port"], references(1)) == 0x0000
        running.kill()
        running.wait(DEADLINE_S)
    (root / "run" / "listener.json").unlink()
    with requester(port) as scu, listening(root):
        ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
        CommitmentLedger(ledger).retry("1.9", now=0)  # or the lease of the killed one is waited for
        ledger.close()
        report = scu.next_report()
    assert report.event_type == 1
    assert uids(report.information.ReferencedSOPSequence) == ["1.2.3.1.1"]


def test_an_error_that_nobody_expects_does_not_end_the_reporting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [KeyError("a bug")]

    def associated(self: Any, *arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(self, *arguments, **options)

    real = Caller.associated
    monkeypatch.setattr(Caller, "associated", associated)
    with requester() as scu, provider(tmp_path, scu.peer) as scp:
        scp.keep(1)
        assert ask(scp.port, references(1)) == 0x0000
        wait_for("the error", lambda: not errors)
        scp.now[0] += 300  # its lease
        assert scu.next_report().event_type == 1
