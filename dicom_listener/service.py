"""The running listener: DICOM server, HTTP server and housekeeper, from start to drained stop."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

import structlog
from prometheus_client import CollectorRegistry
from pynetdicom.transport import ThreadedAssociationServer

from dicom_listener.completion import CompletionRule
from dicom_listener.errors import LedgerUnavailableError, PortInUseError, RetryLaterError
from dicom_listener.health import serve_http
from dicom_listener.ledger import Ledger
from dicom_listener.log import describe_error
from dicom_listener.metrics import LedgerCollector, ListenerMetrics
from dicom_listener.runfile import announced
from dicom_listener.scp import HOLD_S, Reception, handlers, make_application_entity
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool import Spool

RUN_FILE: Final = "run/listener.json"
_ABORT_WAIT_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Listener:
    """A listener that runs while its `with` block does, and drains when it ends.

    Attributes:
        dicom_port: where it receives.
        http_port: where it answers /metrics, /healthz and /readyz.
        reception: spool, ledger, metrics and open associations.

    Raises:
        SpoolLockedError: on entry, if another listener receives into the same spool.
        PortInUseError: on entry, if a port is taken.
        SpoolUnavailableError: on entry, if the spool cannot be made.
        LedgerUnavailableError: on entry, if the ledger cannot be opened.
    """

    dicom_port: int
    http_port: int
    reception: Reception

    def __init__(self, settings: ListenerSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = ExitStack()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        _log.info("listening", dicom_port=self.dicom_port, http_port=self.http_port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._stack.close()
        _log.info("stopped")

    def is_ready(self) -> bool:
        """Say whether an instance sent now could be kept."""
        if self._stopping.is_set() or not self._keeper.is_alive():
            return False
        try:
            self.reception.spool.check_writable()
            self.reception.ledger.check_writable()
        except RetryLaterError as error:
            _log.warning("not_ready", error=describe_error(error))
            return False
        return True

    def _start(self, stack: ExitStack) -> None:
        settings = self._settings
        spool = Spool(settings.spool)
        stack.enter_context(spool.receiving())
        ledger = Ledger(settings.ledger_url)
        stack.callback(ledger.close)
        registry = CollectorRegistry()
        metrics = ListenerMetrics(registry)
        metrics.spool_bytes.set(spool.size_bytes())
        registry.register(LedgerCollector(ledger, self._clock))
        self.reception = Reception(spool, ledger, metrics, self._clock)
        keeper_stop = threading.Event()
        keeper = self._keeper = threading.Thread(
            target=keep_house, args=(self.reception, settings, keeper_stop), name="housekeeper", daemon=True
        )
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(keeper_stop.set)  # undone in reverse: drain, then stop the keeper, then join it
        health = stack.enter_context(
            serve_http(settings.http_host, settings.http_port, registry, self.is_ready)
        )
        self.http_port = health.port
        ae = make_application_entity(settings)
        try:
            server = ae.start_server(
                (settings.host, settings.port), block=False, evt_handlers=handlers(self.reception)
            )
        except OSError as error:
            raise PortInUseError(
                f"DICOM cannot listen on {settings.host}:{settings.port} ({error.strerror}): stop what is "
                "there or set port"
            ) from error
        stack.callback(drain, server, settings.drain_s)
        self.dicom_port = server.server_address[1]
        stack.enter_context(
            announced(settings.root / RUN_FILE, dicom_port=self.dicom_port, http_port=self.http_port)
        )


def keep_house(reception: Reception, settings: ListenerSettings, stop: threading.Event) -> None:
    """Extend the holds of open associations and apply the completion rule until told to stop."""
    rule = CompletionRule(settings.quiet_period_s, settings.max_age_s)
    extended_at = reception.clock()
    while not stop.wait(settings.housekeeping_s):
        now = reception.clock()
        try:
            if now - extended_at >= HOLD_S / 3:
                for association in reception.open_associations.names():
                    reception.ledger.extend_holds(association, until=now + HOLD_S)
                extended_at = now
            completed = reception.ledger.complete_studies(rule, now=now)
        except LedgerUnavailableError as error:
            _log.warning("housekeeping_failed", error=describe_error(error))
            continue
        if completed:
            _log.info("studies_complete", studies=completed)


def drain(server: ThreadedAssociationServer, drain_s: float) -> None:
    """Stop accepting, let open associations finish, and abort those that do not in time.

    An aborted sender gets no Success for what was under way, and sends it again. Connections on which
    no association is open yet, such as a load balancer's probes, are not waited for.

    Args:
        server: the running server.
        drain_s: seconds that all open associations have together.
    """
    deadline = time.monotonic() + drain_s
    server.shutdown()
    for assoc in server.active_associations:
        if not assoc.is_established:
            assoc.abort()
            continue
        assoc.join(max(0.0, deadline - time.monotonic()))
        if assoc.is_alive():
            _log.warning("association_aborted", after_s=drain_s)
            assoc.abort()
            assoc.join(_ABORT_WAIT_S)
