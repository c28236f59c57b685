"""Completion by the archive's word, over real associations; the archive answers as archives do."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydicom.dataset import Dataset

from dicom_listener.errors import PeerRefusedError, PeerUnreachableError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.peers.evidence import CompletionEvidence
from dicom_listener.peers.evidence_ledger import EvidenceLedger
from dicom_listener.peers.find import StudyQuery, find_contexts, find_studies
from dicom_listener.peers.metrics import EvidenceMetrics
from dicom_listener.peers.outgoing import Caller
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings, Peer
from tests.integration.archive_peers import Archive, archive, study_answer
from tests.integration.listener_peers import associate, store
from tests.programs import wait_for
from tests.unit.dicom_listener.instances import make_dataset, make_received

RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


@contextmanager
def asking(
    root: Path, peer: Peer, **settings: Any
) -> Iterator[tuple[CompletionEvidence, Ledger, CollectorRegistry]]:
    """Give what asks, not started; it is 1,000 seconds after the epoch."""
    configured = ListenerSettings(
        root=root, peers=(peer,), query_peer=peer.name, housekeeping_s=0.01, **settings
    )
    ledger = Ledger(configured.ledger_url)
    registry = CollectorRegistry()
    evidence = CompletionEvidence(
        EvidenceLedger(ledger), configured, EvidenceMetrics(registry), clock=lambda: 1000.0
    )
    try:
        yield evidence, ledger, registry
    finally:
        ledger.close()


def receive(ledger: Ledger, *numbers: int, study: str = "1.2.3") -> None:
    for number in numbers:
        ledger.record_instance(make_received(study, number), association="a", hold_until=0, now=980)


def test_as_many_as_the_archive_has_complete_the_study_long_before_the_quiet_period(tmp_path: Path) -> None:
    with archive() as pacs:
        pacs.counts["1.2.3"] = 2
        settings = ListenerSettings(
            root=tmp_path,
            port=0,
            http_port=0,
            minimum_free_bytes=0,
            peers=(pacs.peer,),
            query_peer="archive",
            query_after_s=0.05,
            quiet_period_s=3600,
            housekeeping_s=0.02,
        )
        with Listener(settings) as listener:
            ledger = listener.reception.ledger
            assoc = associate(listener.dicom_port)
            assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
            assoc.release()
            wait_for("the archive's word", lambda: ledger.show_study("1.2.3").expected_instances == 2)
            assert ledger.show_study("1.2.3").state is StudyState.RECEIVING
            assoc = associate(listener.dicom_port)
            assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0
            assoc.release()
            wait_for("completion", lambda: ledger.show_study("1.2.3").state is StudyState.COMPLETE)
            because = ledger.show_study("1.2.3").completed_because
    assert because == "the archive has 2 instances of it, and all of them are here"


def test_every_quiet_study_is_asked_about_over_one_association(tmp_path: Path) -> None:
    with archive() as pacs, asking(tmp_path, pacs.peer) as (evidence, ledger, registry):
        pacs.counts = {"1.2.3": 1, "1.2.4": 5, "1.2.5": None}
        for study in (*pacs.counts, "1.2.6"):  # the last is unknown to it
            receive(ledger, 1, study=study)
        assert evidence.ask_due() == 4
        assert evidence.ask_due() == 0
        assert [ledger.show_study(study).expected_instances for study in (*pacs.counts, "1.2.6")] == [
            1,
            5,
            None,
            None,
        ]
        said = generate_latest(registry).decode()
        assert 'queries_total{result="counted"} 2.0' in said
        assert 'queries_total{result="not_counted"} 2.0' in said
        assert {str(one.QueryRetrieveLevel) for one in pacs.questions} == {"STUDY"}
        assert ledger.complete_studies(RULE, now=1000) == 1  # 1.2.3; the others wait
        assert ledger.complete_studies(RULE, now=1040) == 2  # 1.2.5 and 1.2.6 were quiet


def refuse(_identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xA700, None


def answer_with_others(_identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
    """Ignore the question, as an archive may that does not know the key."""
    yield 0xFF01, study_answer("1.2.9", 7)
    yield 0xFF01, study_answer("1.2.3", 3)
    yield 0xFF01, study_answer("1.2.3", 3)


def nameless() -> Dataset:
    answer = Dataset()
    answer.PatientID = "7"
    return answer


def answer_nonsense(_identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xFF00, nameless()
    yield 0xFF00, study_answer("1.2.3", 0)
    raise ValueError("the archive has a bug")


@pytest.mark.parametrize("answers", [refuse, answer_nonsense])
def test_an_archive_that_refuses_leaves_the_study_to_the_quiet_period(tmp_path: Path, answers: Any) -> None:
    with archive() as pacs, asking(tmp_path, pacs.peer) as (evidence, ledger, registry):
        pacs.answers = answers
        receive(ledger, 1)
        assert evidence.ask_due() == 1
        assert ledger.show_study("1.2.3").expected_instances is None
        assert 'queries_total{result="failed"} 1.0' in generate_latest(registry).decode()
        assert evidence.ask_due() == 0  # it pauses
        assert ledger.complete_studies(RULE, now=1040) == 1


def test_an_answer_about_another_study_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    with archive() as pacs, asking(tmp_path, pacs.peer) as (evidence, ledger, _registry):
        pacs.answers = answer_with_others
        receive(ledger, 1)
        evidence.ask_due()
        assert ledger.show_study("1.2.3").expected_instances == 3


def test_an_archive_that_is_not_there_is_asked_again_later(tmp_path: Path) -> None:
    gone = Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=1)
    with asking(tmp_path, gone) as (evidence, ledger, registry):
        receive(ledger, 1)
        assert evidence.ask_due() == 1
        assert 'queries_total{result="failed"} 1.0' in generate_latest(registry).decode()
        assert ledger.complete_studies(RULE, now=1040) == 1


def test_stopping_does_not_wait_for_an_archive_that_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=silent.getsockname()[1])
        with asking(tmp_path, peer, peer_timeout_s=60) as (evidence, ledger, _registry):
            receive(ledger, 1)
            began_at = monotonic()
            with evidence:
                connection, _ = silent.accept()
            assert monotonic() - began_at < 30
            assert not evidence._thread.is_alive()
            connection.close()


def test_an_error_that_nobody_expects_does_not_end_the_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [KeyError("a bug")]
    with archive() as pacs, asking(tmp_path, pacs.peer) as (evidence, ledger, _registry):
        pacs.counts["1.2.3"] = 1
        real = evidence.ask_due

        def ask_due() -> int:
            if errors:
                raise errors.pop()
            return real()

        monkeypatch.setattr(evidence, "ask_due", ask_due)
        receive(ledger, 1)
        with evidence:
            wait_for("the answer", lambda: ledger.show_study("1.2.3").expected_instances == 1)


def test_an_association_that_ended_is_a_refusal() -> None:
    with archive() as pacs, Caller("ECHOBEAM", 10).associated(pacs.peer, find_contexts()) as assoc:
        assoc.release()
        with pytest.raises(PeerRefusedError, match="ended before"):
            list(find_studies(assoc, StudyQuery()))


def test_without_a_query_peer_nobody_is_asked(tmp_path: Path) -> None:
    settings = ListenerSettings(root=tmp_path)
    ledger = Ledger(settings.ledger_url)
    with CompletionEvidence(
        EvidenceLedger(ledger), settings, EvidenceMetrics(CollectorRegistry())
    ) as evidence:
        assert not evidence._thread.is_alive()
    ledger.close()


# ---------------------------------------------------------------------- the question itself


def found(pacs: Archive, query: StudyQuery | None = None) -> list[tuple[str, int | None]]:
    with Caller("ECHOBEAM", 10).associated(pacs.peer, find_contexts()) as assoc:
        studies = find_studies(assoc, query or StudyQuery())
        return [(study.study_instance_uid, study.instances) for study in studies]


def test_studies_come_once_with_their_counts() -> None:
    with archive() as pacs:
        pacs.answers = answer_with_others
        assert found(pacs) == [("1.2.9", 7), ("1.2.3", 3)]


def test_answers_that_name_no_study_are_passed_over() -> None:
    def answers(_identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xFF00, nameless()
        yield 0xFF00, study_answer("1.2.3", -1)

    with archive() as pacs:
        pacs.answers = answers
        assert found(pacs) == [("1.2.3", None)]


def test_a_failure_status_is_an_error_that_names_it() -> None:
    with archive() as pacs:
        pacs.answers = refuse
        with pytest.raises(PeerRefusedError, match="0xA700"):
            found(pacs)


def test_an_archive_that_takes_no_question_says_what_to_do() -> None:
    with archive(finds=False) as pacs, pytest.raises(PeerUnreachableError, match="accepted none"):
        found(pacs)


def test_a_peer_over_tls_needs_our_certificate() -> None:
    peer = Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=1, tls=True)
    with (
        pytest.raises(PeerUnreachableError, match="no TLS is configured"),
        Caller("ECHOBEAM", 10).associated(peer, find_contexts()),
    ):
        pass


def test_a_rejected_association_says_what_to_do() -> None:
    with archive() as pacs:
        wrong = pacs.peer.model_copy(update={"ae_title": "NOBODY"})
        with (
            pytest.raises(PeerUnreachableError, match=r"rejected our association \(.*AE title"),
            Caller("ECHOBEAM", 10).associated(wrong, find_contexts()),
        ):
            pass
