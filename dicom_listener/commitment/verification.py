"""Looking whether we keep what somebody wants to delete: row, file, size and digest."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import HeldInstance, Reference, Verdict
from dicom_listener.commitment.statuses import FailureReason
from dicom_listener.reception.contexts import STORAGE_CLASSES


def verify_references(
    ledger: CommitmentLedger, spool: Path, references: Sequence[Reference]
) -> list[Verdict]:
    """Look at each instance that a request refers to. Every file is read to its end.

    Returns:
        A verdict for each reference, in their order.

    Raises:
        LedgerUnavailableError: if the ledger cannot be asked.
    """
    held = ledger.held([reference.sop_instance_uid for reference in references])
    return [_verify(spool, reference, held.get(reference.sop_instance_uid, [])) for reference in references]


def _verify(spool: Path, reference: Reference, held: Sequence[HeldInstance]) -> Verdict:
    if not held:
        is_received = reference.sop_class_uid in STORAGE_CLASSES
        return Verdict(
            reference,
            FailureReason.NO_SUCH_OBJECT_INSTANCE
            if is_received
            else FailureReason.REFERENCED_SOP_CLASS_NOT_SUPPORTED,
            None,
        )
    of_class = [instance for instance in held if instance.sop_class_uid == reference.sop_class_uid]
    if not of_class:
        return Verdict(reference, FailureReason.CLASS_INSTANCE_CONFLICT, None)
    # The same UID may have come in two studies; all that is kept under it must be whole.
    for instance in of_class:
        failure = _look_at_file(spool / instance.path, instance)
        if failure is not None:
            return Verdict(reference, failure, None)
    return Verdict(reference, None, of_class[0].sha256)


def _look_at_file(path: Path, instance: HeldInstance) -> FailureReason | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
    except FileNotFoundError:
        return FailureReason.NO_SUCH_OBJECT_INSTANCE
    except OSError:
        return FailureReason.PROCESSING_FAILURE
    if (digest, size_bytes) != (instance.sha256, instance.size_bytes):
        return FailureReason.PROCESSING_FAILURE
    return None
