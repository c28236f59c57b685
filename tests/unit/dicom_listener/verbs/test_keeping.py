import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_jobs.command import main
from dicom_listener.ledger import Ledger
from dicom_listener.spool.retention import DAY_S
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import PLANTED_ID, finish_studies, receive_instance, spool_instance


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root with a study of two instances that was done 40 days ago, and one that is not done."""
    spool = Spool(tmp_path / "spool")
    with spool.receiving():
        ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", spool=spool.root)
        then = time.time() - 40 * DAY_S
        for number in (1, 2):
            receive_instance(spool, ledger, number=number, now=then)
        finish_studies(ledger, now=then)
        receive_instance(spool, ledger, study="1.2.4", now=then)
        ledger.close()
    return tmp_path


def run(root: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["studies", *arguments, "--root", str(root)], catch_exceptions=False)
    return result.exit_code, " ".join(result.stdout.split()), result.stderr


def files(root: Path) -> list[Path]:
    return sorted(root.glob("spool/??/*.dcm"))


def test_verify_of_a_whole_spool_is_fine(root: Path) -> None:
    code, said, bar = run(root, "verify", "--all")
    assert (code, bar) == (0, "")
    assert "3 files" in said
    assert "0 missing or damaged" in said


def test_verify_ends_with_1_and_names_what_is_lost(root: Path) -> None:
    lost, altered, _ = files(root)
    lost.unlink()
    altered.write_bytes(b"")
    code, said, _ = run(root, "verify", "--all")
    assert code == 1
    assert "missing" in said
    assert "damaged" in said
    code, text, _ = run(root, "verify", "--all", "--json")
    document = json.loads(text)
    assert code == 1
    assert {(finding["path"][3:], finding["state"]) for finding in document["findings"]} == {
        (lost.name, "missing"),
        (altered.name, "damaged"),
    }
    assert PLANTED_ID not in said + text


def test_verify_of_one_study_looks_at_no_other(root: Path) -> None:
    received = spool_instance(Spool(root / "spool"), study="1.2.4")
    (root / "spool" / received.spooled.path).unlink()
    assert run(root, "verify", "--study", "1.2.3")[0] == 0
    assert run(root, "verify", "--study", "1.2.4")[0] == 1


def test_verify_tells_what_is_right_again_and_what_lies_in_quarantine(root: Path) -> None:
    file = files(root)[0]
    content = file.read_bytes()
    file.write_bytes(b"")
    assert run(root, "verify", "--all", "--quiet")[0] == 1
    file.write_bytes(content)
    (root / "spool" / "quarantine").mkdir()
    (root / "spool" / "quarantine" / "x").touch()
    code, said, _ = run(root, "verify", "--all")
    assert code == 0
    assert "1 that had been are right again" in said
    assert "1 files that belong to nothing" in said


@pytest.mark.parametrize("arguments", [(), ("--all", "--study", "1.2.3")])
def test_verify_must_be_told_what(root: Path, arguments: tuple[str, ...]) -> None:
    code, _, said = run(root, "verify", *arguments)
    assert code == 2
    assert "either --study UID or --all" in said


def test_prune_says_first_and_deletes_then(root: Path) -> None:
    code, said, _ = run(root, "prune", "--older-than", "30d", "--dry-run")
    assert code == 0
    assert "2 files of 1 studies" in said
    assert "would be deleted" in said
    assert len(files(root)) == 3
    code, said, _ = run(root, "prune", "--older-than", "30d")
    assert "1.2.3" in said
    assert len(files(root)) == 1
    code, text, _ = run(root, "show", "1.2.3", "--json")
    assert json.loads(text)["pruned_files"] == 2


def test_prune_by_size_says_where_no_more_may_go(root: Path) -> None:
    code, said, _ = run(root, "prune", "--down-to-bytes", "0")
    assert code == 0
    assert "Nothing more may go" in said
    code, text, _ = run(root, "prune", "--down-to-bytes", "0", "--json")
    document = json.loads(text)
    assert (document["files"], document["studies"], document["dry_run"]) == (0, [], False)
    assert document["spool_bytes"] == files(root)[0].stat().st_size


def test_prune_says_what_is_kept_for_want_of_a_commitment(root: Path) -> None:
    (root / "echobeam.toml").write_text("[listener]\nretention_requires_commitment = true\n")
    _, said, _ = run(root, "prune", "--older-than", "1h")
    assert "0 files of 0 studies" in said
    assert "2 more files are kept because of storage commitment" in said


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30y"])
def test_an_age_has_a_unit(root: Path, age: str) -> None:
    code, _, said = run(root, "prune", "--older-than", age)
    assert code == 2
    assert "30d" in said


def test_prune_must_be_told_what(root: Path) -> None:
    code, _, said = run(root, "prune")
    assert code == 2
    assert "--older-than, --down-to-bytes, or both" in said
