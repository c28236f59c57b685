"""The DICOM side: what happens on each event of an association.

Handlers are plain functions of the event; what they return goes on the wire.
"""

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.events import Event

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.log import describe_error
from dicom_listener.reception.contexts import supported_contexts
from dicom_listener.reception.incoming import HOLD_S, IncomingInstance, OpenAssociations, Reception, Tally
from dicom_listener.reception.statuses import EchoStatus, status_elements
from dicom_listener.settings import ListenerSettings

__all__ = [
    "HOLD_S",
    "OpenAssociations",
    "Reception",
    "Tally",
    "handlers",
    "make_application_entity",
]

_log = structlog.get_logger(__name__)


def make_application_entity(settings: ListenerSettings) -> AE:
    """Build the AE: contexts, limits and timeouts, but not yet listening."""
    _config.LOG_HANDLER_LEVEL = "none"  # its log lines hold what peers sent
    ae = AE(ae_title=settings.ae_title)
    ae.supported_contexts = supported_contexts()
    ae.maximum_associations = settings.maximum_associations
    ae.maximum_pdu_size = settings.maximum_pdu_bytes
    ae.acse_timeout = settings.negotiation_timeout_s
    ae.network_timeout = settings.network_timeout_s
    return ae


def handlers(reception: Reception) -> list[evt.EventHandlerType]:
    """List the handlers for `server.start_server`."""
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
    """Count and tell of an association that pynetdicom itself did not accept, as malformed."""
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
    """Keep an instance whose dataset pynetdicom has collected, and answer the C-STORE request.

    That is one that came over an association which we requested (C-GET). Those that come to the server
    go the same way, fragment by fragment. The dataset is not decoded: what the sender encoded is what
    is kept.

    Returns:
        See `IncomingInstance.finish`.
    """
    request = event.request
    with IncomingInstance(
        reception,
        reception.open_associations.tally(event.assoc),
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        transfer_syntax=event.context.transfer_syntax,
    ) as instance:
        if request.DataSet is not None:
            with request.DataSet.getbuffer() as dataset:
                instance.write(dataset)
        answer = instance.finish()
    return status_elements(answer) if answer.comment else answer.status


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
