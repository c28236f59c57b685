"""The running listener in one process, from start to drained stop: a keeper and a receiver.

    settings ──▶ keeper:   spool owned, ledger opened, both reconciled; commitments reported, the
                           archive asked, studies completed, files deleted; /metrics, /readyz
             ──▶ receiver: admission ─▶ DICOM servers ─▶ reception ─▶ spool and ledger

With several processes the same keeper is in the parent, and a receiver in each child: see
`dicom_listener.service.processes`.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

import structlog

from dicom_listener.operations.runfile import announced
from dicom_listener.reception.incoming import Reception
from dicom_listener.service.keeper import Keeper
from dicom_listener.service.receiver import Receiver
from dicom_listener.settings import ListenerSettings

RUN_FILE: Final = "run/listener.json"

_log = structlog.get_logger(__name__)


class Listener:
    """A listener that runs while its `with` block does, and drains when it ends.

    Attributes:
        dicom_port: where it receives; with TLS unless there is a plain port too.
        tls_port: where it receives with TLS; None without TLS.
        http_port: where it answers /metrics, /healthz and /readyz.
        reception: spool, ledger, metrics and open associations.

    Raises:
        CertificateError: on entry, if TLS cannot work.
        SpoolLockedError: on entry, if another listener receives into the same spool.
        PortInUseError: on entry, if a port is taken.
        SpoolUnavailableError: on entry, if the spool cannot be made.
        LedgerUnavailableError: on entry, if the ledger cannot be opened.
    """

    dicom_port: int
    tls_port: int | None
    http_port: int
    reception: Reception

    def __init__(self, settings: ListenerSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = ExitStack()
        self._receiving = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._receiving.clear()
        self._stack.close()
        _log.info("stopped")

    def _start(self, stack: ExitStack) -> None:
        settings = self._settings
        keeper = stack.enter_context(Keeper(settings, self._receiving.is_set, clock=self._clock))
        receiver = stack.enter_context(Receiver(keeper.tools, wake=keeper.sender.wake))
        self.reception = keeper.tools.reception
        self.dicom_port, self.tls_port = receiver.dicom_port, receiver.tls_port
        self.http_port = keeper.http_port
        stack.enter_context(announced(settings.root / RUN_FILE, http_port=self.http_port, **receiver.ports()))
        self._receiving.set()
        _log.info("listening", **receiver.ports(), http_port=self.http_port)
