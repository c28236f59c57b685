"""Storage Commitment Push Model, as SCP (PS3.4 Annex J): taking requests.

A request is checked and kept in the ledger before Success is answered; that says that it will be
reported, not what. `CommitmentSender` verifies and reports, on an association of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentMetrics
from dicom_listener.commitment.records import Reference
from dicom_listener.commitment.sender import CommitmentSender
from dicom_listener.commitment.statuses import REQUEST_STORAGE_COMMITMENT, ActionStatus
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.log import describe_error
from dicom_listener.peers.configured import peer_of_ae_title
from dicom_listener.settings import Peer

__all__ = [
    "MAXIMUM_REFERENCES",
    "CommitmentProvider",
    "CommitmentSender",
    "contexts",
    "handlers",
    "on_n_action",
]

MAXIMUM_REFERENCES: Final = 50_000
"""Instances that one request may refer to."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CommitmentProvider:
    """What the handler works with.

    Attributes:
        peers: who may request.
        clock: seconds since the epoch.
        wake: called when there is something to report.
    """

    ledger: CommitmentLedger
    peers: Sequence[Peer]
    metrics: CommitmentMetrics
    clock: Callable[[], float]
    wake: Callable[[], None] = lambda: None


class _RequestError(Exception):
    """The request is refused; `reason` is safe as a metric label."""

    def __init__(self, status: ActionStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def contexts() -> list[PresentationContext]:
    """Build the presentation context of storage commitment, for the AE's supported contexts."""
    return [build_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]


def handlers(provider: CommitmentProvider) -> list[evt.EventHandlerType]:
    """List the handlers for the server."""
    return [(evt.EVT_N_ACTION, on_n_action, [provider])]


def on_n_action(event: Event, provider: CommitmentProvider) -> tuple[int, Dataset | None]:
    """Keep a request of storage commitment and answer it.

    Returns:
        SUCCESS only once the request is in the ledger (PS3.4 J.3.2.1.3): it will be reported. Another
        status if it is not taken, with a line in the log that says why.
    """
    requester = str(event.assoc.requestor.ae_title).strip()
    try:
        transaction_uid, references = _read_request(event, provider.peers, requester)
        outcome = provider.ledger.request(
            transaction_uid=transaction_uid, requester=requester, references=references, now=provider.clock()
        )
    except _RequestError as refused:
        provider.metrics.requests.labels(refused.reason).inc()
        _log.warning("commitment_refused", requester=requester, reason=refused.reason, error=str(refused))
        return refused.status, None
    except LedgerUnavailableError as error:
        provider.metrics.requests.labels(error.reason).inc()
        _log.warning("commitment_refused", requester=requester, error=describe_error(error))
        return ActionStatus.PROCESSING_FAILURE, None
    provider.metrics.requests.labels(outcome.value).inc()
    _log.info("commitment_requested", requester=requester, outcome=outcome.value, instances=len(references))
    provider.wake()
    return ActionStatus.SUCCESS, None


def _read_request(event: Event, peers: Sequence[Peer], requester: str) -> tuple[str, list[Reference]]:
    if peer_of_ae_title(peers, requester) is None:
        raise _RequestError(
            ActionStatus.NOT_AUTHORIZED,
            "unknown_requester",
            "no peer has this AE title, so there is no address to report to: add it as [[listener.peers]]",
        )
    if event.action_type != REQUEST_STORAGE_COMMITMENT:
        raise _RequestError(ActionStatus.NO_SUCH_ACTION, "malformed", "its action type is not 1")
    if event.request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        raise _RequestError(
            ActionStatus.NO_SUCH_SOP_INSTANCE,
            "malformed",
            "it is not for the well-known instance of the storage commitment push model",
        )
    try:
        information = event.action_information
        transaction_uid = str(information.TransactionUID)
        items = list(information.ReferencedSOPSequence)
        pairs = [(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in items]
    except Exception as error:  # a parser fed by the wire may raise anything
        raise _malformed(f"it cannot be read ({type(error).__name__})") from error
    return transaction_uid, _references(transaction_uid, pairs)


def _references(transaction_uid: str, pairs: Sequence[tuple[str, str]]) -> list[Reference]:
    if not pairs:
        raise _malformed("it refers to nothing")
    if len(pairs) > MAXIMUM_REFERENCES:
        raise _RequestError(
            ActionStatus.RESOURCE_LIMITATION,
            "too_large",
            f"it refers to {len(pairs)} instances, and {MAXIMUM_REFERENCES} are the most",
        )
    if not all(_is_uid(uid) for uid in (transaction_uid, *(uid for pair in pairs for uid in pair))):
        raise _malformed("a UID in it is not valid (PS3.5 section 9.1)")
    classes = {instance: sop_class for sop_class, instance in pairs}
    if any(classes[instance] != sop_class for sop_class, instance in pairs):
        raise _malformed("it refers to one instance by two SOP classes")
    return [Reference(sop_class, instance) for instance, sop_class in classes.items()]


def _malformed(message: str) -> _RequestError:
    return _RequestError(ActionStatus.INVALID_ARGUMENT_VALUE, "malformed", message)


def _is_uid(text: str) -> bool:
    return UID(text, validation_mode=config.IGNORE).is_valid
