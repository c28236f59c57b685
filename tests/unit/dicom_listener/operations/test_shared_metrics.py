"""Metrics of several processes, added up; in programs of their own, for the way of keeping them is global."""

import subprocess
import sys
from pathlib import Path

from dicom_listener.operations.shared_metrics import Registries, forget_metrics

# A process that starts another, which counts and dies, and serves what both counted.
PARENT = """
import subprocess, sys
from pathlib import Path
from dicom_listener.operations.shared_metrics import Registries, process_has_ended, share_metrics

folder = share_metrics(Path(sys.argv[1]))
CHILD = '''
import sys, time
from prometheus_client import CollectorRegistry
from dicom_listener.reception.metrics import ListenerMetrics
metrics = ListenerMetrics(CollectorRegistry())
metrics.received_bytes.inc(5)
metrics.open_associations.inc(2)
metrics.spool_bytes.inc(5)
metrics.last_success.set(float(sys.argv[1]))
print("counted", flush=True)
sys.stdin.read()
'''

from dicom_listener.reception.metrics import ListenerMetrics

registries = Registries.of_several_processes(folder)
metrics = ListenerMetrics(registries.own)
metrics.spool_bytes.set(100)
command = [sys.executable, "-c", CHILD]
children = [
    subprocess.Popen([*command, seconds], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for seconds in ("70", "60")
]
for child in children:
    child.stdout.readline()

def show():
    value = registries.served.get_sample_value
    names = ("received_bytes_total", "open_associations", "spool_bytes", "last_success_timestamp_seconds")
    print(*(value(f"echobeam_listener_{name}") for name in names))

show()
children[0].kill()
children[0].wait()
process_has_ended(folder, children[0].pid)
show()
children[1].communicate()
"""


def test_counters_outlive_a_process_and_gauges_combine_as_they_should(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["10.0 4.0 110.0 70.0", "10.0 2.0 110.0 70.0"]


def test_folders_of_listeners_that_are_gone_are_deleted(tmp_path: Path) -> None:
    ours = tmp_path / "metrics-1"
    for folder in (ours, tmp_path / "metrics-2", tmp_path / "associations"):
        folder.mkdir()
    forget_metrics(tmp_path, keep=ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["associations", "metrics-1"]


def test_one_process_serves_what_it_counts() -> None:
    registries = Registries.of_one_process()
    assert registries.own is registries.served
