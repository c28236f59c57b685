"""Why a connection is ended that breaks what was agreed, and what to do about it."""

from enum import StrEnum
from typing import Final


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
