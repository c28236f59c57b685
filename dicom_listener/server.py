"""The DICOM server: pynetdicom's, with a guard in front of what it reads."""

import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_listener.settings import ListenerSettings

_POLL_S: Final = 0.1


class Admission(Protocol):
    """Who may connect. Asked for each connection, before a byte is read from it."""

    def connected(self, peer_address: str) -> str | None:
        """Count a connection in; give the reason if it is to be closed at once, which counts it out."""

    def disconnected(self, peer_address: str) -> None:
        """Count a connection out that `connected` let in."""


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom has no types
    """A running server. `shutdown` stops accepting; open associations go on."""

    def __init__(
        self,
        *args: Any,
        settings: ListenerSettings,
        admission: Admission | None = None,
        reuse_port: bool = False,
        **options: Any,
    ) -> None:
        self.settings = settings
        self.admission = admission
        self._reuse_port = reuse_port
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Bind; several processes may share the port where that was asked for."""
        if self._reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def start_server(
    ae: AE,
    settings: ListenerSettings,
    evt_handlers: Sequence[evt.EventHandlerType],
    *,
    ssl_context: ssl.SSLContext | None = None,
    admission: Admission | None = None,
    reuse_port: bool = False,
    port: int | None = None,
) -> GuardedServer:
    """Start to receive, in threads of this process.

    Args:
        ae: as `scp.make_application_entity` makes it.
        settings: where to listen, and the limits of the guard.
        evt_handlers: as `scp.handlers` lists them.
        ssl_context: speak TLS only; None for plain DICOM.
        admission: asked about each connection before it is read from; None admits all.
        reuse_port: share the port with other processes (SO_REUSEPORT).
        port: listen there instead of on `settings.port`.

    Returns:
        The running server; its `server_address` tells the port.

    Raises:
        OSError: if the port cannot be bound.
    """
    server: GuardedServer = ae.make_server(
        (settings.host, settings.port if port is None else port),
        ssl_context=ssl_context,
        evt_handlers=list(evt_handlers),
        server_class=GuardedServer,
        settings=settings,
        admission=admission,
        reuse_port=reuse_port,
    )
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="dicom-server", daemon=True
    ).start()
    ae._servers.append(server)  # noqa: SLF001 - as AE.start_server does, which takes no class of server
    return server
