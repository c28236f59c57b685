"""The receiving half of the listener: DICOM servers with admission in front of them.

Any number of receivers, each in its own process, may share the ports, the spool and the ledger of one
keeper.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, Self

import structlog
from pynetdicom import AE, evt

from dicom_listener.association import scp
from dicom_listener.association.admission import Admission
from dicom_listener.association.server import GuardedServer, start_server
from dicom_listener.association.slots import Slots
from dicom_listener.commitment import requests
from dicom_listener.errors import PortInUseError
from dicom_listener.service.tools import Tools

SLOTS_FOLDER: Final = "run/associations"
_ABORT_WAIT_S: Final = 5.0
_UNLIMITED: Final = 1_000_000

_log = structlog.get_logger(__name__)


class Receiver:
    """Receives while its `with` block runs, and drains when it ends.

    Args:
        tools: settings, spool, ledger and so on.
        wake: called when there is a commitment to report.
        shares_ports: other processes receive on the same ports (SO_REUSEPORT).

    Attributes:
        dicom_port: where it receives; with TLS unless there is a plain port too.
        tls_port: where it receives with TLS; None without TLS.

    Raises:
        PortInUseError: on entry, if a port is taken.
    """

    dicom_port: int
    tls_port: int | None

    def __init__(
        self, tools: Tools, *, wake: Callable[[], None] = lambda: None, shares_ports: bool = False
    ) -> None:
        self._tools = tools
        self._wake = wake
        self._shares_ports = shares_ports
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ports(self) -> dict[str, int]:
        """Name the ports, for the file that announces them."""
        announced = {"dicom_port": self.dicom_port}
        return announced if self.tls_port is None else {**announced, "tls_port": self.tls_port}

    def _start(self, stack: ExitStack) -> None:
        tools, settings = self._tools, self._tools.settings
        slots = Slots(settings.root / SLOTS_FOLDER)
        admission = Admission(settings, tools.reception.metrics, tools.reserve, slots)
        ae = scp.make_application_entity(settings)
        ae.supported_contexts = [*ae.supported_contexts, *requests.contexts()]
        ae.maximum_associations = _UNLIMITED  # admission counts, and across processes
        handlers = [
            *admission.handlers(),
            *scp.handlers(tools.reception),
            *requests.handlers(tools.commitment_provider(self._wake)),
        ]
        servers: list[GuardedServer] = []
        stack.callback(drain, servers, settings.drain_s)
        self.tls_port = None
        if tools.tls is not None:
            server = self._listen(ae, handlers, admission, settings.tls_port, tools.tls.context)
            servers.append(server)
            self.tls_port = self.dicom_port = server.server_address[1]
        if settings.has_plain_port:
            server = self._listen(ae, handlers, admission, settings.port, None)
            servers.append(server)
            self.dicom_port = server.server_address[1]

    def _listen(
        self,
        ae: AE,
        handlers: Sequence[evt.EventHandlerType],
        admission: Admission,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> GuardedServer:
        try:
            return start_server(
                ae,
                self._tools.settings,
                handlers,
                ssl_context=ssl_context,
                admission=admission,
                reuse_port=self._shares_ports,
                port=port,
            )
        except OSError as error:
            host = self._tools.settings.host
            raise port_in_use(host, port, error, tls=ssl_context is not None) from error


def port_in_use(host: str, port: int, error: OSError, *, tls: bool) -> PortInUseError:
    """Say that DICOM cannot be received on a port, and which setting names another."""
    setting = "tls_port" if tls else "port"
    return PortInUseError(
        f"DICOM cannot listen on {host}:{port} ({error.strerror}): stop what is there or set {setting}"
    )


def drain(servers: Sequence[GuardedServer], drain_s: float) -> None:
    """Stop accepting, let open associations finish, and abort those that do not in time.

    An aborted sender gets no Success for what was under way, and sends it again. Connections on which
    no association is open yet, such as a load balancer's probes, are not waited for.

    Args:
        servers: the running servers.
        drain_s: seconds that all open associations have together.
    """
    deadline = time.monotonic() + drain_s
    for server in servers:
        server.shutdown()
    for assoc in [assoc for server in servers for assoc in server.active_associations]:
        if not assoc.is_established:
            assoc.abort()
            continue
        assoc.join(max(0.0, deadline - time.monotonic()))
        if assoc.is_alive():
            _log.warning("association_aborted", after_s=drain_s)
            assoc.abort()
            assoc.join(_ABORT_WAIT_S)
