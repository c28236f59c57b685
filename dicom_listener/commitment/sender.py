"""Storage Commitment Push Model, as SCP (PS3.4 Annex J): verifying and reporting.

Each request is reported on a new association to the address that is configured for its requester, in
which we keep the role of SCP (PS3.4 J.3.3, PS3.7 D.3.3.4). What does not get through is tried again
with growing pauses, also by another process and after a restart: the ledger knows what is due.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, Self

import structlog
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentMetrics
from dicom_listener.commitment.records import Commitment, Verdict
from dicom_listener.commitment.statuses import FailureReason, ReportEvent
from dicom_listener.commitment.verification import verify_references
from dicom_listener.errors import LedgerUnavailableError, PeerError, PeerRefusedError
from dicom_listener.log import describe_error
from dicom_listener.peers.configured import peer_of_ae_title
from dicom_listener.peers.outgoing import Caller
from dicom_listener.settings import ListenerSettings

LONGEST_PAUSE_S: Final = 3600.0
"""The pause between two attempts grows up to this."""

_LEASE_S: Final = 300.0
"""After a crash, what was being reported is due again after so long."""

_AT_ONCE: Final = 20
_VERDICT_IS_GOOD_S: Final = 3600.0
_GRACE_S: Final = 0.5  # for an answer that is on its way when we stop
_JOIN_S: Final = 10.0

_log = structlog.get_logger(__name__)


class CommitmentSender:
    """A thread that verifies and reports what is due, while its `with` block runs."""

    def __init__(
        self,
        ledger: CommitmentLedger,
        settings: ListenerSettings,
        metrics: CommitmentMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make the sender; it starts with its `with` block.

        Args:
            ledger: what is due, and where the outcome goes.
            settings: spool, peers, our AE title, pauses and time limits.
            metrics: where attempts are counted.
            clock: seconds since the epoch.

        Raises:
            StartRefusedError: if a peer is called over TLS and the TLS files cannot be used.
        """
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._caller = Caller.of(settings)
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitment-sender", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(_GRACE_S)
        self._caller.stop()
        self._thread.join(_JOIN_S)

    def wake(self) -> None:
        """Look at once for what is due."""
        self._wake.set()

    def report_due(self) -> int:
        """Verify and report what is due now.

        Returns:
            How many requests were looked at.

        Raises:
            LedgerUnavailableError: if the ledger cannot be used; what was not reported stays due.
        """
        due = self._ledger.take_due(lease_s=_LEASE_S, limit=_AT_ONCE, now=self._clock())
        due.sort(key=lambda commitment: commitment.requester)
        for requester, commitments in groupby(due, key=lambda commitment: commitment.requester):
            self._report_to(requester, list(commitments))
        return len(due)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._settings.housekeeping_s)
            self._wake.clear()
            try:
                while not self._stopping and self.report_due():
                    pass
            except LedgerUnavailableError as error:
                _log.warning("commitments_not_reported", error=describe_error(error))
            except Exception:  # noqa: BLE001 - pynetdicom may raise anything; what was taken is due again
                _log.exception("commitments_not_reported")

    def _report_to(self, requester: str, commitments: Sequence[Commitment]) -> None:
        for commitment in commitments:
            self._verify(commitment)
        waiting = list(commitments)
        try:
            peer = peer_of_ae_title(self._settings.peers, requester)
            if peer is None:
                raise PeerRefusedError(
                    f"No peer has the AE title {requester} any more: add it as [[listener.peers]], then "
                    "`echobeam commitments retry`"
                )
            with self._caller.associated(peer, _contexts(), roles=[_ROLE]) as assoc:
                while waiting:
                    self._report(assoc, waiting[0])
                    waiting.pop(0)
        except PeerError as error:
            for commitment in waiting:  # the first of them failed, and its association with it
                self._postpone(commitment, error)

    def _verify(self, commitment: Commitment) -> None:
        now = self._clock()
        if commitment.verified_at is not None and now - commitment.verified_at < _VERDICT_IS_GOOD_S:
            return
        references = [verdict.reference for verdict in self._ledger.verdicts(commitment.commitment_id)]
        if commitment.is_duplicate:
            reason = FailureReason.DUPLICATE_TRANSACTION_UID
            verdicts = [Verdict(reference, reason, None) for reference in references]
        else:
            verdicts = verify_references(self._ledger, self._settings.spool, references)
        self._ledger.enter_verdicts(commitment.commitment_id, verdicts, now=now)

    def _report(self, assoc: Association, commitment: Commitment) -> None:
        verdicts = self._ledger.verdicts(commitment.commitment_id)
        event, information = build_report(commitment.transaction_uid, verdicts)
        send_report(assoc, event, information)
        self._ledger.note_reported(commitment.commitment_id, now=self._clock())
        failed = sum(verdict.failure_reason is not None for verdict in verdicts)
        self._metrics.reports.labels("taken").inc()
        self._metrics.instances.labels("committed").inc(len(verdicts) - failed)
        self._metrics.instances.labels("failed").inc(failed)
        log = _log.warning if failed else _log.info
        log(
            "commitment_reported",
            commitment=commitment.commitment_id,
            requester=commitment.requester,
            committed=len(verdicts) - failed,
            failed=failed,
        )

    def _postpone(self, commitment: Commitment, error: PeerError) -> None:
        if self._stopping:
            self._ledger.release(commitment.commitment_id, now=self._clock())  # we ended it: no attempt
            return
        now = self._clock()
        pause_s = min(
            self._settings.commitment_retry_s * 2.0 ** min(commitment.attempts, 30), LONGEST_PAUSE_S
        )
        is_over = now + pause_s - commitment.requested_at > self._settings.commitment_give_up_s
        self._metrics.reports.labels("failed").inc()
        self._ledger.note_failure(commitment, str(error), next_attempt_at=None if is_over else now + pause_s)
        _log.warning(
            "commitment_given_up" if is_over else "commitment_not_reported",
            commitment=commitment.commitment_id,
            requester=commitment.requester,
            attempts=commitment.attempts + 1,
            retried_in_s=None if is_over else pause_s,
            error=describe_error(error),
        )


def build_report(transaction_uid: str, verdicts: Iterable[Verdict]) -> tuple[ReportEvent, Dataset]:
    """Build the event information of an N-EVENT-REPORT (PS3.4 Table J.3-2).

    Every reference of the request is in it, among the committed or among the failed. There is no
    Retrieve AE Title: nothing can be retrieved from us.
    """
    committed, failed = [], []
    for verdict in verdicts:
        item = Dataset()
        item.ReferencedSOPClassUID = verdict.reference.sop_class_uid
        item.ReferencedSOPInstanceUID = verdict.reference.sop_instance_uid
        if verdict.failure_reason is None:
            committed.append(item)
        else:
            item.FailureReason = verdict.failure_reason
            failed.append(item)
    information = Dataset()
    information.TransactionUID = transaction_uid
    if committed:
        information.ReferencedSOPSequence = DicomSequence(committed)
    if failed:
        information.FailedSOPSequence = DicomSequence(failed)
    return ReportEvent.FAILURES_EXIST if failed else ReportEvent.ALL_COMMITTED, information


def send_report(assoc: Association, event: ReportEvent, information: Dataset) -> None:
    """Send a report and wait until the requester has taken it.

    Raises:
        PeerRefusedError: if it answers with a failure, or not.
    """
    try:
        status, _ = assoc.send_n_event_report(
            information, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except RuntimeError as error:
        raise PeerRefusedError("the association ended before the report was sent") from error
    if "Status" not in status:
        raise PeerRefusedError("the requester did not answer the report in time")
    if status.Status != 0x0000:
        raise PeerRefusedError(f"the requester answered the report with status 0x{status.Status:04X}")


def _contexts() -> list[object]:
    return [build_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]


_ROLE: Final = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
