import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_jobs.command import main
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from tests.unit.dicom_listener.instances import PLANTED_ID, make_received

STUDY = "1.2.826.0.1.3680043.8.498." + "7" * 38  # as long as a UID may be


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    now = time.time()
    for content in "ab":
        received = make_received("1.2.3", content=content, patient_id=PLANTED_ID)
        ledger.record_instance(received, association="a", hold_until=0, now=now)
    ledger.record_instance(make_received(STUDY), association="a", hold_until=0, now=now + 1)
    ledger.complete_studies(CompletionRule(0, 3600), now=now + 1)
    claimed = ledger.claim_studies(worker="w", limit=1, lease_s=9, max_attempts=1, now=now + 2)
    ledger.release_claims([claimed[0].claim_token], error="the model broke", max_attempts=1, now=now + 3)
    ledger.close()
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_studies_are_listed_as_a_table_and_as_json(root: Path) -> None:
    code, table, _ = run("studies", "list", "--root", str(root))
    assert code == 0
    assert STUDY in table
    assert "failed" in table
    code, text, _ = run("studies", "list", "--root", str(root), "--json")
    assert code == 0
    assert [(study["study_instance_uid"], study["state"]) for study in json.loads(text)] == [
        (STUDY, "complete"),
        ("1.2.3", "failed"),
    ]


def test_the_list_can_be_narrowed(root: Path) -> None:
    _, text, _ = run("studies", "list", "--root", str(root), "--state", "failed", "--json")
    assert [study["study_instance_uid"] for study in json.loads(text)] == ["1.2.3"]
    _, text, _ = run("studies", "list", "--root", str(root), "--limit", "1", "--json")
    assert [study["study_instance_uid"] for study in json.loads(text)] == [STUDY]


def test_show_says_why_it_is_complete_what_failed_and_what_conflicts(root: Path) -> None:
    code, table, _ = run("studies", "show", "1.2.3", "--root", str(root))
    assert code == 0
    assert "nothing came for 0 s" in table
    assert "the model broke" in table
    assert "changed content" in table
    code, text, _ = run("studies", "show", "1.2.3", "--root", str(root), "--json")
    study = json.loads(text)
    assert code == 0
    assert (study["state"], study["attempts"], study["revision"]) == ("failed", 1, 2)
    assert study["conflicts"][0]["kind"] == "changed_content"
    assert PLANTED_ID not in table + text


def test_the_list_counts_all_studies_and_notes_what_is_odd(root: Path) -> None:
    _, table, _ = run("studies", "list", "--root", str(root), "--limit", "1")
    assert "1 of 2 studies: 1 complete, 1 failed" in table
    _, table, _ = run("studies", "list", "--root", str(root), "--state", "failed")
    assert "1 conflicts" in table


def test_show_tells_both_contents_of_a_conflict_and_which_is_at_work(root: Path) -> None:
    at_work, replaced = (make_received("1.2.3", content=content).spooled for content in "ba")
    _, table, _ = run("studies", "show", "1.2.3", "--root", str(root))
    assert at_work.sha256 in table
    assert replaced.sha256 in table
    assert f"came as {at_work.sha256[:12]}, 100 bytes, and was replaced" in " ".join(table.split())
    _, text, _ = run("studies", "show", "1.2.3", "--root", str(root), "--json")
    contents = json.loads(text)["contents"]
    assert [(content["is_at_work"], content["sha256"]) for content in contents] == [
        (True, at_work.sha256),
        (False, replaced.sha256),
    ]


def test_show_lists_every_file_where_asked(root: Path) -> None:
    digest = make_received(STUDY).spooled.sha256
    assert digest not in run("studies", "show", STUDY, "--root", str(root))[1]
    assert digest in run("studies", "show", STUDY, "--root", str(root), "--files")[1]


def test_retry_puts_a_failed_study_back(root: Path) -> None:
    code, said, _ = run("studies", "retry", "1.2.3", "--root", str(root))
    assert (code, said) == (0, "1.2.3 is complete again\n")
    code, _, said = run("studies", "retry", "1.2.3", "--root", str(root))
    assert code == 1
    assert "Only a failed study" in said


def test_retry_shows_the_study_as_json(root: Path) -> None:
    _, text, _ = run("studies", "retry", "1.2.3", "--root", str(root), "--json")
    assert json.loads(text)["state"] == "complete"


@pytest.mark.parametrize("verb", [("show",), ("retry",), ("verify", "--study")])
def test_an_unknown_study_is_not_found(root: Path, verb: tuple[str, ...]) -> None:
    code, _, said = run("studies", *verb, "1.2.9", "--root", str(root))
    assert code == 3
    assert "no study" in said


def test_a_root_without_a_ledger_is_told_and_left_alone(tmp_path: Path) -> None:
    code, _, said = run("studies", "list", "--root", str(tmp_path / "none"))
    assert code == 1
    assert "no ledger yet" in said
    assert not (tmp_path / "none").exists()


def test_a_wrong_configuration_is_refused_with_all_faults(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text('[listener]\nport = "x"\nae_titel = "Y"\n')
    code, _, said = run("studies", "list", "--root", str(tmp_path))
    assert code == 2
    assert "port" in said
    assert "ae_titel" in said
