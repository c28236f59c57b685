import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_jobs.command import main
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import Verdict
from dicom_listener.commitment.statuses import FailureReason
from dicom_listener.ledger import Ledger
from tests.unit.dicom_listener.commitments import references

TRANSACTION = "1.2.826.0.1.3680043.8.498." + "7" * 38


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    commitments = CommitmentLedger(ledger)
    first, second = references(1, 2)
    commitments.request(transaction_uid=TRANSACTION, requester="PACS", references=[first, second], now=100)
    [commitment] = commitments.take_due(lease_s=60, limit=1, now=100)
    reason = FailureReason.NO_SUCH_OBJECT_INSTANCE
    verdicts = [Verdict(first, None, "0" * 64), Verdict(second, reason, None)]
    commitments.enter_verdicts(commitment.commitment_id, verdicts, now=100)
    commitments.note_failure(commitment, "no answer", next_attempt_at=None)
    commitments.request(transaction_uid="1.8", requester="OTHER", references=[first], now=50)
    ledger.close()
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["commitments", *arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_requests_are_listed_as_a_table_and_as_json(root: Path) -> None:
    code, table, _ = run("list", "--root", str(root))
    assert code == 0
    assert table.index("failed") < table.index("pending")  # the newest first
    code, text, _ = run("list", "--root", str(root), "--json")
    assert [(one["requester"], one["instances"], one["committed"]) for one in json.loads(text)] == [
        ("PACS", 2, 1),
        ("OTHER", 1, 0),
    ]
    _, text, _ = run("list", "--root", str(root), "--state", "pending", "--json")
    assert [one["transaction_uid"] for one in json.loads(text)] == ["1.8"]


def test_one_is_shown_with_what_was_not_committed_and_why(root: Path) -> None:
    code, table, _ = run("show", TRANSACTION, "--root", str(root))
    assert code == 0
    assert TRANSACTION in table
    assert "no answer" in table
    assert "1.2.3.1.2: no_such_object_instance" in table
    _, text, _ = run("show", TRANSACTION, "--root", str(root), "--json")
    assert json.loads(text)["failures"] == [
        {"sop_instance_uid": "1.2.3.1.2", "failure_reason": "no_such_object_instance"}
    ]


def test_retry_makes_it_due_again(root: Path) -> None:
    code, said, _ = run("retry", TRANSACTION, "--root", str(root))
    assert code == 0
    assert said.endswith("of PACS is pending again\n")
    code, text, _ = run("retry", TRANSACTION, "--root", str(root), "--json")
    assert (json.loads(text)["state"], json.loads(text)["attempts"]) == ("pending", 0)


@pytest.mark.parametrize("verb", ["show", "retry"])
def test_an_unknown_request_is_not_found(root: Path, verb: str) -> None:
    code, _, said = run(verb, "1.2.9", "--root", str(root))
    assert code == 3
    assert "commitments list" in said
