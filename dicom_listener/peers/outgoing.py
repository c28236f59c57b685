"""Associations that we open, to peers."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_listener.errors import PeerUnreachableError, StartRefusedError
from dicom_listener.settings import ListenerSettings, Peer

_TLS_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (PS3.15 B.12; RFC 9325, 4.2)."""


class _Socket(AssociationSocket):  # type: ignore[misc]  # pynetdicom has no types
    """A socket that is closed also if it never was connected; pynetdicom leaves that to chance."""

    def _shutdown_socket(self) -> None:
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class _CallingAE(AE):  # type: ignore[misc]  # pynetdicom has no types
    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        created = _Socket(assoc, address=address)
        created.tls_args = tls_args
        return created


@dataclass(slots=True)
class Caller:
    """Opens associations in our name, and can end those that are open from another thread.

    Attributes:
        ae_title: ours.
        timeout_s: for the connection, the negotiation, and each answer.
        make_context: gives what it takes to call over TLS; called for each association, so that a renewed
            certificate is used. None without TLS.
    """

    ae_title: str
    timeout_s: float
    make_context: Callable[[], ssl.SSLContext] | None = None
    _open: set[Association] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, settings: ListenerSettings) -> Self:
        """Make one that calls as the listener of these settings.

        Raises:
            StartRefusedError: if a peer is called over TLS and the TLS files cannot be used.
        """
        make_context = None
        if settings.has_tls and any(peer.tls for peer in settings.peers):
            make_context = partial(_client_context, settings)
            make_context()  # what is wrong with the files is told now, not in the night
        return cls(settings.ae_title, settings.peer_timeout_s, make_context)

    @contextmanager
    def associated(
        self,
        peer: Peer,
        contexts: Sequence[PresentationContext],
        *,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[evt.EventHandlerType] = (),
        answer_timeout_s: float | None = None,
    ) -> Iterator[Association]:
        """Open an association for the block; release it after, abort it if the block raises.

        Args:
            peer: whom to call.
            contexts: what to propose.
            roles: the roles that we want in them (PS3.7 D.3.3.4).
            handlers: for what the peer sends.
            answer_timeout_s: how long it may say nothing once the association is open; `timeout_s` if None.

        Raises:
            PeerUnreachableError: before the block, if there is no association.
        """
        assoc = self._associate(peer, contexts, roles, handlers)
        if answer_timeout_s is not None:
            assoc.dimse_timeout = assoc.network_timeout = answer_timeout_s
        try:
            yield assoc
        except BaseException:
            assoc.abort()
            raise
        else:
            if assoc.is_established:
                assoc.release()
        finally:
            with self._lock:
                self._open.discard(assoc)

    def stop(self) -> None:
        """Cut off what is open, and open nothing more.

        An A-ABORT would be politer, but pynetdicom lets no two threads end one association.
        """
        self._stopped.set()
        with self._lock:
            still_open = list(self._open)
        for assoc in still_open:
            _cut(assoc)

    def _context_for(self, peer: Peer) -> ssl.SSLContext:
        if self.make_context is None:
            raise PeerUnreachableError(
                f"{peer.name} is called over TLS and no TLS is configured: set the TLS settings of "
                "[listener], or tls = false for this peer"
            )
        try:
            return self.make_context()
        except StartRefusedError as error:
            raise PeerUnreachableError(f"{peer.name} was not called: {error}") from error

    def _on_connected(self, event: Event) -> None:
        with self._lock:
            self._open.add(event.assoc)
        if self._stopped.is_set():
            _cut(event.assoc)  # who stopped us did not see it among the open ones

    def _associate(
        self,
        peer: Peer,
        contexts: Sequence[PresentationContext],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
        handlers: Sequence[evt.EventHandlerType],
    ) -> Association:
        _config.LOG_HANDLER_LEVEL = "none"  # its log lines hold what peers sent
        if self._stopped.is_set():
            raise PeerUnreachableError(f"{peer.name} was not called: we are stopping")
        ae = _CallingAE(ae_title=self.ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self.timeout_s
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=(self._context_for(peer), peer.host) if peer.tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._on_connected), *handlers],
        )
        if not assoc.is_established:
            with self._lock:
                self._open.discard(assoc)
            raise PeerUnreachableError(f"{peer.name} at {peer.host}:{peer.port} {_why_not(assoc)}")
        return assoc


def _cut(assoc: Association) -> None:
    """Shut a connection down under an association, which then ends by itself."""
    connection = assoc.dul.socket.socket
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _why_not(assoc: Association) -> str:
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given")
        return f"rejected our association ({reason}): is our AE title known there, and its own right here?"
    if assoc.is_aborted and assoc.acceptor.primitive is not None:
        return "accepted none of what we proposed: allow it for our AE title there"
    return "does not answer: check host, port, TLS and that it runs"


def _client_context(settings: ListenerSettings) -> ssl.SSLContext:
    """Build what a client needs: our certificate to show, and the authorities that we trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.minimum_version = _TLS_VERSIONS[settings.tls_minimum_version]
    context.set_ciphers(_CIPHERS)
    try:
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key))
        if settings.tls_ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=str(settings.tls_ca))
    except OSError as error:  # ssl.SSLError is one
        raise StartRefusedError(
            f"tls_certificate, tls_key or tls_ca cannot be used to call a peer over TLS "
            f"({error.strerror or type(error).__name__}): give PEM files that this user can read"
        ) from error
    return context
