import json
import os
from pathlib import Path

import pytest

from dicom_listener.operations.runfile import announced, read_run_file


def test_the_file_says_who_listens_where_and_goes_when_the_service_does(tmp_path: Path) -> None:
    path = tmp_path / "run" / "listener.json"
    with announced(path, dicom_port=104, http_port=80):
        assert json.loads(path.read_text()) == {"pid": os.getpid(), "dicom_port": 104, "http_port": 80}
        assert list(path.parent.iterdir()) == [path]
    assert not path.exists()


def test_the_file_goes_when_the_service_fails(tmp_path: Path) -> None:
    path = tmp_path / "listener.json"
    with pytest.raises(RuntimeError), announced(path):
        raise RuntimeError
    assert not path.exists()


def test_a_run_file_of_another_process_is_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    assert read_run_file(path) is None
    path.write_text("{")
    assert read_run_file(path) is None
    path.write_text(json.dumps(["pid", 5]))
    assert read_run_file(path) is None
    path.write_text(json.dumps({"pid": 5}))
    assert read_run_file(path, pid=6) is None
    assert read_run_file(path, pid=5) == {"pid": 5}
