"""Kept instances and requests of storage commitment for the listener's tests."""

from pathlib import Path

from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from dicom_listener.commitment.records import Reference
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import encode, make_dataset

US = str(UltrasoundMultiFrameImageStorage)


def keep(
    spool: Spool,
    ledger: Ledger,
    number: int,
    *,
    study: str = "1.2.3",
    uid: str | None = None,
    now: float = 0.0,
) -> Path:
    """Receive an instance, `<study>.1.<number>` unless another UID is given; give its file."""
    uid = uid or f"{study}.1.{number}"
    spool.root.mkdir(parents=True, exist_ok=True)
    syntax = "1.2.840.10008.1.2.1"
    file = spool.keep(
        encode(make_dataset(study=study, instance=uid)).getbuffer(),
        sop_class_uid=US,
        sop_instance_uid=uid,
        transfer_syntax_uid=syntax,
    )
    spooled = SpooledInstance(uid, f"{study}.1", US, syntax, file.path, file.sha256, file.size_bytes)
    received = ReceivedInstance(study, "P1", spooled)
    ledger.record_instance(received, association="a", hold_until=now, now=now)
    return spool.root / file.path


def references(*numbers: int, study: str = "1.2.3", sop_class: str = US) -> list[Reference]:
    """Refer to instances `<study>.1.<number>`."""
    return [Reference(sop_class, f"{study}.1.{number}") for number in numbers]
