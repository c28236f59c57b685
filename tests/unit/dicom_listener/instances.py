"""Small datasets and ledger entries for the listener's tests."""

import hashlib
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from dicom_listener.ledger import ReceivedInstance, SpooledInstance

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
