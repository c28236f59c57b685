"""What may be deleted from the spool, what may not, and what happens when it comes again."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dicom_listener.ledger import FileState, Ledger, RecordOutcome, StudyState
from dicom_listener.ledger.arrivals import SpoolFiles
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.database.schema import commitment_instances, commitments
from dicom_listener.ledger.pruning import PruneRule
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.metrics import KeepingMetrics
from dicom_listener.spool.reconcile import reconcile
from dicom_listener.spool.retention import DAY_S, PrunedStudy, PruneReport, RetentionRule, prune, pruning
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import finish_studies, receive_instance, spool_instance

NOW = 100 * DAY_S
A_MONTH = RetentionRule(older_than_s=30 * DAY_S)


def done(spool: Spool, ledger: Ledger, study: str = "1.2.3", *, at: float, instances: int = 2) -> None:
    for number in range(1, instances + 1):
        receive_instance(spool, ledger, study=study, number=number, now=at)
    finish_studies(ledger, now=at + 1)


def commit(
    ledger: Ledger, *, sop_instance_uid: str, verified_at: float | None, reported_at: float | None = None
) -> None:
    """Enter a request of storage commitment for an instance as it is at work now."""
    [study] = [
        study
        for study in ledger.list_studies()
        if sop_instance_uid.startswith(f"{study.study_instance_uid}.")
    ]
    [content] = [
        content
        for content in ledger.list_contents(study.study_instance_uid)
        if content.sop_instance_uid == sop_instance_uid and content.is_at_work
    ]
    name = f"c{verified_at}{reported_at}"
    with ledger.writing() as connection:
        connection.execute(
            commitments.insert().values(
                commitment_id=name,
                transaction_uid="1.9",
                requester="PACS",
                references_sha256="",
                is_duplicate=False,
                state="pending" if reported_at is None else "reported",
                requested_at=0,
                next_attempt_at=0,
                attempts=0,
                reported_at=reported_at,
            )
        )
        connection.execute(
            commitment_instances.insert().values(
                commitment_id=name,
                sop_instance_uid=sop_instance_uid,
                sop_class_uid="1.2",
                verified_at=verified_at,
                sha256=None if verified_at is None else content.sha256,
            )
        )


def must_not_happen(study: PrunedStudy) -> None:
    pytest.fail(f"{study.study_instance_uid} was pruned")


def files(spool: Spool) -> int:
    return len(list(spool.root.glob("??/*.dcm")))


def summary(report: PruneReport) -> list[tuple[str, int]]:
    return [(study.study_instance_uid, study.files) for study in report.studies]


# ---------------------------------------------------------------------- by age


def test_only_what_was_done_long_ago_goes(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, "1.2.1", at=10 * DAY_S)
    done(spool, ledger, "1.2.2", at=80 * DAY_S)
    receive_instance(spool, ledger, study="1.2.3", now=10 * DAY_S)  # never processed
    before = ledger.spool_bytes()
    report = prune(spool.root, ledger, A_MONTH, now=NOW)
    assert summary(report) == [("1.2.1", 2)]
    assert files(spool) == 3
    assert report.spool_bytes == ledger.spool_bytes() == before - report.size_bytes
    study = ledger.show_study("1.2.1")
    assert (study.state, study.instances, study.pruned_files) == (StudyState.DONE, 2, 2)
    assert {content.file_state_at for content in ledger.list_contents("1.2.1")} == {NOW}
    assert summary(prune(spool.root, ledger, A_MONTH, now=NOW)) == []


def test_a_dry_run_tells_the_same_and_deletes_nothing(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, "1.2.1", at=10 * DAY_S)
    done(spool, ledger, "1.2.2", at=80 * DAY_S)
    rule = RetentionRule(older_than_s=30 * DAY_S, down_to_bytes=0)
    promised = prune(spool.root, ledger, rule, now=NOW, dry_run=True)
    assert files(spool) == 4
    assert ledger.show_study("1.2.1").pruned_files == 0
    assert promised == prune(spool.root, ledger, rule, now=NOW)
    assert summary(promised) == [("1.2.1", 2), ("1.2.2", 2)]
    assert files(spool) == 0


def test_a_study_that_goes_round_again_keeps_its_files(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S)
    receive_instance(spool, ledger, number=9, now=11 * DAY_S)
    assert summary(prune(spool.root, ledger, A_MONTH, now=NOW)) == []
    assert files(spool) == 3


def test_replaced_contents_go_with_their_study(spool: Spool, ledger: Ledger) -> None:
    receive_instance(spool, ledger, content=0, now=9 * DAY_S)
    receive_instance(spool, ledger, content=1, now=10 * DAY_S)
    finish_studies(ledger, now=10 * DAY_S)
    assert summary(prune(spool.root, ledger, A_MONTH, now=NOW)) == [("1.2.3", 2)]
    assert files(spool) == 0


# ---------------------------------------------------------------------- by size


def test_what_was_done_first_goes_until_the_spool_is_small_enough(spool: Spool, ledger: Ledger) -> None:
    for number, at in ((1, 50), (2, 30), (3, 70)):
        done(spool, ledger, f"1.2.{number}", at=at * DAY_S)
    rule = RetentionRule(down_to_bytes=ledger.spool_bytes() // 2)
    report = prune(spool.root, ledger, rule, now=NOW)
    assert [study.study_instance_uid for study in report.studies] == ["1.2.2", "1.2.1"]
    assert 0 < report.spool_bytes <= ledger.spool_bytes() == report.spool_bytes
    assert summary(prune(spool.root, ledger, rule, now=NOW)) == []


def test_a_spool_of_more_studies_than_a_page_is_pruned_to_its_end(
    spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_listener.ledger.pruning._PAGE", 2)
    for number in range(5):
        done(spool, ledger, f"1.2.{number}", at=10 * DAY_S, instances=1)
    assert len(prune(spool.root, ledger, RetentionRule(down_to_bytes=0), now=NOW, dry_run=True).studies) == 5
    assert len(prune(spool.root, ledger, RetentionRule(down_to_bytes=0), now=NOW).studies) == 5


# ---------------------------------------------------------------------- storage commitment


def test_a_promised_file_is_kept_for_ever_or_as_long_as_is_set(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S)
    commit(ledger, sop_instance_uid="1.2.3.1.1", verified_at=20 * DAY_S, reported_at=20 * DAY_S)
    report = prune(spool.root, ledger, RetentionRule(older_than_s=0, down_to_bytes=0), now=NOW)
    assert (summary(report), report.kept_for_commitment) == ([("1.2.3", 1)], 1)
    for keep_days, gone in ((80.1, 0), (79.9, 1)):
        rule = RetentionRule(down_to_bytes=0, commitment_keep_s=keep_days * DAY_S)
        assert prune(spool.root, ledger, rule, now=NOW).files == gone


def test_a_file_that_a_commitment_is_asked_for_is_kept_until_it_is_answered(
    spool: Spool, ledger: Ledger
) -> None:
    done(spool, ledger, at=10 * DAY_S, instances=1)
    commit(ledger, sop_instance_uid="1.2.3.1.1", verified_at=None)
    rule = RetentionRule(down_to_bytes=0, commitment_keep_s=0)
    assert prune(spool.root, ledger, rule, now=NOW).kept_for_commitment == 1
    assert files(spool) == 1


def test_where_a_commitment_is_required_only_reported_ones_go(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S, instances=3)
    commit(ledger, sop_instance_uid="1.2.3.1.1", verified_at=20 * DAY_S)
    commit(ledger, sop_instance_uid="1.2.3.1.2", verified_at=20 * DAY_S, reported_at=21 * DAY_S)
    rule = RetentionRule(down_to_bytes=0, requires_commitment=True, commitment_keep_s=0)
    report = prune(spool.root, ledger, rule, now=NOW)
    assert (report.files, report.kept_for_commitment) == (1, 2)
    pruned = [content.sop_instance_uid for content in ledger.list_contents("1.2.3") if content.file_state]
    assert pruned == ["1.2.3.1.2"]


def test_a_promise_for_a_replaced_content_does_not_keep_its_successor(spool: Spool, ledger: Ledger) -> None:
    receive_instance(spool, ledger, content=0, now=9 * DAY_S)
    commit(ledger, sop_instance_uid="1.2.3.1.1", verified_at=9 * DAY_S, reported_at=9 * DAY_S)
    promised = ledger.list_contents("1.2.3")[0].sha256
    receive_instance(spool, ledger, content=1, now=10 * DAY_S)
    finish_studies(ledger, now=10 * DAY_S)
    assert prune(spool.root, ledger, RetentionRule(down_to_bytes=0), now=NOW).files == 1
    [left] = [content for content in ledger.list_contents("1.2.3") if content.file_state is None]
    assert (left.sha256, left.is_at_work) == (promised, False)


# ---------------------------------------------------------------------- what comes again


def test_a_pruned_instance_that_is_sent_again_is_kept_again_and_not_processed_again(
    spool: Spool, ledger: Ledger
) -> None:
    done(spool, ledger, at=10 * DAY_S)
    prune(spool.root, ledger, A_MONTH, now=NOW)
    received = spool_instance(spool, number=1)
    outcome = ledger.record_instance(received, association="a", hold_until=NOW, now=NOW)
    assert outcome is RecordOutcome.RESTORED
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision, study.pruned_files) == (StudyState.DONE, 1, 1)
    assert summary(prune(spool.root, ledger, A_MONTH, now=NOW + 1)) == []
    assert files(spool) == 1


def test_something_new_in_a_pruned_study_waits_for_all_of_it(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S)
    prune(spool.root, ledger, A_MONTH, now=NOW)
    rule = CompletionRule(0, 3600)
    receive_instance(spool, ledger, number=3, now=NOW)
    ledger.complete_studies(rule, now=NOW)
    assert ledger.claim_studies(worker="w", limit=9, lease_s=60, max_attempts=3, now=NOW) == []
    study = ledger.show_study("1.2.3")
    assert (study.state, study.done_revision) == (StudyState.FAILED, 1)
    for number in (1, 2):
        receive_instance(spool, ledger, number=number, now=NOW + 1)
    ledger.complete_studies(rule, now=NOW + 2)
    [claimed] = ledger.claim_studies(worker="w", limit=9, lease_s=60, max_attempts=3, now=NOW + 2)
    assert len(claimed.instances) == 3


# ---------------------------------------------------------------------- at any moment

ANYTHING = PruneRule(received_before=NOW)


def test_killed_between_ledger_and_file_nothing_is_thought_lost(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S)
    ledger.mark_pruned("1.2.3", ANYTHING, now=NOW)
    assert reconcile(spool, ledger, now=NOW).restored == 2
    study = ledger.show_study("1.2.3")
    assert (study.pruned_files, study.state, study.revision) == (0, StudyState.DONE, 1)


def test_what_comes_again_after_the_mark_keeps_its_file(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S)
    marked = ledger.mark_pruned("1.2.3", ANYTHING, now=NOW).chosen
    receive_instance(spool, ledger, number=1, now=NOW)
    assert ledger.delete_pruned(marked, ANYTHING, SpoolFiles(spool.root)) == 1
    assert [content.file_state for content in ledger.list_contents("1.2.3")] == [None, FileState.PRUNED]
    assert files(spool) == 1


def test_what_a_commitment_is_asked_for_after_the_mark_keeps_its_file(spool: Spool, ledger: Ledger) -> None:
    done(spool, ledger, at=10 * DAY_S, instances=1)
    marked = ledger.mark_pruned("1.2.3", ANYTHING, now=NOW).chosen
    commit(ledger, sop_instance_uid="1.2.3.1.1", verified_at=None)
    assert ledger.delete_pruned(marked, ANYTHING, SpoolFiles(spool.root)) == 0
    assert (ledger.show_study("1.2.3").pruned_files, files(spool)) == (0, 1)


def test_a_study_that_goes_round_again_after_it_was_listed_is_left_alone(
    spool: Spool, ledger: Ledger
) -> None:
    done(spool, ledger, at=10 * DAY_S)
    receive_instance(spool, ledger, number=9, now=11 * DAY_S)
    assert ledger.mark_pruned("1.2.3", ANYTHING, now=NOW).chosen == ()
    assert ledger.mark_pruned("1.2.9", ANYTHING, now=NOW).chosen == ()


# ---------------------------------------------------------------------- by itself


def test_nothing_is_deleted_unless_it_is_asked_for(spool: Spool, ledger: Ledger, tmp_path: Path) -> None:
    done(spool, ledger, at=0)
    rule = RetentionRule.of(ListenerSettings(root=tmp_path))
    assert rule == RetentionRule()
    pruning(spool.root, ledger, rule, observe=must_not_happen)(NOW)
    assert files(spool) == 2


def test_the_configuration_is_the_rule(tmp_path: Path) -> None:
    settings = ListenerSettings(
        root=tmp_path,
        prune_after_days=30,
        prune_above_bytes=5,
        retention_requires_commitment=True,
        commitment_keep_days=2,
    )
    assert RetentionRule.of(settings) == RetentionRule(30 * DAY_S, 5, True, 2 * DAY_S)


def test_the_chore_takes_a_few_studies_at_a_time_and_starts_again_after_an_hour(
    spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_listener.spool.retention._STUDIES_AT_ONCE", 2)
    for number in range(3):
        done(spool, ledger, f"1.2.{number}", at=DAY_S, instances=1)
    registry = CollectorRegistry()
    chore = pruning(spool.root, ledger, A_MONTH, observe=KeepingMetrics(registry).observe_pruned)
    with capture_logs() as logs:
        chore(NOW)
        assert files(spool) == 1
        chore(NOW + 1)
        assert files(spool) == 0
    assert [(line["event"], line["studies"], line["files"]) for line in logs] == [("spool_pruned", 3, 3)]
    assert registry.get_sample_value("echobeam_listener_pruned_files_total") == 3
    assert registry.get_sample_value("echobeam_listener_pruned_bytes_total") == logs[0]["pruned_bytes"]
    done(spool, ledger, at=DAY_S, instances=1)
    chore(NOW + 3599)
    assert files(spool) == 1
    chore(NOW + 3600)
    assert files(spool) == 0


def test_a_file_that_cannot_be_deleted_is_told_and_the_hour_waited_for(
    spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(spool, ledger, at=DAY_S)

    def refuse(_files: SpoolFiles, _path: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(SpoolFiles, "delete", refuse)
    chore = pruning(spool.root, ledger, A_MONTH, observe=must_not_happen)
    with capture_logs() as logs:
        chore(NOW)
        chore(NOW + 1)
    assert [(line["event"], line["error"]) for line in logs] == [
        ("spool_not_pruned", "Operation not permitted")
    ]
    monkeypatch.undo()
    assert reconcile(spool, ledger, now=NOW).restored == 2
