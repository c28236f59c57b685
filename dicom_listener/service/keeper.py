"""The keeping half of the listener: what there is once, however many processes receive.

It owns the spool, brings spool and ledger together at the start, completes studies, reports
commitments, asks the archive, deletes what may be deleted, and answers those who watch.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final, Self

import structlog

from dicom_listener.association.slots import Slots
from dicom_listener.association.tls import CertificateCollector
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentCollector
from dicom_listener.commitment.sender import CommitmentSender
from dicom_listener.errors import RetryLaterError, SpoolUnavailableError
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.metrics import LedgerCollector
from dicom_listener.log import describe_error
from dicom_listener.operations.health import serve_http
from dicom_listener.operations.shared_metrics import Registries
from dicom_listener.peers.evidence import CompletionEvidence
from dicom_listener.peers.evidence_ledger import EvidenceLedger
from dicom_listener.peers.metrics import EvidenceMetrics
from dicom_listener.service.housekeeping import Housekeeper, completing_studies, sweeping
from dicom_listener.service.receiver import SLOTS_FOLDER
from dicom_listener.service.tools import Tools
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.capacity import DiskCollector
from dicom_listener.spool.metrics import KeepingMetrics, LostFilesCollector
from dicom_listener.spool.reconcile import reconcile
from dicom_listener.spool.retention import PrunedStudy, RetentionRule, pruning
from dicom_listener.spool.writing import Spool

_DRAIN_MARGIN_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Keeper:
    """Keeps spool and ledger while its `with` block runs.

    Args:
        settings: everything.
        is_receiving: whether somebody receives for it; asked on every `/readyz`.
        registries: of this process's metrics, and of what is served.
        clock: seconds since the epoch.

    Attributes:
        http_port: where it answers /metrics, /healthz and /readyz.
        tools: spool, ledger, metrics and the disk's reserve.
        sender: reports commitments.

    Raises:
        CertificateError: on entry, if TLS cannot work.
        SpoolLockedError: on entry, if another listener receives into the same spool.
        PortInUseError: on entry, if the HTTP port is taken.
        SpoolUnavailableError: on entry, if the spool cannot be made or read.
        LedgerUnavailableError: on entry, if the ledger cannot be opened.
        LedgerVersionError: on entry, if a newer release made the ledger.
    """

    http_port: int
    tools: Tools
    sender: CommitmentSender

    def __init__(
        self,
        settings: ListenerSettings,
        is_receiving: Callable[[], bool],
        *,
        registries: Registries | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._is_receiving = is_receiving
        self._registries = registries or Registries.of_one_process()
        self._clock = clock
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_ready(self) -> bool:
        """Say whether an instance sent now could be kept."""
        reception = self.tools.reception
        if not self._is_receiving() or not self._housekeeper.is_alive() or self.tools.reserve.is_low():
            return False
        try:
            reception.spool.check_writable()
            reception.ledger.check_writable()
        except RetryLaterError as error:
            _log.warning("not_ready", error=describe_error(error))
            return False
        return True

    def _start(self, stack: ExitStack) -> None:
        settings, clock = self._settings, self._clock
        warn_about(settings)
        patience_s = settings.drain_s + _DRAIN_MARGIN_S
        stack.enter_context(Spool(settings.spool).receiving(patience_s=patience_s))
        Slots(settings.root / SLOTS_FOLDER).clear()
        self.tools = stack.enter_context(Tools.opened(settings, self._registries.own, clock))
        keeping = KeepingMetrics(self._registries.own)
        self._bring_together(keeping)
        reception = self.tools.reception
        ledger = reception.ledger
        commitments = CommitmentLedger(ledger)
        self.sender = stack.enter_context(
            CommitmentSender(commitments, settings, self.tools.commitment_metrics, clock=clock)
        )
        evidence_metrics = EvidenceMetrics(self._registries.own)
        stack.enter_context(
            CompletionEvidence(EvidenceLedger(ledger), settings, evidence_metrics, clock=clock)
        )
        chores = [
            *self.tools.receiving_chores(),
            completing_studies(ledger, CompletionRule(settings.quiet_period_s, settings.max_age_s)),
            sweeping(reception.spool, settings.object_timeout_s),
            pruning(settings.spool, ledger, RetentionRule.of(settings), partial(self._note_pruned, keeping)),
        ]
        self._housekeeper = stack.enter_context(Housekeeper(chores, settings.housekeeping_s, clock))
        served = self._registries.served
        for collector in (
            LedgerCollector(ledger, clock),
            LostFilesCollector(ledger),
            CommitmentCollector(commitments, clock),
            DiskCollector(self.tools.reserve),
            CertificateCollector(self.tools.tls),
        ):
            served.register(collector)
        health = stack.enter_context(
            serve_http(settings.http_host, settings.http_port, served, self.is_ready)
        )
        self.http_port = health.port

    def _bring_together(self, keeping: KeepingMetrics) -> None:
        reception = self.tools.reception
        try:
            report = reconcile(reception.spool, reception.ledger, now=self._clock())
        except OSError as error:
            raise SpoolUnavailableError(
                f"The spool {reception.spool.root} cannot be compared with the ledger ({error.strerror}): "
                "give the listener's user the right to read and write all of it"
            ) from error
        keeping.observe_reconciliation(report)
        reception.metrics.spool_bytes.set(reception.spool.size_bytes())

    def _note_pruned(self, keeping: KeepingMetrics, study: PrunedStudy) -> None:
        keeping.observe_pruned(study)
        self.tools.reception.metrics.spool_bytes.dec(study.size_bytes)


def warn_about(settings: ListenerSettings) -> None:
    """Log what is allowed, and should be known to whoever allowed it."""
    if settings.allow_any_peer:
        _log.warning(
            "every_sender_is_accepted",
            advice="name those that are meant as [[listener.allow]], and remove allow_any_peer",
        )
    elif not settings.allow and not settings.is_local:
        _log.warning(
            "only_this_machine_may_send",
            advice="name the senders that are meant as [[listener.allow]]: all others are rejected",
        )
