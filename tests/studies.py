"""Tiny ultrasound studies in a spool and a ledger, as the listener leaves them, for pipeline tests."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
)

from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.ledger.completion import CompletionRule
from tests.bright import DARK

ROWS, COLUMNS = 60, 80
MARK = "Zebedee"
"""Planted wherever a header can name somebody; it may appear nowhere downstream."""

AT_ONCE = CompletionRule(quiet_period_s=0, max_age_s=1)


def uid(*parts: int) -> str:
    """Make a UID that carries a mark of its own."""
    return ".".join(["1.2.826.0.1.3680043.8.498.271828", *map(str, parts)])


def clip_dataset(
    study: int, instance: int, *, frames: int = 3, grey: int = DARK, date: str = "20240517"
) -> Dataset:
    """Make a cine of a grey level, its right quarter black; its header is full of marks."""
    ds = _header(study, instance, UltrasoundMultiFrameImageStorage)
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = COLUMNS - 1, ROWS - 1
    ds.SequenceOfUltrasoundRegions = Sequence([region])
    ds.NumberOfFrames, ds.FrameTime = frames, 33.3
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.StudyDate = date
    texture = np.random.default_rng((study, instance)).integers(-9, 10, (frames, ROWS, COLUMNS))
    texture[:, :, COLUMNS * 3 // 4 :] = -grey
    ds.PixelData = (grey + texture).astype(np.uint8).tobytes()
    return ds


def report_dataset(study: int, instance: int) -> Dataset:
    """Make a structured report: no pixels, much text."""
    ds = _header(study, instance, ComprehensiveSRStorage)
    ds.Modality = "SR"
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", f"Findings of {MARK}"
    ds.ContentSequence = Sequence([item])
    return ds


def encoded(ds: Dataset, *, transfer_syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Write a dataset as a Part 10 file; its meta may claim any transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta = meta
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _header(study: int, instance: int, sop_class: UID) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid(study, 1, instance)
    ds.SeriesInstanceUID = uid(study, 1)
    ds.StudyInstanceUID = uid(study)
    ds.PatientName, ds.PatientID = f"{MARK}^Ada", f"{MARK}-{study}"
    ds.PatientBirthDate, ds.PatientSex = "19310402", "F"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20240517", "101112", f"{MARK}7"
    ds.InstitutionName = ds.StationName = ds.OperatorsName = MARK
    ds.ReferringPhysicianName = ds.StudyDescription = ds.DeviceSerialNumber = MARK
    ds.ImageComments = f"seen with {MARK}"
    ds.Modality = "US"
    block = ds.private_block(0x200D, f"{MARK} PRIVATE", create=True)
    block.add_new(1, "LO", MARK)
    return ds


@dataclass(frozen=True)
class Sent:
    """An instance as it is received."""

    study: int
    instance: int
    content: bytes
    sop_class_uid: str = UltrasoundMultiFrameImageStorage
    transfer_syntax_uid: str = ExplicitVRLittleEndian


def clip(study: int, instance: int, *, frames: int = 3, grey: int = DARK, date: str = "20240517") -> Sent:
    """Make an instance to send."""
    return Sent(study, instance, encoded(clip_dataset(study, instance, frames=frames, grey=grey, date=date)))


def report(study: int, instance: int) -> Sent:
    """Make a structured report to send."""
    return Sent(study, instance, encoded(report_dataset(study, instance)), ComprehensiveSRStorage)


def receive(ledger: Ledger, spool: Path, instances: Iterable[Sent], *, now: float) -> None:
    """Put instances into spool and ledger and call their studies complete."""
    for sent in instances:
        digest = hashlib.sha256(sent.content).hexdigest()
        path = f"{digest[:2]}/{digest}.dcm"
        (spool / path).parent.mkdir(parents=True, exist_ok=True)
        (spool / path).write_bytes(sent.content)
        spooled = SpooledInstance(
            sop_instance_uid=uid(sent.study, 1, sent.instance),
            series_instance_uid=uid(sent.study, 1),
            sop_class_uid=sent.sop_class_uid,
            transfer_syntax_uid=sent.transfer_syntax_uid,
            path=path,
            sha256=digest,
            size_bytes=len(sent.content),
        )
        received = ReceivedInstance(uid(sent.study), f"{MARK}-{sent.study}", spooled)
        ledger.record_instance(received, association="a", hold_until=now, now=now)
    ledger.release_holds("a")
    ledger.complete_studies(AT_ONCE, now=now + 1)
