"""Small datasets and ledger entries for the listener's tests."""

import hashlib
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.spool.writing import Spool

PLANTED_NAME = "PLANTEDNAME^SECRET"
PLANTED_ID = "PLANTED-ID-77"


def make_dataset(
    *,
    study: str = "1.2.3",
    instance: str = "1.2.3.1.1",
    sop_class: str = UltrasoundMultiFrameImageStorage,
    pixel_bytes: int = 64,
) -> Dataset:
    """Make a little ultrasound instance with a planted patient."""
    ds = Dataset()
    ds.SOPClassUID = UID(sop_class)
    ds.SOPInstanceUID = UID(instance)
    ds.StudyDate = "20200101"
    ds.Modality = "US"
    ds.PatientName = PLANTED_NAME
    ds.PatientID = PLANTED_ID
    ds.StudyInstanceUID = UID(study)
    ds.SeriesInstanceUID = UID(f"{study}.1")
    ds.Rows = 1
    ds.Columns = pixel_bytes
    ds.add_new("PixelData", "OB", bytes(pixel_bytes))
    return ds


def encode(ds: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> BytesIO:
    """Encode a dataset as it goes over the wire."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax.is_implicit_VR
    buffer.is_little_endian = transfer_syntax.is_little_endian
    write_dataset(buffer, ds)
    return BytesIO(buffer.getvalue())


def make_received(
    study: str = "1.2.3", number: int = 1, content: str = "a", patient_id: str = "P1"
) -> ReceivedInstance:
    """Make what the ledger enters; `content` stands for the bytes."""
    sha256 = hashlib.sha256(f"{study} {number} {content}".encode()).hexdigest()
    return ReceivedInstance(
        study_instance_uid=study,
        patient_id=patient_id,
        spooled=SpooledInstance(
            sop_instance_uid=f"{study}.1.{number}",
            series_instance_uid=f"{study}.1",
            sop_class_uid=str(UltrasoundMultiFrameImageStorage),
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
            path=f"{sha256[:2]}/{sha256}.dcm",
            sha256=sha256,
            size_bytes=100,
        ),
    )


def spool_instance(
    spool: Spool, *, study: str = "1.2.3", number: int = 1, content: int = 0
) -> ReceivedInstance:
    """Put an instance into the spool, and not into the ledger; other contents have other sizes."""
    ds = make_dataset(study=study, instance=f"{study}.1.{number}", pixel_bytes=64 + 2 * content)
    file = spool.keep(
        encode(ds).getvalue(),
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return ReceivedInstance(
        study_instance_uid=study,
        patient_id=PLANTED_ID,
        spooled=SpooledInstance(
            sop_instance_uid=ds.SOPInstanceUID,
            series_instance_uid=ds.SeriesInstanceUID,
            sop_class_uid=ds.SOPClassUID,
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
            path=file.path,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
        ),
    )


def receive_instance(
    spool: Spool, ledger: Ledger, *, study: str = "1.2.3", number: int = 1, content: int = 0, now: float = 0
) -> ReceivedInstance:
    """Put an instance into spool and ledger, as an association that is over does."""
    received = spool_instance(spool, study=study, number=number, content=content)
    ledger.record_instance(received, association="a", hold_until=now, now=now)
    return received


def finish_studies(ledger: Ledger, *, now: float) -> None:
    """Let everything that was received be complete, be claimed and be done, at one moment."""
    ledger.complete_studies(CompletionRule(quiet_period_s=0, max_age_s=0.001), now=now)
    while claimed := ledger.claim_studies(worker="w", limit=8, lease_s=60, max_attempts=3, now=now):
        for study in claimed:
            with ledger.committing(study.claim_token, now=now):
                pass
