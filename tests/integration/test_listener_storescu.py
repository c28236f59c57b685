"""DCMTK's storescu, a sender that nobody here wrote, against the running listener."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread, examples

from dicom_listener.contexts import UltrasoundMultiFrameImageStorageRetired
from dicom_listener.service import Listener
from dicom_listener.settings import ListenerSettings
from tests.programs import DEADLINE_S, need


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with Listener(ListenerSettings(root=tmp_path, port=0, http_port=0)) as listener:
        yield listener


def storescu(listener: Listener, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = need("storescu", "dcmtk")
    command = [
        program,
        "-v",
        "-aec",
        "ECHOBEAM",
        *map(str, arguments[:-1]),
        "127.0.0.1",
        str(listener.dicom_port),
    ]
    command.append(str(arguments[-1]))
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_a_real_cine_arrives_with_its_pixels_untouched(listener: Listener, tmp_path: Path) -> None:
    source = examples.get_path("ybr_color")
    sent = storescu(listener, "-xy", "-R", source)
    assert sent.returncode == 0, sent.stderr
    [kept] = tmp_path.glob("spool/??/*.dcm")
    assert dcmread(kept).PixelData == dcmread(source).PixelData
    assert dcmread(kept).file_meta.TransferSyntaxUID == dcmread(source).file_meta.TransferSyntaxUID


def test_sending_it_again_changes_nothing(listener: Listener) -> None:
    for _ in range(2):
        assert storescu(listener, "-xy", "-R", examples.get_path("ybr_color")).returncode == 0
    [study] = listener.reception.ledger.list_studies()
    assert (study.instances, study.revision, study.conflicts) == (1, 1, ())


def test_a_retired_ultrasound_class_is_stored(listener: Listener, tmp_path: Path) -> None:
    ds = dcmread(examples.get_path("ybr_color"))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorageRetired
    ds.save_as(tmp_path / "retired.dcm")
    sent = storescu(listener, "-xy", "-R", tmp_path / "retired.dcm")
    assert sent.returncode == 0, sent.stderr
    assert listener.reception.ledger.counts_by_state()["receiving"] == 1


def test_a_refusal_tells_the_sender_why(listener: Listener, tmp_path: Path) -> None:
    ds = dcmread(examples.get_path("ybr_color"))
    del ds.SeriesInstanceUID
    ds.save_as(tmp_path / "orphan.dcm")
    sent = storescu(listener, "-d", "-xy", "-R", tmp_path / "orphan.dcm")
    assert sent.returncode != 0
    assert "0xc000" in sent.stderr
    assert "header cannot be read" in sent.stderr
    assert listener.reception.ledger.list_studies() == []
