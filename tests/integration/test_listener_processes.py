"""Several receiving processes behind one port, as a sender and an operator meet them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_listener.errors import PortInUseError, UnsupportedSystemError
from dicom_listener.ledger import Ledger
from dicom_listener.operations.runfile import read_run_file
from dicom_listener.service.processes import reserved_port, run_processes
from dicom_listener.settings import ListenerSettings
from tests.integration.listener_peers import ECHOBEAM, associate, is_refused, listening, store
from tests.programs import DEADLINE_S, wait_for
from tests.unit.dicom_listener.instances import make_dataset

TWO = ("--processes", "2")


def metric(ports: dict[str, int], series: str) -> float:
    with urlopen(f"http://127.0.0.1:{ports['http_port']}/metrics", timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    values = re.findall(rf"^echobeam_listener_{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert len(values) == 1, f"{series}: {values}"
    return float(values[0])


def receivers(root: Path) -> list[int]:
    """Give the process ids of the receivers that are ready."""
    found = [read_run_file(path) for path in sorted((root / "run").glob("receiver-*.json"))]
    return [content["pid"] for content in found if content and is_running(content["pid"])]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def send_study(port: int, number: int) -> list[int]:
    study = f"1.2.3.{number}"
    assoc = associate(port)
    try:
        return [store(assoc, make_dataset(study=study, instance=f"{study}.1.{n}")) for n in range(1, 5)]
    finally:
        assoc.release()


def echo_is_rejected(port: int) -> bool:
    ae = AE()
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    if assoc.is_established:
        assoc.release()
    return bool(assoc.is_rejected)


def test_processes_receive_as_one_listener_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with listening(root, *TWO) as (running, ports, log):
        assert ports["pid"] == running.pid
        first = receivers(root)
        assert len(first) == 2
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(send_study, [ports["dicom_port"]] * 8, range(1, 9)))
        assert answers == [[0] * 4] * 8
        assert metric(ports, 'received_instances_total{outcome="new"}') == 32
        assert metric(ports, "spool_bytes") == sum(f.stat().st_size for f in root.glob("spool/??/*.dcm"))

        os.kill(first[0], signal.SIGKILL)
        wait_for("another receiver", lambda: len(set(receivers(root)) - set(first)) == 1)
        assert send_study(ports["dicom_port"], 9) == [0] * 4
        assert metric(ports, 'received_instances_total{outcome="new"}') == 36, "counters outlive a process"
        wait_for("the end of the associations", lambda: metric(ports, "open_associations") == 0)

        assoc = associate(ports["dicom_port"])
        running.send_signal(signal.SIGTERM)
        wait_for("the closed door", lambda: is_refused(ports["dicom_port"]))
        assert store(assoc, make_dataset(study="1.2.3.10", instance="1.2.3.10.1")) == 0, "drained, not cut"
        assoc.release()
        assert running.wait(DEADLINE_S) == 0
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert events.count("service_ended") == 1
    assert [path.name for path in (root / "run").iterdir()] == ["associations"]
    ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
    assert sorted(study.instances for study in ledger.list_studies()) == [1, *[4] * 9]
    ledger.close()


def test_limits_hold_for_all_processes_and_none_outlives_the_listener(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "echobeam.toml").write_text("[listener]\nmaximum_associations = 1\ndrain_s = 0\n")
    with listening(root, *TWO) as (running, ports, _log):
        children = receivers(root)
        assoc = associate(ports["dicom_port"])
        assert [echo_is_rejected(ports["dicom_port"]) for _ in range(6)] == [True] * 6
        assert metric(ports, 'refused_associations_total{reason="association_limit"}') == 6
        assoc.release()
        wait_for("the free slot", lambda: not echo_is_rejected(ports["dicom_port"]))
        running.kill()
        running.wait(DEADLINE_S)
        wait_for("the end of the children", lambda: not any(map(is_running, children)))
    assert is_refused(ports["dicom_port"])


def test_a_port_that_somebody_listens_on_is_not_shared(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        taken = ("--port", str(other.getsockname()[1]), "--http-port", "0")
        ended = subprocess.run(
            (*ECHOBEAM, "listen", "--root", str(tmp_path / "root"), *taken, *TWO),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert ended.returncode == 4
    assert "set port" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "root" / "run").iterdir()) == []


def test_a_system_that_cannot_share_a_port_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    settings = ListenerSettings(root=tmp_path, port=0, http_port=0, processes=2)
    with pytest.raises(UnsupportedSystemError, match="set processes = 1"):
        run_processes(settings, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_reserved_port_is_kept_and_free_again_after() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        assert is_refused(port), "reserved, and nobody answers"
        with reserved_port("127.0.0.1", port) as same:
            assert same == port, "for those who share it"
    with reserved_port("127.0.0.1", port):
        pass
    with pytest.raises(PortInUseError, match="tls_port"), reserved_port("192.0.2.1", 1, tls=True):
        pass
