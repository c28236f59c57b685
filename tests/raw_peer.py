"""A peer that speaks DICOM's protocol byte by byte, well or badly."""

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage, Verification

from tests.programs import DEADLINE_S

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
STORAGE_CONTEXT: Final = 1
VERIFICATION_CONTEXT: Final = 3
NO_DATASET: Final = 0x0101
HAS_DATASET: Final = 0x0001


def encode_pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Encode a PDU; it may lie about its length."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def encode_pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    """Encode a presentation data value."""
    return struct.pack(">LBB", len(fragment) + 2, context_id, control) + fragment


def encode_request(
    sop_classes: Sequence[str] = (UltrasoundMultiFrameImageStorage, Verification),
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    called: str = "ECHOBEAM",
    maximum_length: int = 16384,
) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU; the contexts get the IDs 1, 3, 5 …"""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "RAWPEER", called
    primitive.presentation_context_definition_list = [
        build_context(sop_class, transfer_syntax) for sop_class in sop_classes
    ]
    for number, context in enumerate(primitive.presentation_context_definition_list):
        context.context_id = 2 * number + 1
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = maximum_length
    implementation.implementation_class_uid = UID("1.2.3.4")
    primitive.user_information = [length, implementation]
    encoded: bytes = A_ASSOCIATE_RQ(primitive).encode()
    return encoded


def encode_command(field: int, *, dataset_type: int, message_id: int = 7, **uids: str) -> bytes:
    """Encode a command set (PS3.7 section 6.3.1), its group length first; UIDs as they are given."""
    values = {
        0x0002: encode_uid(uids.get("sop_class", "")),
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", message_id),
        0x0700: struct.pack("<H", 0),
        0x0800: struct.pack("<H", dataset_type),
        0x1000: encode_uid(uids.get("instance", "")),
    }
    encoded = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value for element, value in values.items() if value
    )
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


def encode_uid(uid: str) -> bytes:
    """Encode a UID, valid or not."""
    value = uid.encode()
    return value + bytes(len(value) % 2)


def encode_store_command(
    instance: str = "1.2.3.1.1",
    sop_class: str = UltrasoundMultiFrameImageStorage,
    *,
    dataset_type: int = HAS_DATASET,
) -> bytes:
    """Encode the command set of a C-STORE request."""
    return encode_command(0x0001, dataset_type=dataset_type, sop_class=sop_class, instance=instance)


def encode_echo_command() -> bytes:
    """Encode the command set of a C-ECHO request."""
    return encode_command(0x0030, dataset_type=NO_DATASET, sop_class=Verification)


class RawPeer:
    """A connection to the listener."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)

    def send_data(self, context_id: int, control: int, fragment: bytes) -> None:
        """Send one presentation data value in a PDU of its own."""
        self.send(encode_pdu(DATA_TF, encode_pdv(context_id, control, fragment)))

    def associate(self, **request: object) -> Self:
        """Request an association that is accepted."""
        self.send(encode_request(**request))  # type: ignore[arg-type]
        kind, body = self.read_pdu()
        assert kind == ASSOCIATE_AC, f"expected to be accepted, got PDU {kind} {body!r}"
        return self

    def store(self, dataset: bytes, instance: str = "1.2.3.1.1", *, fragment_bytes: int = 16000) -> int:
        """Send one instance and give the status of the answer."""
        self.send_data(STORAGE_CONTEXT, 3, encode_store_command(instance))
        for place in range(0, len(dataset), fragment_bytes):
            is_last = place + fragment_bytes >= len(dataset)
            self.send_data(STORAGE_CONTEXT, 2 * is_last, dataset[place : place + fragment_bytes])
        return self.read_status()

    def read_pdu(self) -> tuple[int, bytes] | tuple[None, bytes]:
        """Read one PDU: its type and body; None when the peer has closed."""
        header = self._read(6)
        if len(header) < 6:
            return None, b""
        kind, _, length = struct.unpack(">BBL", header)
        return kind, self._read(length)

    def read_response(self) -> tuple[int, str]:
        """Read one DIMSE response: its status and its comment."""
        encoded = b""
        while True:
            kind, body = self.read_pdu()
            assert kind == DATA_TF, f"expected a response, got PDU {kind} {body!r}"
            encoded += body[6:]
            if body[5] & 2:
                break
        values, place = {}, 0
        while place < len(encoded):
            _, element, length = struct.unpack_from("<HHL", encoded, place)
            values[element] = encoded[place + 8 : place + 8 + length]
            place += 8 + length
        (status,) = struct.unpack("<H", values[0x0900])
        return int(status), values.get(0x0902, b"").decode().rstrip()

    def read_status(self) -> int:
        """Read one DIMSE response and give its status."""
        return self.read_response()[0]

    def is_aborted(self) -> bool:
        """Read until the connection is closed; say whether an A-ABORT came before."""
        while True:
            kind, _ = self.read_pdu()
            if kind is None:
                return False
            if kind == ABORT:
                return self.is_closed()

    def is_closed(self) -> bool:
        """Read until the connection is closed."""
        with suppress(ConnectionError):
            while self.connection.recv(65536):
                pass
        return True

    def drip(self, data: bytes, every_s: float) -> bool:
        """Send a byte now and then until the other side closes or all is sent; say whether it closed."""
        self.connection.settimeout(every_s)
        for number in range(len(data)):
            try:
                self.connection.sendall(data[number : number + 1])
                if not self.connection.recv(65536):
                    return True
            except TimeoutError:
                continue
            except ConnectionError:
                return True
        return False

    def _read(self, count: int) -> bytes:
        received = b""
        with suppress(ConnectionError):
            while len(received) < count:
                chunk = self.connection.recv(count - len(received))
                if not chunk:
                    break
                received += chunk
        return received
