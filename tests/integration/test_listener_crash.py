"""A few rounds of the crash test; the committed report has many (docs/reports/crash.md)."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.crash import CrashTest, CrashTestError, Promises, make_dataset
from dicom_listener.ledger import Ledger
from dicom_listener.spool.writing import Spool
from tests.programs import DEADLINE_S
from tests.unit.dicom_listener.instances import receive_instance


@pytest.mark.parametrize(("rounds", "processes"), [(3, 1), (1, 2)])
def test_nothing_that_was_promised_is_lost_when_the_listener_is_killed(
    tmp_path: Path, rounds: int, processes: int
) -> None:
    options = ("--rounds", str(rounds), "--seed", "2", "--processes", str(processes), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=3 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["as asked"]
    assert counts["killed_under_load"] == rounds
    assert counts["killed_receivers"] == (rounds if processes > 1 else 0)
    assert counts["acknowledged"] >= counts["instances"] > 0
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- the test must be able to fail


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    root = tmp_path / "root"
    root.mkdir()
    spool = Spool(root / "spool")
    with spool.receiving():
        return spool


def verifying(spool: Spool) -> CrashTest:
    url = f"sqlite:///{spool.root.parent}/ledger.sqlite"
    return CrashTest(spool.root.parent, seed=0, processes=1, ledger_url=url)


def keep(spool: Spool) -> tuple[str, str]:
    """Keep an instance as the listener does; give its UID and its digest."""
    ledger = Ledger(f"sqlite:///{spool.root.parent}/ledger.sqlite")
    spooled = receive_instance(spool, ledger).spooled
    ledger.close()
    return spooled.sop_instance_uid, spooled.sha256


def test_what_is_kept_passes(spool: Spool) -> None:
    kept = keep(spool)
    verifying(spool)._verify_promises([kept])
    verifying(spool)._verify_that_both_agree()


def test_a_lost_instance_is_found(spool: Spool) -> None:
    uid, digest = keep(spool)
    with pytest.raises(CrashTestError, match="not in the ledger"):
        verifying(spool)._verify_promises([(uid, digest[::-1])])
    [file] = spool.root.glob("??/*.dcm")
    file.unlink()
    with pytest.raises(CrashTestError, match="its file is gone"):
        verifying(spool)._verify_promises([(uid, digest)])
    with pytest.raises(CrashTestError, match="1 rows without a file"):
        verifying(spool)._verify_that_both_agree()


def test_an_altered_instance_and_an_orphan_are_found(spool: Spool) -> None:
    kept = keep(spool)
    [file] = spool.root.glob("??/*.dcm")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CrashTestError, match="altered"):
        verifying(spool)._verify_promises([kept])
    file.with_name("0.dcm").touch()
    with pytest.raises(CrashTestError, match="1 files without a row"):
        verifying(spool)._verify_that_both_agree()
    (spool.root / "tmp" / "x").touch()
    with pytest.raises(CrashTestError, match="unfinished"):
        verifying(spool)._verify_that_both_agree()


def test_a_promise_is_verified_once_each_round_and_kept_to_the_end() -> None:
    promises = Promises()
    promises.add("1.2", "a")
    promises.add("1.2", "b")
    assert promises.take_fresh() == [("1.2", "a"), ("1.2", "b")]
    assert promises.take_fresh() == []
    assert promises.digests == {"1.2": {"a", "b"}}


def test_an_instance_that_is_sent_again_is_the_same() -> None:
    one, other = (make_dataset("1.2.1.1.5", "1.2.1", random.Random("1.2.1.1.5")) for _ in range(2))
    assert one.PixelData == other.PixelData
