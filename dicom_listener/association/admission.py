"""Who may open an association, closed by default.

It depends on the title that is called, on who calls from where, on how many are open, and on whether
there is room to keep what they send. A connection is counted before a byte is read from it, an
association once it is requested. What is refused is told to the requestor by the codes of the
Standard, counted by reason, and logged with what to do about it.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_listener.association.repeats import Repeats
from dicom_listener.association.slots import Slot, Slots
from dicom_listener.log import describe_error
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.reception.statuses import REJECTIONS, AssociationRefusal
from dicom_listener.settings import ANY_AE_TITLE, AllowedPeer, ListenerSettings

SPARE_CONNECTIONS: Final = 8
"""Connections beyond the associations that are allowed, so that one too many is told so, not cut off."""

CONNECTIONS_OF_STRANGERS: Final = 8
"""Connections, in all, from addresses that are not on the list: enough to tell them, too few to hurt."""

_log = structlog.get_logger(__name__)


class AllowList:
    """The senders that are accepted.

    Args:
        allowed: the list; empty accepts the senders of this machine only.
        anyone: accept every sender.
    """

    def __init__(self, allowed: Sequence[AllowedPeer], *, anyone: bool = False) -> None:
        self._allowed = allowed
        self._anyone = anyone

    def has_address(self, address: str) -> bool:
        """Say whether any sender at this address is accepted."""
        return self._anyone or any(True for _ in self._titles_at(address))

    def has(self, ae_title: str, address: str) -> bool:
        """Say whether a sender is accepted: the title it calls itself by, and its address."""
        return self._anyone or any(title in (ANY_AE_TITLE, ae_title) for title in self._titles_at(address))

    def _titles_at(self, address: str) -> Iterator[str]:
        peer = parse_address(address)
        if not self._allowed and peer.is_loopback:
            yield ANY_AE_TITLE
        for entry in self._allowed:
            if peer in entry.address:
                yield entry.ae_title


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Parse a peer's address; an IPv4 address in IPv6's clothes is the IPv4 address.

    Raises:
        ValueError: if it is no address.
    """
    parsed = ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


class Room(Protocol):
    """Says whether there is room for more."""

    def is_low(self) -> bool:
        """Say whether nothing more is to be accepted."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why, and what to do about it, for the log."""

    reason: AssociationRefusal
    advice: str


class Admission:
    """Decides about connections and associations. Any thread may ask.

    Associations are counted among all processes that share the slots, connections in this process.
    """

    def __init__(
        self, settings: ListenerSettings, metrics: ListenerMetrics, room: Room, slots: Slots
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._room = room
        self._slots = slots
        self._allow = AllowList(settings.allow, anyone=settings.allow_any_peer)
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._taken: dict[Association, list[Slot]] = {}
        self._repeats = Repeats()

    def handlers(self) -> list[evt.EventHandlerType]:
        """List the handlers that a server needs for admission."""
        return [
            (evt.EVT_REQUESTED, self.on_requested),
            # However it ends; the first of these gives the slots back, the others find them gone.
            (evt.EVT_RELEASED, self.on_over),
            (evt.EVT_ABORTED, self.on_over),
            (evt.EVT_CONN_CLOSE, self.on_over),
        ]

    def connected(self, peer_address: str) -> str | None:
        """Count a connection in; give the reason if it is to be closed at once, which counts it out."""
        is_known = self._allow.has_address(peer_address)
        with self._lock:
            if is_known:
                is_too_many = (
                    self._connections[peer_address]
                    >= self._settings.maximum_associations_per_peer + SPARE_CONNECTIONS
                )
            else:
                is_too_many = self._strangers() >= CONNECTIONS_OF_STRANGERS
            if not is_too_many:
                self._connections[peer_address] += 1
                return None
        self._note(
            _Refusal(
                AssociationRefusal.CONNECTION_LIMIT,
                "this address has too many connections open: look at the program that opens them"
                if is_known
                else "addresses that are not in [[listener.allow]] keep connecting: close the port to them",
            ),
            peer=peer_address,
        )
        return AssociationRefusal.CONNECTION_LIMIT.value

    def disconnected(self, peer_address: str) -> None:
        """Count a connection out that `connected` let in."""
        with self._lock:
            self._connections[peer_address] -= 1
            if self._connections[peer_address] <= 0:
                del self._connections[peer_address]

    def on_requested(self, event: Event) -> None:
        """Reject an association that is not to be (PS3.8 section 9.3.4); otherwise let negotiation go on."""
        assoc = event.assoc
        request = assoc.requestor.primitive
        peer = str(assoc.requestor.address)
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        try:
            refusal = self._refusal(assoc, peer, calling, called)
        except Exception as error:  # noqa: BLE001 - pynetdicom would swallow it and accept the association
            refusal = _Refusal(AssociationRefusal.INTERNAL_ERROR, f"please report: {describe_error(error)}")
        if refusal is None:
            return
        self._note(refusal, peer=peer, calling_ae_title=calling, called_ae_title=called)
        self._metrics.associations.labels("rejected").inc()
        assoc.acse.send_reject(*REJECTIONS[refusal.reason])
        assoc.kill()

    def on_over(self, event: Event) -> None:
        """Give back the slots of an association that is over."""
        self._give_back(event.assoc)

    def _refusal(self, assoc: Association, peer: str, calling: str, called: str) -> _Refusal | None:
        ours = self._settings.ae_title
        if called != ours:
            return _Refusal(
                AssociationRefusal.CALLED_AE_TITLE,
                f"set the AE title of the sender's destination to {ours}, or ae_title here",
            )
        if not self._allow.has(calling, peer):
            return _Refusal(
                AssociationRefusal.UNKNOWN_PEER,
                "if it is meant to send, add its ae_title and address to echobeam.toml: [[listener.allow]]",
            )
        if self._room.is_low():
            return _Refusal(
                AssociationRefusal.DISK_RESERVE, "free space on the spool's disk, or lower minimum_free_bytes"
            )
        return self._take_slots(assoc, peer)

    def _take_slots(self, assoc: Association, peer: str) -> _Refusal | None:
        with self._lock:
            over = [assoc for assoc in self._taken if not assoc.is_alive()]
        for each in over:  # one that broke off while it was being admitted
            self._give_back(each)
        of_peer = self._slots.take(
            hashlib.sha256(peer.encode()).hexdigest()[:16], self._settings.maximum_associations_per_peer
        )
        if of_peer is None:
            return _Refusal(
                AssociationRefusal.PEER_LIMIT,
                "let the sender open fewer associations, or raise maximum_associations_per_peer",
            )
        in_all = self._slots.take("all", self._settings.maximum_associations)
        if in_all is None:
            of_peer.give_back()
            return _Refusal(
                AssociationRefusal.ASSOCIATION_LIMIT,
                "the sender tries again; if that happens often, raise maximum_associations",
            )
        with self._lock:
            self._taken[assoc] = [of_peer, in_all]
        return None

    def _give_back(self, assoc: Association) -> None:
        with self._lock:
            slots = self._taken.pop(assoc, [])
        for slot in slots:
            slot.give_back()

    def _strangers(self) -> int:
        return sum(number for peer, number in self._connections.items() if not self._allow.has_address(peer))

    def _note(self, refusal: _Refusal, **who: str) -> None:
        self._metrics.refused_associations.labels(refusal.reason.value).inc()
        times = self._repeats.count(refusal.reason, *who.values())
        if times:
            _log.warning(
                "association_refused", reason=refusal.reason.value, advice=refusal.advice, times=times, **who
            )
