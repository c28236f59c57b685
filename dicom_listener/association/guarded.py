"""An association of the server: pynetdicom's negotiation, state machine and services behind the guard.

pynetdicom runs two threads for an association, which poll a thousand times a second each. Here both
wait for what there is to do. The one at the socket (`GuardedDul`) reads PDUs by the guard's rules, and
takes C-STORE requests by itself: fragments go from its buffer to the spool, and it answers when the
instance is kept. All other messages go on to pynetdicom.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicom_listener.association.alarm import Alarm, TellingQueue
from dicom_listener.association.guard import BreachError, Limits, PduType
from dicom_listener.association.messages import Messages
from dicom_listener.association.wire import NOT_NOW, PDU_HEADER_BYTES, PduReader
from dicom_listener.log import describe_error
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.incoming import Reception

_LONGEST_WAIT_S: Final = 1.0
_LINGER_S: Final = 1.0
_RUBBISH_BYTES: Final = 64 * 1024

# States and events of the state machine (PS3.8 Tables 9-1 to 9-5).
_AWAITING_REQUEST: Final = "Sta2"
_ESTABLISHED: Final = "Sta6"
_RELEASING: Final = "Sta7"
_CLOSING: Final = "Sta13"
_REQUEST_RECEIVED: Final = "Evt6"
_CONNECTION_CLOSED: Final = "Evt17"
_ARTIM_EXPIRED: Final = "Evt18"
_INVALID_PDU: Final = "Evt19"

_log = structlog.get_logger(__name__)


class GuardedAssociation(Association):  # type: ignore[misc]  # pynetdicom has no types
    """An association that a peer requested.

    Args:
        ae: ours.
        request: its A-ASSOCIATE-RQ PDU, whole and decoded.
        reception: where instances go.
        limits: what the peer is allowed.
        maximum_object_bytes: largest dataset that is kept.
        on_over: called once, when the connection is closed and both threads are about to end.
    """

    is_established: bool

    def __init__(
        self,
        ae: AE,
        request: A_ASSOCIATE_RQ,
        *,
        reception: Reception,
        limits: Limits,
        maximum_object_bytes: int,
        on_over: Callable[[], None],
    ) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.news = threading.Event()
        self.on_over = on_over
        self.dimse.msg_queue = TellingQueue(self.news.set)
        self.messages = Messages(self, reception, maximum_object_bytes)
        self.dul = GuardedDul(self, request, limits, self.messages)
        self.acse_timeout = ae.acse_timeout  # again, because it sets a timer of the DUL provider
        self.network_timeout = None  # the guard's own

    def run_reactor(self) -> None:
        """Run the association to its end; whatever happens, its connection is closed then."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - what a peer sent must end no more than its association
            if self.is_established:
                _log.error("association_failed", error=describe_error(error), advice="please report this")
            else:  # pynetdicom's negotiation takes much for granted that a request need not have
                self.messages.report(Breach.UNREADABLE_PDU)
        finally:
            self.is_established = False
            self.dul.kill_dul()
            self.on_over()

    def kill(self) -> None:
        """Tell both threads to end, and wait until the connection is closed."""
        self.news.set()
        super().kill()
        self.news.set()

    def _run_reactor(self) -> None:
        # As pynetdicom's, but it waits for news instead of looking every millisecond, and the network
        # timeout is the guard's.
        self._is_paused = False
        while not self._kill:
            self._is_paused = True  # so that `release` may begin while nothing is done here
            self.news.wait(_LONGEST_WAIT_S)
            self.news.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            self._serve_messages()
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted = True
                self.is_established = False
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif self.dul.is_over:
                self.kill()

    def _serve_messages(self) -> None:
        while not self._kill:
            context_id, message = self.dimse.get_msg(block=False)
            if message is None:
                return
            self.messages.is_being_served = True
            self._serve_request(message, context_id)
            self.messages.is_being_served = False
            self.dul.wake()  # there is room for another


class GuardedDul(DULServiceProvider):  # type: ignore[misc]  # pynetdicom has no types
    """The thread at the socket of one association."""

    def __init__(
        self, assoc: GuardedAssociation, request: A_ASSOCIATE_RQ, limits: Limits, messages: Messages
    ) -> None:
        super().__init__(assoc)
        self.daemon = True  # a process that ends has waited for its associations as long as it is to
        self.is_over = False
        self._request: A_ASSOCIATE_RQ | None = request
        self._limits = limits
        self._maximum_bytes = limits.of_pdus()
        self._messages = messages
        self._reader: PduReader | None = None
        self._heard_at = self._pdu_began_at = time.monotonic()
        self._alarm = Alarm()
        self.to_provider_queue = TellingQueue(self._alarm.ring)
        self.to_user_queue = TellingQueue(assoc.news.set)

    def wake(self) -> None:
        """Let the thread look for what there is to do."""
        self._alarm.ring()

    def kill_dul(self) -> None:
        """Let the thread close the connection and end, in whatever state it is."""
        self._kill_thread = True
        self._alarm.ring()

    def run_reactor(self) -> None:
        """Do what there is to do until the connection is closed."""
        self._alarm.belongs_to_this_thread()
        try:
            self.assoc._dul_ready.set()  # noqa: SLF001 - the association waits for it
            while not self._kill_thread:
                self._turn()
        except Exception as error:  # noqa: BLE001 - what a peer sent must end no more than its association
            _log.error("connection_failed", error=describe_error(error), advice="please report this")
        finally:
            self._finish()

    def _turn(self) -> None:
        # Looks into the queues instead of waiting for their `Empty`: this runs for each PDU.
        state = self.state_machine.current_state
        if state == _CLOSING:
            self._drop_what_we_would_send()
        if state in (_AWAITING_REQUEST, _CLOSING) and self.artim_timer.expired:
            self.event_queue.put(_ARTIM_EXPIRED)
        if self.to_provider_queue.queue:
            self._process_recv_primitive()
        elif not self.event_queue.queue:
            if self._request is not None:
                self._hand_in_request()
            elif state == _CLOSING:
                self._close()
            else:
                self._receive()
        if self.event_queue.queue:
            self.state_machine.do_action(self.event_queue.get())

    def _drop_what_we_would_send(self) -> None:
        # An answer may come after the peer has spoiled the association; the state machine has no such case.
        while self.to_provider_queue.queue:
            self.to_provider_queue.get()

    def _hand_in_request(self) -> None:
        self._recv_pdu.put(self._request)
        self._request = None
        self.event_queue.put(_REQUEST_RECEIVED)

    def _receive(self) -> None:
        """Take what the peer sends, or wait until there is something to do."""
        try:
            while self._take_pdu():
                if self.event_queue.queue or self.to_provider_queue.queue:
                    return
            if not self._fill():
                self._wait()
        except BreachError as error:
            self._messages.discard()
            self._messages.report(error.breach)
            self.event_queue.put(_INVALID_PDU)
        except (OSError, ValueError):  # a socket that another thread has closed has no number
            self.event_queue.put(_CONNECTION_CLOSED)

    def _take_pdu(self) -> bool:
        """Do what the next PDU says, if it is whole."""
        if self._reader is None or self._messages.is_full:
            return False
        found = self._reader.next(self._maximum_bytes)
        if found is None:
            return False
        kind, pdu = found
        if kind is PduType.DATA_TF and self.state_machine.current_state in (_ESTABLISHED, _RELEASING):
            self._messages.take(pdu[PDU_HEADER_BYTES:])
        else:
            self._decode(pdu)
        self._heard_at = self._pdu_began_at = now = time.monotonic()
        if self._messages.began_at is not None and now > self._messages.began_at + self._limits.object_s:
            raise BreachError(Breach.OBJECT_TIMEOUT)
        return True

    def _decode(self, pdu: memoryview) -> None:
        try:
            decoded, event = self._decode_pdu(bytearray(pdu))
            decoded.to_primitive()  # the state machine would fail at it
        except Exception as error:  # a decoder fed by the wire may raise anything
            raise BreachError(Breach.UNREADABLE_PDU) from error
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)

    def _fill(self) -> bool:
        """Take what has come; say whether anything had."""
        if self._messages.is_full:
            return False
        if self._reader is None:
            self._reader = PduReader(self.socket.socket, PDU_HEADER_BYTES + self._limits.pdu_bytes)
        if not self._reader.is_within_pdu:
            self._pdu_began_at = time.monotonic()
        count = self._reader.fill()
        if count == 0:
            self.event_queue.put(_CONNECTION_CLOSED)
        return count is not None

    def _wait(self) -> None:
        """Wait for the peer, for another thread, or for the next deadline.

        Raises:
            BreachError: if a deadline is over.
        """
        now = time.monotonic()
        if self._messages.is_being_served:
            self._heard_at = self._pdu_began_at = now  # it is our turn, not the peer's
        deadline, breach = self._next_deadline()
        if now >= deadline:
            raise BreachError(breach)
        self._alarm.wait(
            None if self._messages.is_full else self.socket.socket, min(deadline - now, _LONGEST_WAIT_S)
        )

    def _next_deadline(self) -> tuple[float, Breach]:
        is_within_pdu = self._reader is not None and self._reader.is_within_pdu
        deadlines = [
            (self._pdu_began_at + self._limits.idle_s, Breach.PDU_TIMEOUT)
            if is_within_pdu
            else (self._heard_at + self._limits.idle_s, Breach.IDLE_TIMEOUT)
        ]
        if self._messages.began_at is not None:
            deadlines.append((self._messages.began_at + self._limits.object_s, Breach.OBJECT_TIMEOUT))
        return min(deadlines)

    def _close(self) -> None:
        """Close the connection once the peer has, or after a moment, so that it reads what was sent last."""
        connection = self.socket.socket
        with contextlib.suppress(OSError, ValueError, AttributeError):
            connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _LINGER_S
            rubbish = bytearray(_RUBBISH_BYTES)
            while (rest_s := deadline - time.monotonic()) > 0:
                self._alarm.wait(connection, rest_s)
                with contextlib.suppress(*NOT_NOW):
                    if not connection.recv_into(rubbish):
                        break
        self.socket.close()

    def _finish(self) -> None:
        self._messages.discard()
        if self.socket.socket is not None:
            self.socket.close()
        self.is_over = True
        self._alarm.close()
        # The state machine has told of it, unless it was not asked; those who listen hear it once.
        evt.trigger(self.assoc, evt.EVT_CONN_CLOSE, {"address": self.assoc.requestor.address_info.as_tuple})
        self.assoc.news.set()
