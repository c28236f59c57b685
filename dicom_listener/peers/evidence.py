"""Asking the query peer how many instances a study has, so that its completion rests on evidence.

It runs in a thread of its own, with one association at a time and time limits, and only writes answers
into the ledger: the housekeeper never waits for an archive. An archive that does not answer, does not
know the study or does not count leaves the study to the quiet period.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Self

import structlog
from pynetdicom.association import Association

from dicom_listener.errors import LedgerUnavailableError, PeerError
from dicom_listener.log import describe_error
from dicom_listener.peers.configured import peer_named
from dicom_listener.peers.evidence_ledger import EvidenceLedger, Patience
from dicom_listener.peers.find import StudyQuery, find_contexts, find_studies
from dicom_listener.peers.metrics import EvidenceMetrics
from dicom_listener.peers.outgoing import Caller
from dicom_listener.settings import ListenerSettings

_AT_ONCE: Final = 50
_FIRST_PAUSE_S: Final = 15.0
_LONGEST_PAUSE_S: Final = 600.0
_GRACE_S: Final = 0.5  # for an answer that is on its way when we stop
_JOIN_S: Final = 10.0

_log = structlog.get_logger(__name__)


class CompletionEvidence:
    """A thread that asks the query peer about quiet studies, while its `with` block runs.

    Without a query peer in the settings it does nothing.
    """

    def __init__(
        self,
        ledger: EvidenceLedger,
        settings: ListenerSettings,
        metrics: EvidenceMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make it; it starts with its `with` block.

        Args:
            ledger: which studies are quiet, and where the answers go.
            settings: peers, which of them is asked, our AE title, time limits.
            metrics: where answers are counted.
            clock: seconds since the epoch.

        Raises:
            StartRefusedError: if a peer is called over TLS and the TLS files cannot be used.
        """
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._caller = Caller.of(settings)
        self._clock = clock
        self._patience = Patience(settings.query_after_s, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completion-evidence", daemon=True)

    def __enter__(self) -> Self:
        if self._settings.query_peer is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_GRACE_S)
            self._caller.stop()
            self._thread.join(_JOIN_S)

    def ask_due(self) -> int:
        """Ask about the studies that have become quiet.

        Returns:
            How many studies were to be asked about.

        Raises:
            LedgerUnavailableError: if the ledger cannot be used.
        """
        uids = self._ledger.take_questions(self._patience, limit=_AT_ONCE, now=self._clock())
        if not uids:
            return 0
        unanswered = list(uids)
        peer = peer_named(self._settings.peers, self._settings.query_peer)
        try:
            with self._caller.associated(peer, find_contexts()) as assoc:
                while unanswered:
                    self._ask(assoc, unanswered[0])
                    unanswered.pop(0)
        except PeerError as error:
            if not self._stop.is_set():
                self._metrics.queries.labels("failed").inc(len(unanswered))
                _log.warning(
                    "query_peer_failed", peer=peer.name, studies=len(unanswered), error=describe_error(error)
                )
        return len(uids)

    def _run(self) -> None:
        while not self._stop.wait(self._settings.housekeeping_s):
            try:
                self.ask_due()
            except LedgerUnavailableError as error:
                _log.warning("query_peer_not_asked", error=describe_error(error))
            except Exception:  # noqa: BLE001 - pynetdicom may raise anything; it is asked again
                _log.exception("query_peer_not_asked")

    def _ask(self, assoc: Association, uid: str) -> None:
        asked_at = self._clock()
        found = find_studies(assoc, StudyQuery(keys={"StudyInstanceUID": uid}))
        expected = next((study.instances for study in list(found) if study.study_instance_uid == uid), None)
        self._ledger.enter_answer(uid, expected, asked_at=asked_at)
        self._metrics.queries.labels("not_counted" if expected is None else "counted").inc()
