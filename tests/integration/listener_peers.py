"""What the listener's tests do as its peers."""

import socket

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage, Verification

from tests.programs import DEADLINE_S


def associate(
    port: int,
    sop_class: str = UltrasoundMultiFrameImageStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Association:
    """Open an association for one storage class and for verification."""
    ae = AE(ae_title="TESTER")
    ae.add_requested_context(UID(sop_class), UID(transfer_syntax))
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    assert assoc.is_established
    return assoc


def store(assoc: Association, ds: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> int:
    """Send one instance and give the status of the answer."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return int(assoc.send_c_store(ds).Status)


def is_refused(port: int) -> bool:
    """Say whether nobody listens on the port any more."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except ConnectionError:
        return True
    return False
