"""DCMTK's senders, which nobody here wrote, against the running listener."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread, examples
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPHL,
    MPEG2MPML,
    MPEG4HP41,
    MPEG4HP41BD,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_listener.reception.contexts import (
    JPEGXL,
    TRANSFER_SYNTAXES,
    UltrasoundMultiFrameImageStorageRetired,
)
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings
from tests.programs import DEADLINE_S, need
from tests.raw_peer import RawPeer
from tests.unit.dicom_listener.instances import encode, make_dataset

DCMTK_TEMPLATES = {
    ImplicitVRLittleEndian: (("dcmconv", "+ti"), "-xi"),
    ExplicitVRLittleEndian: (("dcmconv", "+te"), "-xe"),
    ExplicitVRBigEndian: (("dcmconv", "+tb"), "-xb"),
    JPEGBaseline8Bit: (("dcmcjpeg", "+eb"), "-xy"),
    JPEGExtended12Bit: (("dcmcjpeg", "+ee"), "-xx"),
    JPEGLosslessSV1: (("dcmcjpeg", "+e1"), "-xs"),
    JPEGLSLossless: (("dcmcjpls", "+el"), "-xt"),
    JPEGLSNearLossless: (("dcmcjpls", "+en"), "-xu"),
    RLELossless: (("dcmcrle",), "-xr"),
    JPEG2000Lossless: (("gdcmconv", "--j2k"), "-xv"),
}
"""How a file of each syntax is made, and how storescu is told to propose it."""

STREAMS = {
    MPEG2MPML: "-xm",
    MPEG2MPHL: "-xh",
    MPEG4HP41: "-xn",
    MPEG4HP41BD: "-xl",
    HEVCMP51: "-x4",
}
"""Syntaxes that no installed program encodes: their pixels are any bytes, and are not looked at."""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with Listener(ListenerSettings(root=tmp_path, port=0, http_port=0)) as listener:
        yield listener


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a little image that every encoder takes."""
    path = tmp_path_factory.mktemp("native") / "native.dcm"
    ds = image()
    ds.PixelData = bytes(range(256)) * 16
    write(ds, path, ExplicitVRLittleEndian)
    return path


def image() -> Dataset:
    ds = make_dataset()
    ds.Rows = ds.Columns = 64
    ds.NumberOfFrames = 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    return ds


def write(ds: Dataset, path: Path, transfer_syntax: UID) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.save_as(path, enforce_file_format=True)


def run(program: str, package: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [need(program, package), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def storescu(listener: Listener, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    *options, file = arguments
    where = ("-aec", "ECHOBEAM", "127.0.0.1", str(listener.dicom_port))
    return run("storescu", "dcmtk", "-v", *options, *where, file)


@pytest.mark.parametrize("transfer_syntax", DCMTK_TEMPLATES, ids=lambda uid: uid.name)
def test_each_syntax_arrives_as_it_was_sent(
    listener: Listener, tmp_path: Path, native: Path, transfer_syntax: UID
) -> None:
    (program, *options), proposal = DCMTK_TEMPLATES[transfer_syntax]
    source = tmp_path / "source.dcm"
    package = "libgdcm-tools" if program == "gdcmconv" else "dcmtk"
    made = run(program, package, *options, native, source)
    assert made.returncode == 0, made.stderr
    assert dcmread(source).file_meta.TransferSyntaxUID == transfer_syntax
    assert_arrives(listener, tmp_path, source, proposal)


@pytest.mark.parametrize("transfer_syntax", STREAMS, ids=lambda uid: uid.name)
def test_a_video_arrives_as_it_was_sent(listener: Listener, tmp_path: Path, transfer_syntax: UID) -> None:
    ds = image()
    ds.add_new("PixelData", "OB", encapsulate([b"any stream"]))
    ds["PixelData"].is_undefined_length = True
    write(ds, tmp_path / "source.dcm", transfer_syntax)
    assert_arrives(listener, tmp_path, tmp_path / "source.dcm", STREAMS[transfer_syntax])


def assert_arrives(listener: Listener, root: Path, source: Path, proposal: str) -> None:
    sent = storescu(listener, proposal, "-R", source)
    assert sent.returncode == 0, sent.stderr
    [kept] = root.glob("spool/??/*.dcm")
    received, expected = dcmread(kept), dcmread(source)
    assert received.file_meta.TransferSyntaxUID == expected.file_meta.TransferSyntaxUID
    assert received.PixelData == expected.PixelData
    assert received == expected


def test_what_dcmtk_does_not_know_arrives_too(listener: Listener, tmp_path: Path) -> None:
    unknown = [uid for uid in TRANSFER_SYNTAXES if uid not in DCMTK_TEMPLATES and uid not in STREAMS]
    assert {JPEGXL, HTJ2KLossless, JPEGLossless} <= set(unknown)
    for number, transfer_syntax in enumerate(unknown, 1):
        instance = f"1.2.3.1.{number}"
        dataset = encode(make_dataset(instance=instance)).getvalue()
        with RawPeer(listener.dicom_port) as peer:
            assert peer.associate(transfer_syntax=transfer_syntax).store(dataset, instance) == 0
    kept = [dcmread(path).file_meta.TransferSyntaxUID for path in tmp_path.glob("spool/??/*.dcm")]
    assert sorted(kept) == sorted(unknown)


def test_an_echo_is_answered(listener: Listener) -> None:
    echo = run("echoscu", "dcmtk", "-v", "-aec", "ECHOBEAM", "127.0.0.1", str(listener.dicom_port))
    assert echo.returncode == 0, echo.stderr


def test_many_instances_come_over_one_association(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    for number in range(1, 21):
        ds = make_dataset(instance=f"1.2.3.1.{number}", pixel_bytes=50_000)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(tmp_path / "sent" / f"{number}.dcm", enforce_file_format=True)
    sent = storescu(listener, "-xe", "-R", "+sd", tmp_path / "sent")
    assert sent.returncode == 0, sent.stderr
    [study] = listener.reception.ledger.list_studies()
    assert study.instances == 20


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
