"""From the fragments of a dataset to a durable file and a row in the ledger, in constant memory.

Fragments are written to an unfinished file of the spool as they come, and digested on the way. What
the instance is and whose is read from the head of the dataset once all of it is there. A refusal that
is known before the end is kept until then: DIMSE has no answer before the last fragment.
"""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, Protocol, Self

import structlog
from pydicom.uid import UID
from pynetdicom.association import Association

from dicom_listener.errors import (
    InvalidInstanceUidError,
    ListenerError,
    MismatchedInstanceError,
    OversizedInstanceError,
    RefusedInstanceError,
    RetryLaterError,
    SpoolUnavailableError,
    UnreadableHeaderError,
    UnsupportedSopClassError,
)
from dicom_listener.ledger import Ledger, ReceivedInstance, RecordOutcome, SpooledInstance
from dicom_listener.log import describe_error
from dicom_listener.reception.contexts import STORAGE_CLASSES
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.reception.statuses import StoreAnswer, StoreStatus, failure_answer
from dicom_listener.spool.header import InstanceIdentity, is_valid_uid, read_identity
from dicom_listener.spool.writing import Spool, SpooledFile, SpoolWriter

HOLD_S: Final = 30.0
"""How long an association holds its studies unless it is extended, so that a crash ends the hold."""

UNLIMITED: Final = 2**63
_HEAD_BYTES: Final = 64 * 1024
_LOOK_AGAIN_BYTES: Final = 32 * 1024 * 1024
"""How much is written until the disk's reserve is looked at again."""

_log = structlog.get_logger(__name__)


class Capacity(Protocol):
    """Says whether there is room for more."""

    def check(self) -> None:
        """Refuse to go on while there is none.

        Raises:
            RetryLaterError: if there is none.
        """


@dataclass(slots=True)
class Tally:
    """What one association has done so far. Only that association's thread counts."""

    association: str = field(default_factory=lambda: uuid.uuid4().hex)
    opened_at: float = 0.0
    peer: str = ""
    calling_ae_title: str = ""
    refused_contexts: list[str] = field(default_factory=list)
    instances: dict[RecordOutcome, int] = field(default_factory=lambda: dict.fromkeys(RecordOutcome, 0))
    refused: int = 0
    size_bytes: int = 0


class OpenAssociations:
    """The associations that are open now, with their tallies. Thread-safe."""

    def __init__(self) -> None:
        self._tallies: dict[Association, Tally] = {}
        self._lock = threading.Lock()

    def open(self, assoc: Association, tally: Tally) -> None:
        """Enter an association."""
        with self._lock:
            self._tallies[assoc] = tally

    def tally(self, assoc: Association) -> Tally:
        """Give an association's tally; a new one if its connection is gone already."""
        with self._lock:
            return self._tallies.get(assoc) or Tally()

    def close(self, assoc: Association) -> Tally | None:
        """Remove an association; None if it was removed before or never accepted."""
        with self._lock:
            return self._tallies.pop(assoc, None)

    def names(self) -> list[str]:
        """Name the open associations as the ledger knows them."""
        with self._lock:
            return [tally.association for tally in self._tallies.values()]


@dataclass(frozen=True, slots=True)
class Reception:
    """What receiving works with.

    Attributes:
        capacity: asked before an instance is begun, and now and then while it grows; None for no limit.
    """

    spool: Spool
    ledger: Ledger
    metrics: ListenerMetrics
    clock: Callable[[], float] = time.time
    open_associations: OpenAssociations = field(default_factory=OpenAssociations)
    capacity: Capacity | None = None


class IncomingInstance:
    """One C-STORE request whose dataset is on its way. Leaving its `with` block leaves nothing unfinished.

    Args:
        reception: where it goes.
        tally: of the association that brings it.
        sop_class_uid: as the command announces it.
        sop_instance_uid: likewise; checked here.
        transfer_syntax: what the dataset is encoded in.
        maximum_bytes: largest dataset that is kept.
    """

    def __init__(
        self,
        reception: Reception,
        tally: Tally,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: UID,
        maximum_bytes: int = UNLIMITED,
    ) -> None:
        self._reception = reception
        self._tally = tally
        self._announced = (sop_class_uid, sop_instance_uid)
        self._transfer_syntax = transfer_syntax
        self._maximum_bytes = maximum_bytes
        self._head = bytearray()
        self._look_again_at = _LOOK_AGAIN_BYTES
        self._writer: SpoolWriter | None = None
        self._refusal: ListenerError | None = None
        try:
            self._writer = self._begin()
        except (RefusedInstanceError, RetryLaterError) as error:
            self._refusal = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, fragment: bytes | memoryview) -> None:
        """Take the next fragment of the dataset; dropped if the instance is refused already."""
        if self._writer is None:
            return
        try:
            self._write(self._writer, fragment)
        except (RefusedInstanceError, RetryLaterError) as error:
            self._refusal = error
            self.discard()

    def finish(self) -> StoreAnswer:
        """Keep the instance, now that its dataset is whole; count it, or log why not.

        Returns:
            SUCCESS only once the instance is on disk and in the ledger. OUT_OF_RESOURCES if it cannot be
            kept now, so that the sender retries; another failure if it never will (PS3.4 Table B.2-1).
        """
        metrics, tally = self._reception.metrics, self._tally
        try:
            with self, metrics.store_seconds.time():
                outcome, size_bytes = self._keep()
        except (RefusedInstanceError, RetryLaterError) as error:
            tally.refused += 1
            metrics.refused_instances.labels(error.reason).inc()
            _log.warning(
                "instance_refused",
                association=tally.association,
                peer=tally.peer,
                calling_ae_title=tally.calling_ae_title,
                reason=error.reason,
                error=describe_error(error),
            )
            return failure_answer(error)
        tally.instances[outcome] += 1
        tally.size_bytes += size_bytes
        metrics.received_instances.labels(outcome.value).inc()
        metrics.received_bytes.inc(size_bytes)
        metrics.last_success.set(self._reception.clock())
        return StoreAnswer(StoreStatus.SUCCESS)

    def discard(self) -> None:
        """Leave nothing of it in the spool, unless it is finished. Harmless to repeat."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _begin(self) -> SpoolWriter:
        sop_class_uid, sop_instance_uid = self._announced
        if sop_class_uid not in STORAGE_CLASSES:
            raise UnsupportedSopClassError(
                "The command names a SOP class that is not kept here: send it under a presentation context "
                "of a storage class that was accepted"
            )
        if not is_valid_uid(sop_instance_uid):
            raise InvalidInstanceUidError(
                "The command's Affected SOP Instance UID is not a valid UID (PS3.5 section 9.1)"
            )
        if self._reception.capacity is not None:
            self._reception.capacity.check()
        return self._reception.spool.begin(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=self._transfer_syntax,
        )

    def _write(self, writer: SpoolWriter, fragment: bytes | memoryview) -> None:
        whole = writer.dataset_bytes + len(fragment)
        if whole > self._maximum_bytes:
            raise OversizedInstanceError(
                f"The dataset is larger than the {self._maximum_bytes} bytes that are kept "
                "(maximum_object_bytes): raise it if such instances are expected"
            )
        if whole > self._look_again_at and self._reception.capacity is not None:
            self._look_again_at += _LOOK_AGAIN_BYTES
            self._reception.capacity.check()
        if len(self._head) < _HEAD_BYTES:
            self._head += fragment[: _HEAD_BYTES - len(self._head)]
        writer.write(fragment)

    def _keep(self) -> tuple[RecordOutcome, int]:
        if self._refusal is not None:
            raise self._refusal
        writer = self._writer
        if writer is None or not writer.dataset_bytes:
            raise UnreadableHeaderError("The C-STORE request has no dataset")
        identity = self._read_identity(writer)
        if self._announced != (identity.sop_class_uid, identity.sop_instance_uid):
            raise MismatchedInstanceError(
                "The SOP Class or Instance UID of the command is not the dataset's (PS3.4 Table B.2-1)"
            )
        file = writer.finish()
        if file.is_new:
            self._reception.metrics.spool_bytes.inc(file.size_bytes)
        return self._record(identity, file), file.size_bytes

    def _read_identity(self, writer: SpoolWriter) -> InstanceIdentity:
        if writer.dataset_bytes > len(self._head):
            with suppress(RefusedInstanceError):  # the head may end before what is looked for
                return read_identity(BytesIO(self._head), self._transfer_syntax)
            try:
                with writer.path.open("rb") as file:
                    file.seek(writer.dataset_offset)
                    return read_identity(file, self._transfer_syntax)
            except OSError as error:
                raise SpoolUnavailableError(
                    f"An unfinished file cannot be read ({error.strerror})"
                ) from error
        return read_identity(BytesIO(self._head), self._transfer_syntax)

    def _record(self, identity: InstanceIdentity, file: SpooledFile) -> RecordOutcome:
        now = self._reception.clock()
        return self._reception.ledger.record_instance(
            ReceivedInstance(
                study_instance_uid=identity.study_instance_uid,
                patient_id=identity.patient_id,
                spooled=SpooledInstance(
                    sop_instance_uid=identity.sop_instance_uid,
                    series_instance_uid=identity.series_instance_uid,
                    sop_class_uid=identity.sop_class_uid,
                    transfer_syntax_uid=str(self._transfer_syntax),
                    path=file.path,
                    sha256=file.sha256,
                    size_bytes=file.size_bytes,
                ),
            ),
            association=self._tally.association,
            hold_until=now + HOLD_S,
            now=now,
        )
