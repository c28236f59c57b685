"""What the guard in front of pynetdicom allows a peer, and what it says when it ends a connection."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Self

from dicom_listener.settings import ListenerSettings

MAXIMUM_REQUEST_BYTES: Final = 256 * 1024
"""Largest A-ASSOCIATE-RQ: 128 presentation contexts that offer every transfer syntax there is fit."""

MAXIMUM_CONTROL_BYTES: Final = 4 * 1024
"""Largest PDU that carries no data; those that a requestor may send once it is accepted have 4 bytes."""

MAXIMUM_COMMAND_BYTES: Final = 16 * 1024
"""Largest command set: the longest of PS3.7 has a dozen elements, none of them long."""

MAXIMUM_IDENTIFIER_BYTES: Final = 8 * 1024 * 1024
"""Largest dataset of a message that stores nothing: a commitment request of 50,000 instances fits."""

PDU_SLACK_BYTES: Final = 1024
"""Senders differ in what they count towards the maximum length (PS3.8 section D.1)."""


class PduType(IntEnum):
    """The types of PDUs (PS3.8 section 9.3.1)."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class Breach(StrEnum):
    """Why the guard ended a connection; safe as a metric label."""

    OVERSIZED_PDU = "oversized_pdu"
    UNEXPECTED_PDU = "unexpected_pdu"
    UNREADABLE_PDU = "unreadable_pdu"
    OVERSIZED_MESSAGE = "oversized_message"
    UNEXPECTED_MESSAGE = "unexpected_message"
    TOO_MANY_WAITING = "too_many_waiting"
    TLS_HANDSHAKE = "tls_handshake"
    NEGOTIATION_TIMEOUT = "negotiation_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    PDU_TIMEOUT = "pdu_timeout"
    OBJECT_TIMEOUT = "object_timeout"

    @property
    def advice(self) -> str:
        """What to do about it, for the log."""
        return _ADVICE[self]


_NOT_DICOM: Final = "if this peer is no DICOM sender, keep it away from the port; otherwise report it"
_ADVICE: Final = {
    Breach.OVERSIZED_PDU: "the peer sends more than was negotiated: " + _NOT_DICOM,
    Breach.UNEXPECTED_PDU: "the peer does not follow PS3.8: " + _NOT_DICOM,
    Breach.UNREADABLE_PDU: "the peer does not follow PS3.8: " + _NOT_DICOM,
    Breach.OVERSIZED_MESSAGE: "let the sender ask for fewer instances at once",
    Breach.UNEXPECTED_MESSAGE: "the peer does not follow PS3.7: report it to the sender's vendor",
    Breach.TOO_MANY_WAITING: "many connections request no association: find out who opens them, and "
    "close the port to it",
    Breach.TLS_HANDSHAKE: "compare the sender's certificate and TLS version with tls_ca, "
    "tls_client_certificates and tls_minimum_version; a sender without TLS wants the plain port",
    Breach.NEGOTIATION_TIMEOUT: "the peer connects and says nothing: a load balancer's probe should "
    "close by itself; for a slow line raise negotiation_timeout_s",
    Breach.IDLE_TIMEOUT: "the sender keeps its association open without use: harmless if it opens "
    "another; otherwise raise network_timeout_s",
    Breach.PDU_TIMEOUT: "the line is broken or far too slow: check the network, or raise network_timeout_s",
    Breach.OBJECT_TIMEOUT: "the line is too slow for what is sent: check the network, or raise "
    "object_timeout_s",
}


class BreachError(Exception):
    """The peer did what the guard does not allow: the connection must end.

    Attributes:
        breach: what it did.
    """

    def __init__(self, breach: Breach) -> None:
        super().__init__(f"{breach}: {breach.advice}")
        self.breach = breach


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection is allowed.

    Attributes:
        pdu_bytes: largest P-DATA-TF PDU, without its header.
        negotiation_s: from the connection to a whole A-ASSOCIATE-RQ, TLS included.
        idle_s: between two PDUs, and from the first to the last byte of one.
        object_s: from the command to the last fragment of one message.
    """

    pdu_bytes: int
    negotiation_s: float
    idle_s: float
    object_s: float

    def of_pdus(self) -> dict[int, int]:
        """List the PDUs that a requestor may send once it has requested, and how long each may be."""
        return {
            PduType.DATA_TF: self.pdu_bytes,
            PduType.RELEASE_RQ: MAXIMUM_CONTROL_BYTES,
            PduType.RELEASE_RP: MAXIMUM_CONTROL_BYTES,
            PduType.ABORT: MAXIMUM_CONTROL_BYTES,
        }

    @classmethod
    def of(cls, settings: ListenerSettings) -> Self:
        """Take the limits from the configuration."""
        return cls(
            pdu_bytes=settings.maximum_pdu_bytes + PDU_SLACK_BYTES,
            negotiation_s=settings.negotiation_timeout_s,
            idle_s=settings.network_timeout_s,
            object_s=settings.object_timeout_s,
        )
