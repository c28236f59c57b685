"""The supervisor, with tiny real programs as its services."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dicom_listener.operations.supervisor import Backoff, Service, Supervisor

# A service that says it is ready, waits to be asked to end, and ends with a chosen code.
STEADY = """
import json, os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
path = pathlib.Path(sys.argv[1])
unfinished = path.with_suffix(".tmp")
unfinished.write_text(json.dumps({"pid": os.getpid(), "http_port": 7}))
unfinished.rename(path)
signal.sigwait({signal.SIGTERM})
path.unlink()
sys.exit(int(sys.argv[2]))
"""
# A service that crashes until its third start, then is steady.
THIRD_TIME = (
    """
import pathlib, sys
starts = pathlib.Path(sys.argv[1]).with_suffix(".starts")
count = len(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text("x" * count)
if count < 3:
    sys.exit(1)
"""
    + STEADY
)
AT_ONCE = Backoff(first_s=0.0, give_up_after=4)


def service(folder: Path, name: str, program: str, code: int = 0) -> Service:
    return Service(name, (sys.executable, "-c", program, str(folder / f"{name}.json"), str(code)))


class Announcement:
    """Keeps what was announced, then asks the supervisor to stop."""

    def __init__(self) -> None:
        self.supervisor: Supervisor | None = None
        self.ready: dict[str, dict[str, Any]] = {}

    def __call__(self, ready: Mapping[str, dict[str, Any]]) -> None:
        self.ready = dict(ready)
        assert self.supervisor is not None
        self.supervisor.stop()


def supervisor_of(
    folder: Path, *services: Service, backoff: Backoff = AT_ONCE
) -> tuple[Supervisor, Announcement]:
    announcement = Announcement()
    supervisor = Supervisor(services, folder, announcement, backoff=backoff, drain_s=30.0)
    announcement.supervisor = supervisor
    return supervisor, announcement


def test_a_stop_drains_every_service_and_ends_with_0(tmp_path: Path) -> None:
    supervisor, announcement = supervisor_of(
        tmp_path, service(tmp_path, "listener", STEADY), service(tmp_path, "worker", STEADY)
    )
    assert supervisor.run() == 0
    assert announcement.ready["listener"]["http_port"] == 7
    assert set(announcement.ready) == {"listener", "worker"}
    assert list(tmp_path.iterdir()) == [], "each removed its file on its way out"


def test_a_crashed_service_is_started_again(tmp_path: Path) -> None:
    supervisor, announcement = supervisor_of(
        tmp_path, service(tmp_path, "listener", STEADY), service(tmp_path, "worker", THIRD_TIME)
    )
    assert supervisor.run() == 0
    assert set(announcement.ready) == {"listener", "worker"}
    assert (tmp_path / "worker.starts").read_text() == "xxx"


@pytest.mark.parametrize("code", [2, 4])
def test_a_service_that_refuses_its_configuration_or_port_is_not_tried_again(
    tmp_path: Path, code: int
) -> None:
    refuses = Service("worker", (sys.executable, "-c", f"raise SystemExit({code})"))
    supervisor, announcement = supervisor_of(tmp_path, service(tmp_path, "listener", STEADY), refuses)
    assert supervisor.run() == code
    assert announcement.ready == {}
    assert not (tmp_path / "listener.json").exists(), "the other one was drained"


def test_a_service_that_keeps_crashing_ends_the_supervisor_with_1(tmp_path: Path) -> None:
    crashes = Service("worker", (sys.executable, "-c", "raise SystemExit(1)"))
    supervisor, announcement = supervisor_of(tmp_path, crashes)
    assert supervisor.run() == 1
    assert announcement.ready == {}


def test_a_drain_that_fails_ends_with_1(tmp_path: Path) -> None:
    supervisor, _ = supervisor_of(tmp_path, service(tmp_path, "worker", STEADY, code=1))
    assert supervisor.run() == 1


def test_a_service_that_ignores_the_drain_is_killed(tmp_path: Path) -> None:
    deaf = STEADY.replace("signal.sigwait({signal.SIGTERM})", "signal.sigwait({signal.SIGUSR1})")
    supervisor, _ = supervisor_of(tmp_path, service(tmp_path, "worker", deaf))
    supervisor.drain_s = 0.0
    assert supervisor.run() == 1


def test_asking_twice_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    deaf = STEADY.replace("signal.sigwait({signal.SIGTERM})", "signal.sigwait({signal.SIGUSR1})")
    supervisor, announcement = supervisor_of(tmp_path, service(tmp_path, "worker", deaf))

    def twice(ready: Mapping[str, dict[str, Any]]) -> None:
        announcement(ready)
        supervisor.stop()

    supervisor.on_ready = twice
    assert supervisor.run() == 1


def test_the_wait_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first_s=1.0, most_s=10.0)
    assert [backoff.wait_s(crashes) for crashes in (1, 2, 3, 4, 5, 50)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
