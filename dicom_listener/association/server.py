"""The DICOM server: pynetdicom's, with a guard in front of what it reads.

    accepted connection → lobby → association → spool and ledger

Nothing of pynetdicom is started for a connection before it has sent a whole A-ASSOCIATE-RQ.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

import structlog
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.transport import AddressInformation, ThreadedAssociationServer

from dicom_listener.association.guard import Limits
from dicom_listener.association.guarded import GuardedAssociation
from dicom_listener.association.lobby import Address, Lobby
from dicom_listener.association.repeats import Repeats
from dicom_listener.association.scp import on_c_store
from dicom_listener.association.wire import AbortReason, GuardedSocket, encode_abort
from dicom_listener.log import describe_error
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.incoming import Reception
from dicom_listener.settings import ListenerSettings

_POLL_S: Final = 0.1
_log = structlog.get_logger(__name__)


class Admission(Protocol):
    """Who may connect. Asked for each connection, before a byte is read from it."""

    def connected(self, peer_address: str) -> str | None:
        """Count a connection in; give the reason if it is to be closed at once, which counts it out."""

    def disconnected(self, peer_address: str) -> None:
        """Count a connection out that `connected` let in."""


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom has no types
    """A running server. `shutdown` stops accepting; open associations go on."""

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        *args: Any,
        settings: ListenerSettings,
        reception: Reception,
        admission: Admission | None = None,
        reuse_port: bool = False,
        **options: Any,
    ) -> None:
        self.settings = settings
        self._reception = reception
        self._admission = admission
        self._reuse_port = reuse_port
        self._limits = Limits.of(settings)
        self._repeats = Repeats()
        self._lobby: Lobby | None = None
        super().__init__(ae, *args, **options)
        self._lobby = Lobby(
            limit_s=self._limits.negotiation_s,
            on_request=self._greet,
            on_breach=self._on_breach,
            on_left=self._on_left,
            ssl_context=self.ssl_context,
        )

    def server_bind(self) -> None:
        """Bind; several processes may share the port where that was asked for."""
        if self._reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Address]:
        """Accept a connection; TLS's handshake is the lobby's."""
        connection: socket.socket
        connection, address = self.socket.accept()
        return connection, address

    def process_request(self, request: socket.socket, client_address: Address) -> None:
        """Let an accepted connection wait in the lobby, unless it is refused at once."""
        if self._admission is not None and self._admission.connected(client_address[0]) is not None:
            self.close_request(request)
        elif self._lobby is not None:
            self._lobby.enter(request, client_address)

    def service_actions(self) -> None:
        """Do nothing between two connections; pynetdicom collects garbage here."""

    def server_close(self) -> None:
        """Stop accepting, and close what is not an association yet."""
        super().server_close()
        if self._lobby is not None:
            self._lobby.close()

    def _greet(self, connection: socket.socket, address: Address, request: bytes) -> None:
        # In a thread of its own: decoding a long request may take long, and the lobby must not wait.
        threading.Thread(
            target=self._associate, args=(connection, address, request), name="dicom-greeting", daemon=True
        ).start()

    def _associate(self, connection: socket.socket, address: Address, request: bytes) -> None:
        try:
            pdu = A_ASSOCIATE_RQ()
            pdu.decode(request)
            pdu.to_primitive()
        except Exception:  # noqa: BLE001 - a decoder fed by the wire may raise anything
            with contextlib.suppress(OSError):
                connection.send(encode_abort(AbortReason.INVALID_PARAMETER))
            connection.close()
            self._on_breach(address, Breach.UNREADABLE_PDU)
            return
        try:
            self._make_association(connection, address, pdu).start()
        except Exception as error:  # noqa: BLE001 - a fault of ours must end no more than the connection
            _log.error("association_failed", error=describe_error(error), advice="please report this")
            connection.close()
            self._on_left(address)

    def _make_association(
        self, connection: socket.socket, address: Address, request: A_ASSOCIATE_RQ
    ) -> GuardedAssociation:
        """Do as pynetdicom's `RequestHandler` does, with our classes."""
        assoc = GuardedAssociation(
            self.ae,
            request,
            reception=self._reception,
            limits=self._limits,
            maximum_object_bytes=self.settings.maximum_object_bytes,
            on_over=lambda: self._on_left(address),
        )
        assoc._server = self  # noqa: SLF001 - by it and by its name, pynetdicom finds a server's associations
        assoc.name = f"AcceptorThread@{address[0]}:{address[1]}"
        assoc.set_socket(GuardedSocket(assoc, connection, send_timeout_s=self._limits.idle_s))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.ae_title
        assoc.acceptor.address_info = AddressInformation.from_tuple(self.server_address)
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = self.contexts  # negotiation only reads them; copying takes long
        assoc.requestor.address_info = AddressInformation.from_tuple(address)
        for event, bound in self._handlers.items():
            for handler, args in bound if isinstance(event, evt.NotificationEvent) else [bound]:
                assoc.bind(event, handler, args)
        evt.trigger(assoc, evt.EVT_CONN_OPEN, {"address": address})
        return assoc

    def _on_breach(self, address: Address, breach: Breach) -> None:
        self._reception.metrics.breaches.labels(breach.value).inc()
        times = self._repeats.count(address[0], breach)
        if times:
            _log.warning(
                "connection_ended", peer=address[0], reason=breach.value, advice=breach.advice, times=times
            )
        self._on_left(address)

    def _on_left(self, address: Address) -> None:
        if self._admission is not None:
            self._admission.disconnected(address[0])


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
        evt_handlers: among them those that `scp.handlers` lists; instances go where these say.
        ssl_context: speak TLS only; None for plain DICOM.
        admission: asked about each connection before it is read from; None admits all.
        reuse_port: share the port with other processes (SO_REUSEPORT).
        port: listen there instead of on `settings.port`.

    Returns:
        The running server; its `server_address` tells the port.

    Raises:
        OSError: if the port cannot be bound.
        ValueError: if no handler says where instances go.
    """
    server: GuardedServer = ae.make_server(
        (settings.host, settings.port if port is None else port),
        evt_handlers=list(evt_handlers),
        server_class=GuardedServer,
        settings=settings,
        reception=_find_reception(evt_handlers),
        admission=admission,
        reuse_port=reuse_port,
        ssl_context=ssl_context,
    )
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="dicom-server", daemon=True
    ).start()
    ae._servers.append(server)  # noqa: SLF001 - as AE.start_server does, which takes no class of server
    return server


def _find_reception(evt_handlers: Sequence[evt.EventHandlerType]) -> Reception:
    for handler in evt_handlers:
        if handler[0] is evt.EVT_C_STORE and handler[1] is on_c_store:
            reception: Reception = handler[2][0]
            return reception
    raise ValueError("evt_handlers says nothing about EVT_C_STORE: expected those of scp.handlers among it")
