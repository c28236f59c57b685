"""`echobeam up` as an operator runs it: real processes, real ports, real signals."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.toy import write_toy_registry

READY_WITHIN_S = 120.0
STOP_WITHIN_S = 120.0
FREE_PORTS = "[listener]\nport = 0\nhttp_port = 0\n[worker]\nhttp_port = 0\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "echobeam.toml").write_text(FREE_PORTS)
    write_toy_registry(folder / "models")
    return folder


@contextmanager
def running_up(root: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "beam_jobs", "up", "--json", "--root", root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def announcement(process: "subprocess.Popen[str]") -> dict[str, str]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_WITHIN_S)
    assert readable, "nothing was announced in time"
    place = json.loads(process.stdout.readline())
    assert isinstance(place, dict)
    return place


def answers(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - a loopback address of ours
        return int(response.status)


def test_it_says_where_to_push_serves_both_and_drains_on_sigterm(root: Path) -> None:
    with running_up(root) as process:
        place = announcement(process)
        assert place["ae_title"] == "ECHOBEAM"
        for service in ("listener_url", "worker_url"):
            assert answers(f"{place[service]}/readyz") == 200
            assert answers(f"{place[service]}/metrics") == 200
        with socket.create_connection((place["host"], int(place["port"])), timeout=30):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_WITHIN_S) == 0
    assert list((root / "run").glob("*.json")) == []


def test_a_killed_service_comes_back(root: Path) -> None:
    with running_up(root) as process:
        announcement(process)
        run_file = root / "run" / "listener.json"
        killed = json.loads(run_file.read_text())["pid"]
        os.kill(killed, signal.SIGKILL)
        assert process.stderr is not None
        said = next(line for line in process.stderr if "service_ended" in line)
        assert '"listener"' in said
        back = next(line for line in process.stderr if '"listening"' in line)
        assert back
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_WITHIN_S) in {0, 1}, "the second listener may not have been ready yet"


def test_what_it_started_ends_when_it_is_killed(root: Path) -> None:
    with running_up(root) as process:
        announcement(process)
        assert len(list((root / "run").glob("*.json"))) == 2
        process.kill()
        process.wait(STOP_WITHIN_S)
        assert process.stderr is not None
        readers = [process.stderr]
        while select.select(readers, [], [], STOP_WITHIN_S)[0]:
            if not process.stderr.readline():
                break  # the last that could write to it has ended
        else:
            pytest.fail("a service outlived what started it")
    assert list((root / "run").glob("*.json")) == [], "they drained"


def test_a_port_in_use_ends_it_with_4(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("ECHOBEAM_LISTENER_PORT", str(taken.getsockname()[1]))
        with running_up(root) as process:
            said, complained = process.communicate(timeout=STOP_WITHIN_S)
    assert process.returncode == 4
    assert said == ""
    assert "service_refused_to_start" in complained


def test_a_refused_configuration_ends_it_with_2_and_every_fault(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOBEAM_LISTENER_PORT", "many")
    monkeypatch.setenv("ECHOBEAM_LISTENER_QUIET_PERIOD_S", "-1")
    with running_up(root) as process:
        said, complained = process.communicate(timeout=STOP_WITHIN_S)
    assert process.returncode == 2
    assert said == ""
    assert "PORT" in complained
    assert "QUIET_PERIOD_S" in complained
