"""Where only the listener is installed, its verbs work and the others say what to install."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.command import EXTRA_OF_MODULE
from dicom_listener.ledger import Ledger

# Makes the modules of every extra as absent as if they were not installed.
WITHOUT_EXTRAS = f"""
import sys
ABSENT = {sorted(EXTRA_OF_MODULE)!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from beam_jobs.command import main
main(prog_name="echobeam")
"""


def echobeam(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", ["up", "work", "query", "retrain", "demo"])
def test_a_verb_of_the_worker_names_its_extra(verb: str, tmp_path: Path) -> None:
    arguments = {"query": ["SELECT 1"]}.get(verb, [])
    done = echobeam(verb, *arguments, "--root", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "pip install 'echobeam[" in done.stderr
    assert "Traceback" not in done.stderr


def test_studies_are_listed_without_the_worker(tmp_path: Path) -> None:
    assert "listen" in echobeam("listen", "--help").stdout
    Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}").close()
    done = echobeam("studies", "list", "--root", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_doctor_examines_the_listener_without_the_worker(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text("[listener]\nport = 0\nhttp_port = 0\n")
    done = echobeam("doctor", "--root", str(tmp_path), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert findings["extra worker"]["outcome"] == "warn"
    assert findings["configuration [listener]"]["outcome"] == "ok"
    assert "configuration [worker]" not in findings
