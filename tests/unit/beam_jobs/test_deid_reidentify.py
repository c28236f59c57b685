"""Who holds key file and ledger finds the patient again, and leaves a line; nobody else does."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from beam_jobs.command import main
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.errors import AuditError
from beam_jobs.reidentify import AUDIT_FILE, Reidentified, reidentify, write_audit_line
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.erasure import StudyIdentity
from tests.studies import MARK, clip, receive, uid

KEYS = Pseudonymizer(bytes(range(32)))
IDENTITIES = [
    StudyIdentity("1.2.1", "DOE"),
    StudyIdentity("1.2.2", "DOE"),
    StudyIdentity("1.2.3", ""),
    StudyIdentity("1.2.4", "ROE"),
]


def found(*keys: str) -> list[tuple[str, str, str]]:
    return [(one.kind, one.study_instance_uid, one.patient_id) for one in reidentify(keys, IDENTITIES, KEYS)]


def test_a_subject_s_key_leads_to_all_its_studies() -> None:
    assert found(KEYS.subject_key("DOE", "")) == [("subject", "1.2.1", "DOE"), ("subject", "1.2.2", "DOE")]
    assert found(KEYS.subject_key("", "1.2.3")) == [("subject", "1.2.3", "")]


def test_a_study_is_found_by_its_key_and_by_its_uid_in_the_archive() -> None:
    assert found(KEYS.study_key("1.2.4")) == [("study", "1.2.4", "ROE")]
    assert found(KEYS.uid("1.2.4"), KEYS.study_key("1.2.1")) == [
        ("study", "1.2.1", "DOE"),
        ("study UID", "1.2.4", "ROE"),
    ]


def test_a_key_of_another_secret_is_not_found() -> None:
    assert found(Pseudonymizer(bytes(32)).study_key("1.2.4"), KEYS.study_key("1.2.5")) == []


def test_what_is_found_has_no_patient_in_its_representation() -> None:
    assert "DOE" not in repr(Reidentified("a" * 32, "study", "1.2.1", "DOE"))


def note(path: Path, *, now: float = 0.0) -> None:
    write_audit_line(path, keys=["a" * 32], found=1, key_id=KEYS.key_id, user="jane", now=now)


def test_each_use_adds_a_line_that_only_the_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / AUDIT_FILE
    note(path)
    note(path, now=60.0)
    assert path.stat().st_mode & 0o777 == 0o600
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "time": "1970-01-01T00:00:00+00:00",
        "user": "jane",
        "key_id": KEYS.key_id,
        "keys": ["a" * 32],
        "found": 1,
    }
    assert second["time"] == "1970-01-01T00:01:00+00:00"


def test_a_line_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="nothing is shown"):
        note(tmp_path / "none" / AUDIT_FILE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    receive(ledger, tmp_path / "spool", [clip(1, 1), clip(2, 1)], now=1000.0)
    ledger.close()
    Pseudonymizer.from_key_file(tmp_path / "secret.key")
    return tmp_path


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["reidentify", "--root", str(root), *arguments])


def pseudonymizer(root: Path) -> Pseudonymizer:
    return Pseudonymizer.from_existing_key_file(root / "secret.key")


def audited(root: Path) -> list[dict[str, object]]:
    path = root / AUDIT_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("as_json", [True, False])
def test_the_verb_prints_study_and_patient(root: Path, as_json: bool) -> None:
    key = pseudonymizer(root).study_key(uid(1))
    result = run(root, key, *["--json"] * as_json)
    assert result.exit_code == 0
    assert uid(1) in result.stdout
    assert f"{MARK}-1" in result.stdout
    assert uid(2) not in result.stdout
    assert MARK not in result.stderr
    assert [(line["keys"], line["found"]) for line in audited(root)] == [([key], 1)]
    assert MARK not in (root / AUDIT_FILE).read_text()
    if as_json:
        assert json.loads(result.stdout)[0]["kind"] == "study"


def test_a_key_that_is_not_found_is_named_and_ends_in_3(root: Path) -> None:
    known, unknown = pseudonymizer(root).study_key(uid(2)), "0" * 32
    result = run(root, known, unknown, "--json")
    assert result.exit_code == 3
    assert unknown in result.stderr
    assert [one["key"] for one in json.loads(result.stdout)] == [known]
    assert audited(root)[0]["found"] == 1


def test_without_the_key_file_nothing_is_told_and_no_key_is_made(root: Path) -> None:
    key = pseudonymizer(root).study_key(uid(1))
    (root / "secret.key").unlink()
    result = run(root, key)
    assert result.exit_code == 2
    assert "must exist" in result.stderr
    assert not (root / "secret.key").exists()
    assert audited(root) == []


def test_without_the_ledger_nothing_is_told(root: Path) -> None:
    (root / "ledger.sqlite").unlink()
    result = run(root, "0" * 32)
    assert result.exit_code == 1
    assert audited(root) == []


def test_after_a_rotation_the_old_key_file_is_named(root: Path) -> None:
    key = pseudonymizer(root).study_key(uid(1))
    old = root / "secret-2024.key"
    (root / "secret.key").rename(old)
    Pseudonymizer.from_key_file(root / "secret.key")
    assert run(root, key).exit_code == 3
    assert run(root, key, "--key-file", str(old)).exit_code == 0
    assert len({str(line["key_id"]) for line in audited(root)}) == 2


@pytest.mark.parametrize("keys", [["DOE^JANE"], ["1.2.3"], ["A" * 32], []])
def test_what_is_no_key_is_refused_without_repeating_it(root: Path, keys: Sequence[str]) -> None:
    result = run(root, *keys)
    assert result.exit_code == 2
    assert "DOE" not in result.output
    assert audited(root) == []


def test_nothing_is_shown_that_could_not_be_noted(root: Path) -> None:
    (root / AUDIT_FILE).mkdir()
    result = run(root, pseudonymizer(root).study_key(uid(1)))
    assert result.exit_code == 1
    assert MARK not in result.output
