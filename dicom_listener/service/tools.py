"""What each process of a listener works with, whether it keeps, receives, or does both."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from prometheus_client import CollectorRegistry

from dicom_listener.association.tls import ServerTls
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentMetrics
from dicom_listener.commitment.requests import CommitmentProvider
from dicom_listener.ledger import ConflictPolicy, Ledger
from dicom_listener.reception.incoming import Reception
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.service.housekeeping import Chore, extending_holds
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.capacity import DiskReserve
from dicom_listener.spool.writing import Spool


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one process.

    Attributes:
        reception: spool, ledger, metrics and open associations.
        reserve: of the spool's disk.
        tls: our certificates; None without TLS.
    """

    settings: ListenerSettings
    reception: Reception
    commitment_metrics: CommitmentMetrics
    reserve: DiskReserve
    tls: ServerTls | None

    @classmethod
    @contextmanager
    def opened(
        cls,
        settings: ListenerSettings,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
    ) -> Iterator[Self]:
        """Open the tools of this process for the block; its metrics go to the registry.

        Raises:
            CertificateError: if TLS cannot work.
            LedgerUnavailableError: if the ledger cannot be opened.
            LedgerVersionError: if a newer release made it.
        """
        tls = ServerTls(settings) if settings.has_tls else None
        policy = ConflictPolicy(settings.conflict_policy)
        ledger = Ledger(settings.ledger_url, spool=settings.spool, conflict_policy=policy)
        try:
            reserve = DiskReserve(settings.spool, settings.minimum_free_bytes)
            metrics = ListenerMetrics(registry)
            reception = Reception(Spool(settings.spool), ledger, metrics, clock, capacity=reserve)
            yield cls(settings, reception, CommitmentMetrics(registry), reserve, tls)
        finally:
            ledger.close()

    def commitment_provider(self, wake: Callable[[], None]) -> CommitmentProvider:
        """Make what takes requests of storage commitment; `wake` tells who reports."""
        ledger = CommitmentLedger(self.reception.ledger)
        return CommitmentProvider(
            ledger, self.settings.peers, self.commitment_metrics, self.reception.clock, wake
        )

    def receiving_chores(self) -> list[Chore]:
        """List the chores of a process that receives."""
        chores = [extending_holds(self.reception)]
        return chores if self.tls is None else [*chores, self.tls.follow_files]
