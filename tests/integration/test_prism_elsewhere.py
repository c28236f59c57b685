"""An engine whose worker processes are on another host, and a study that kills each of them."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from tests import poison
from tests.bright import BRIGHT, write_bright_registry
from tests.network import OtherHost, may_make_hosts, other_host
from tests.postgres import find_programs, running_postgres
from tests.prism import prism_program, running, start_pool, start_prism  # noqa: F401 - a fixture
from tests.studies import AT_ONCE, MARK, clip, receive, uid

GOOD = range(1, 6)
DEADLY = 7


@pytest.fixture(scope="module")
def host() -> Iterator[OtherHost]:
    if not may_make_hosts():
        pytest.skip("this user may not make a network namespace")
    with other_host() as host:
        yield host


@pytest.fixture(scope="module")
def ledger_url(host: OtherHost) -> Iterator[str]:
    """Run a PostgreSQL that both hosts reach by the network."""
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with running_postgres(options=("fsync=off", f"listen_addresses={host.here}")) as cluster:
        with (cluster.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {host.there}/30 trust\n")
        cluster.execute("SELECT pg_reload_conf()")
        name = cluster.make_database().partition("@/")[2].partition("?")[0]
        yield f"postgresql+pg8000://echobeam@{host.here}/{name}"


def test_a_study_that_kills_its_worker_process_on_another_host_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path,
    prism_program: str,  # noqa: F811
    host: OtherHost,
    ledger_url: str,
) -> None:
    write_bright_registry(tmp_path / "models")
    ledger = Ledger(ledger_url)
    clips = [clip(n, i, frames=4, grey=BRIGHT) for n in GOOD for i in (1, 2)]
    deadly = clip(DEADLY, 1, frames=4, grey=BRIGHT)
    receive(ledger, tmp_path / "spool", [deadly, *clips], now=time.time() - 10)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    logs = {name: tmp_path / f"{name}.log" for name in ("prism", "pool")}
    with ExitStack() as stack:
        engine = start_prism(prism_program, log=logs["prism"])
        stack.enter_context(running(engine))
        stack.enter_context(host.forwarding(engine.port))
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(poison.__file__).parent),
            "ECHOBEAM_DEADLY_SHA256": hashlib.sha256(deadly.content).hexdigest(),
        }
        pool = start_pool(elsewhere, log=logs["pool"], environment=environment, within=host.enter)
        stack.enter_context(running(pool))
        settings = WorkerSettings(
            root=tmp_path,
            ledger_url=ledger_url,
            http_port=0,
            poll_s=0.1,
            max_attempts=2,
            runner="PortableRunner",
            beam_options=[
                f"--job_endpoint={engine.endpoint}",
                "--environment_type=EXTERNAL",
                f"--environment_config={host.there}:{pool.port}",
            ],
        )
        with Worker(settings, AT_ONCE, deid=DeidSettings(root=tmp_path, ocr="off")) as worker:
            worker.run(once=True)
    counts = ledger.counts_by_state()
    assert (counts["done"], counts["failed"]) == (len(GOOD), 1)
    failed = ledger.show_study(uid(DEADLY))
    assert (failed.state, failed.attempts) == ("failed", 2)
    ledger.close()
    rows = duckdb.execute(
        f"SELECT instance_key, frame_index FROM '{tmp_path}/results/frames/**/*.parquet'"  # noqa: S608
    ).fetchall()
    assert len(rows) == len(set(rows)) == len(GOOD) * 2 * 4
    for log in logs.values():
        assert MARK not in log.read_text(encoding="utf-8")
