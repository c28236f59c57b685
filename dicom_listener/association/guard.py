"""What the guard in front of pynetdicom allows a peer, and what it says when it ends a connection."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from dicom_listener.reception.breaches import Breach
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
