"""The DICOM side: what happens on each event of an association.

Handlers are plain functions of the event; what they return goes on the wire.
"""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_listener.contexts import supported_contexts
from dicom_listener.errors import (
    LedgerUnavailableError,
    ListenerError,
    MismatchedInstanceError,
    RefusedInstanceError,
    RetryLaterError,
    UnreadableHeaderError,
)
from dicom_listener.header import read_identity
from dicom_listener.ledger import Ledger, ReceivedInstance, RecordOutcome, SpooledInstance
from dicom_listener.log import describe_error
from dicom_listener.metrics import ListenerMetrics
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool import Spool
from dicom_listener.statuses import EchoStatus, StoreStatus, failure_response

HOLD_S: Final = 30.0
"""How long an association holds its studies unless it is extended, so that a crash ends the hold."""

_log = structlog.get_logger(__name__)


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
    """What the handlers work with."""

    spool: Spool
    ledger: Ledger
    metrics: ListenerMetrics
    clock: Callable[[], float] = time.time
    open_associations: OpenAssociations = field(default_factory=OpenAssociations)


def make_application_entity(settings: ListenerSettings) -> AE:
    """Build the AE: contexts, limits and timeouts, but not yet listening."""
    _config.LOG_HANDLER_LEVEL = "none"  # its log lines hold what peers sent
    ae = AE(ae_title=settings.ae_title)
    ae.supported_contexts = supported_contexts()
    ae.maximum_associations = settings.maximum_associations
    ae.maximum_pdu_size = settings.maximum_pdu_bytes
    ae.acse_timeout = settings.negotiation_timeout_s  # silent connections count as associations too
    ae.network_timeout = settings.network_timeout_s
    return ae


def handlers(reception: Reception) -> list[evt.EventHandlerType]:
    """List the handlers for `AE.start_server`."""
    return [
        (evt.EVT_ACCEPTED, on_accepted, [reception]),
        (evt.EVT_C_ECHO, on_c_echo),
        (evt.EVT_C_STORE, on_c_store, [reception]),
        (evt.EVT_REJECTED, on_rejected, [reception]),
        # However it ends; the first of these counts, the others find it gone.
        (evt.EVT_RELEASED, on_association_over, [reception]),
        (evt.EVT_ABORTED, on_association_over, [reception]),
        (evt.EVT_CONN_CLOSE, on_association_over, [reception]),
    ]


def on_accepted(event: Event, reception: Reception) -> None:
    """Count an association that was accepted, and tell which of its contexts were not."""
    tally = Tally(
        opened_at=reception.clock(),
        peer=str(event.assoc.requestor.address),
        calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
        refused_contexts=sorted({context.abstract_syntax.name for context in event.assoc.rejected_contexts}),
    )
    reception.open_associations.open(event.assoc, tally)
    reception.metrics.associations.labels("accepted").inc()
    reception.metrics.open_associations.inc()


def on_rejected(event: Event, reception: Reception) -> None:
    """Count and tell of an association that was not accepted: too many are open, or it is malformed."""
    reception.metrics.associations.labels("rejected").inc()
    _log.warning(
        "association_rejected",
        peer=str(event.assoc.requestor.address),
        calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
    )


def on_c_echo(_event: Event) -> int:
    """Answer a C-ECHO request."""
    return EchoStatus.SUCCESS


def on_c_store(event: Event, reception: Reception) -> Dataset | int:
    """Keep the received instance and answer the C-STORE request.

    The dataset is not decoded: what the sender encoded is what is kept.

    Returns:
        SUCCESS only once the instance is on disk and in the ledger. OUT_OF_RESOURCES if it cannot be
        kept now, so that the sender retries; another failure if it never will (PS3.4 Table B.2-1).
    """
    tally = reception.open_associations.tally(event.assoc)
    try:
        with reception.metrics.store_seconds.time():
            outcome, size_bytes = _keep(event, reception, tally.association)
    except (RefusedInstanceError, RetryLaterError) as error:
        tally.refused += 1
        reception.metrics.refused_instances.labels(error.reason).inc()
        _log_refusal(error, tally)
        return failure_response(error)
    tally.instances[outcome] += 1
    tally.size_bytes += size_bytes
    reception.metrics.received_instances.labels(outcome.value).inc()
    reception.metrics.received_bytes.inc(size_bytes)
    reception.metrics.last_success.set(reception.clock())
    return StoreStatus.SUCCESS


def on_association_over(event: Event, reception: Reception) -> None:
    """Let go of the association's studies and write its line in the log."""
    tally = reception.open_associations.close(event.assoc)
    if tally is None:
        return  # never accepted, or over already
    reception.metrics.open_associations.dec()
    try:
        reception.ledger.release_holds(tally.association)
    except LedgerUnavailableError as error:
        _log.warning("holds_not_released", error=describe_error(error), holds_end_within_s=HOLD_S)
    _log.info(
        "association",
        association=tally.association,
        peer=tally.peer,
        calling_ae_title=tally.calling_ae_title,
        refused_contexts=tally.refused_contexts,
        duration_s=round(reception.clock() - tally.opened_at, 3),
        **{outcome.value: count for outcome, count in tally.instances.items()},
        refused=tally.refused,
        received_bytes=tally.size_bytes,
    )


def _keep(event: Event, reception: Reception, association: str) -> tuple[RecordOutcome, int]:
    request = event.request
    if request.DataSet is None:
        raise UnreadableHeaderError("The C-STORE request has no dataset")
    transfer_syntax = event.context.transfer_syntax
    request.DataSet.seek(0)
    identity = read_identity(request.DataSet, transfer_syntax)
    announced = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
    if announced != (identity.sop_class_uid, identity.sop_instance_uid):
        raise MismatchedInstanceError(
            "The SOP Class or Instance UID of the command is not the dataset's (PS3.4 Table B.2-1)"
        )
    with request.DataSet.getbuffer() as dataset:
        file = reception.spool.keep(
            dataset,
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            transfer_syntax_uid=transfer_syntax,
        )
    if file.is_new:
        reception.metrics.spool_bytes.inc(file.size_bytes)
    now = reception.clock()
    outcome = reception.ledger.record_instance(
        ReceivedInstance(
            study_instance_uid=identity.study_instance_uid,
            patient_id=identity.patient_id,
            spooled=SpooledInstance(
                sop_instance_uid=identity.sop_instance_uid,
                series_instance_uid=identity.series_instance_uid,
                sop_class_uid=identity.sop_class_uid,
                transfer_syntax_uid=str(transfer_syntax),
                path=file.path,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
            ),
        ),
        association=association,
        hold_until=now + HOLD_S,
        now=now,
    )
    return outcome, file.size_bytes


def _log_refusal(error: ListenerError, tally: Tally) -> None:
    _log.warning(
        "instance_refused",
        association=tally.association,
        peer=tally.peer,
        calling_ae_title=tally.calling_ae_title,
        error=describe_error(error),
    )
