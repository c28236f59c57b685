"""A real S3 server: what it keeps of what is promised, and a commit that is killed in an upload."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from beam_jobs.result_files import bucket_of, list_files
from dicom_listener import object_store
from dicom_listener.errors import ClaimLostError, StoreConflictError, StoreError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.object_store import StoreUrl, check_store, find_object, list_objects, put_object
from tests.object_stores import (
    FirstUpload,
    Relay,
    Server,
    gateway_program,  # noqa: F401 - a fixture
    s3_server,  # noqa: F401 - a fixture
)
from tests.programs import DEADLINE_S, wait_for
from tests.unit.dicom_listener.instances import make_received

MARK: Final = "kept-to-oneself"
LATER_S: Final = 1000.0
"""When the lease of a process that was killed has run out."""

KEY = "5" * 32
COMMIT = f"""
import sys, time
from pathlib import Path
from beam_jobs.stored_study import StoredStudy
from dicom_listener.ledger import Ledger
from dicom_listener.object_store import StoreUrl
ledger_url, url, token, key, table = sys.argv[1:]
place = "study_year=2020/bucket={bucket_of(KEY)}"
study = StoredStudy(StoreUrl.parse(url), key)
with Ledger(ledger_url).committing(token, now=time.time()):
    study.replace({{f"{{name}}/{{place}}/{{key}}.parquet": Path(table) for name in ("clips", "frames")}})
"""
"""What a worker does to commit a study, its table and that of no other."""


def test_the_server_keeps_what_is_promised(server: Server) -> None:
    url = StoreUrl(server.url.bucket, "b")
    check_store(url)
    assert list_objects(server.url) == []
    put_object(url, "k", b"one")
    with pytest.raises(StoreConflictError):
        put_object(url, "k", b"other")
    seen = find_object(url, "k")
    assert seen is not None
    put_object(url, "k", b"two", replacing=seen)
    with pytest.raises(StoreConflictError):
        put_object(url, "k", b"three", replacing=seen)
    with pytest.raises(FileNotFoundError):
        seen.read()
    with pytest.raises(StoreError, match=r"NoSuchBucket|404"):
        check_store(StoreUrl("absent-bucket"))


def test_credentials_that_are_refused_are_not_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARK)
    object_store._client.cache_clear()
    with pytest.raises(StoreError, match=r"SignatureDoesNotMatch|403") as refused:
        check_store(server.url)
    told = str(refused.value)
    assert MARK not in told
    assert server.environment["AWS_ACCESS_KEY_ID"] not in told


def test_a_commit_that_is_killed_in_an_upload_leaves_no_half_object_and_is_made_once_by_the_next(
    server: Server, tmp_path: Path
) -> None:
    url, ledger_url = StoreUrl(server.url.bucket, "c"), f"sqlite:///{tmp_path}/ledger.sqlite"
    ledger = Ledger(ledger_url)
    ledger.record_instance(make_received(), association="a", hold_until=0, now=0)
    ledger.release_holds("a")
    ledger.complete_studies(CompletionRule(quiet_period_s=0, max_age_s=1), now=time.time())
    table = tmp_path / "table"
    table.write_bytes(os.urandom(1 << 20))

    def claim(*, now: float) -> str:
        (study,) = ledger.claim_studies(worker="w", limit=9, lease_s=60, max_attempts=3, now=now)
        return study.claim_token

    def committing(token: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", COMMIT, ledger_url, str(url), token, KEY, str(table)]
        return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)

    lost = claim(now=time.time())
    with Relay(server.port, FirstUpload("frames")) as relay:
        program = committing(lost, server.through(relay))
        try:
            wait_for("an upload", lambda: relay.held.is_set() or program.poll() is not None)
            assert relay.held.is_set(), program.communicate()[1]
            assert list_files(url, "frames") == []
        finally:
            program.send_signal(signal.SIGKILL)
            program.communicate(timeout=DEADLINE_S)
        assert ledger.counts_by_state()["done"] == 0
        assert list_files(url, "frames") == []
        now = time.time() + LATER_S
        program = committing(claim(now=now), server.environment)
        _, said = program.communicate(timeout=DEADLINE_S)
        assert program.returncode == 0, said
        assert ledger.counts_by_state()["done"] == 1
        with pytest.raises(ClaimLostError), ledger.committing(lost, now=now):
            pytest.fail("a lost claim may not commit")
    stored = list_objects(url)  # after the connection with half a request was closed
    assert [item.key.split("/")[0] for item in stored] == ["clips", "frames"]
    assert {item.read() for item in stored} == {table.read_bytes()}
    ledger.close()
