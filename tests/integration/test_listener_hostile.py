"""Peers that are broken, slow or mean, against the guarded server."""

import gc
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian
from pynetdicom.sop_class import Verification
from structlog.testing import capture_logs

from dicom_listener.association.guard import MAXIMUM_IDENTIFIER_BYTES, MAXIMUM_REQUEST_BYTES
from dicom_listener.association.lobby import MAXIMUM_WAITING
from dicom_listener.association.scp import Reception, handlers, make_application_entity
from dicom_listener.association.server import Admission, start_server
from dicom_listener.errors import DiskReserveError
from dicom_listener.ledger import Ledger
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.writing import Spool
from tests.integration.listener_peers import listening
from tests.programs import wait_for
from tests.raw_peer import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RQ,
    DATA_TF,
    HAS_DATASET,
    NO_DATASET,
    RELEASE_RQ,
    STORAGE_CONTEXT,
    VERIFICATION_CONTEXT,
    RawPeer,
    encode_command,
    encode_echo_command,
    encode_pdu,
    encode_pdv,
    encode_request,
    encode_store_command,
)
from tests.unit.dicom_listener.instances import encode, make_dataset

COMMAND, LAST_COMMAND, DATASET, LAST_DATASET = 1, 3, 0, 2


@dataclass
class Door:
    """A running server, and what is behind it."""

    port: int
    root: Path
    reception: Reception
    registry: CollectorRegistry

    def breaches(self) -> dict[str, int]:
        """Count what the guard has ended, by reason."""
        counted = {
            breach.value: self.registry.get_sample_value(
                "echobeam_listener_ended_connections_total", {"reason": breach.value}
            )
            for breach in Breach
        }
        return {reason: int(count) for reason, count in counted.items() if count}

    def stored(self) -> list[Path]:
        """List the files that were kept."""
        return list(self.root.glob("spool/??/*.dcm"))

    def unfinished(self) -> list[Path]:
        """List the files that are under way."""
        return list(self.root.glob("spool/tmp/*"))


@contextmanager
def opened(root: Path, *, admission: Admission | None = None, **values: Any) -> Iterator[Door]:
    """Run a server for the block."""
    settings = ListenerSettings(root=root, port=0, http_port=0, **values)
    registry = CollectorRegistry()
    spool = Spool(settings.spool)
    with spool.receiving():
        ledger = Ledger(settings.ledger_url)
        reception = Reception(spool, ledger, ListenerMetrics(registry))
        server = start_server(
            make_application_entity(settings), settings, handlers(reception), admission=admission
        )
        try:
            yield Door(server.server_address[1], root, reception, registry)
        finally:
            server.shutdown()
            for assoc in server.active_associations:
                assoc.abort()
                assoc.join()
            ledger.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path) as door:
        yield door


DATASET_BYTES = encode(make_dataset()).getvalue()


# ---------------------------------------------------------------------- before the association


@pytest.mark.parametrize(
    ("said", "breach"),
    [
        (encode_pdu(ASSOCIATE_RQ, b"", length=300 * 1024 * 1024), Breach.OVERSIZED_PDU),
        (encode_pdu(ASSOCIATE_RQ, b"", length=MAXIMUM_REQUEST_BYTES + 1), Breach.OVERSIZED_PDU),
        (encode_pdu(DATA_TF, b"", length=300 * 1024 * 1024), Breach.UNEXPECTED_PDU),
        (encode_pdu(ASSOCIATE_AC, b"x" * 10), Breach.UNEXPECTED_PDU),
        (b"GET / HTTP/1.1\r\n\r\n", Breach.UNEXPECTED_PDU),
        (encode_pdu(ASSOCIATE_RQ, b"\0" * 70), Breach.UNREADABLE_PDU),
        (encode_request()[:-5] + b"\xff" * 5, Breach.UNREADABLE_PDU),
    ],
    ids=["300 MiB", "just too long", "300 MiB of data", "acceptance", "HTTP", "nothing in it", "broken"],
)
def test_what_is_no_request_is_refused_at_once_and_told(door: Door, said: bytes, breach: Breach) -> None:
    with capture_logs() as logs, RawPeer(door.port) as peer:
        peer.send(said)
        assert peer.is_aborted()
        wait_for("the log line", lambda: [line for line in logs if line["event"] == "connection_ended"])
    [line] = logs
    assert (line["reason"], line["peer"], bool(line["advice"])) == (breach, "127.0.0.1", True)
    assert door.breaches() == {breach: 1}


def test_a_context_without_an_abstract_syntax_is_no_request(door: Door) -> None:
    abstract = b"\x30\x00\x00\x11" + Verification.encode()
    request = encode_request([Verification])
    assert abstract in request
    with RawPeer(door.port) as peer:
        peer.send(request.replace(abstract, b"\x40\x00\x00\x11" + Verification.encode()))
        assert peer.is_closed()
    wait_for("the count", lambda: door.breaches() == {Breach.UNREADABLE_PDU: 1})


def test_idle_connections_take_no_slot(tmp_path: Path) -> None:
    with opened(tmp_path, maximum_associations=1) as door, ExitStack() as stack:
        idle = [stack.enter_context(RawPeer(door.port)) for _ in range(MAXIMUM_WAITING)]
        with RawPeer(door.port) as peer:  # the one that has waited longest makes room
            assert peer.associate().store(DATASET_BYTES) == 0
        assert idle[0].is_closed()
        assert door.breaches() == {Breach.TOO_MANY_WAITING: 1}


def test_who_says_nothing_is_closed(tmp_path: Path) -> None:
    with opened(tmp_path, negotiation_timeout_s=0.2) as door, RawPeer(door.port) as peer:
        assert peer.is_closed()
        wait_for("the count", lambda: door.breaches() == {Breach.NEGOTIATION_TIMEOUT: 1})


def test_a_request_that_drips_is_closed_although_each_byte_is_in_time(tmp_path: Path) -> None:
    with opened(tmp_path, negotiation_timeout_s=0.5) as door, RawPeer(door.port) as peer:
        assert peer.drip(encode_request(), every_s=0.05)
        wait_for("the count", lambda: door.breaches() == {Breach.NEGOTIATION_TIMEOUT: 1})


def test_a_probe_that_connects_and_goes_is_no_breach(door: Door) -> None:
    RawPeer(door.port).connection.close()
    with RawPeer(door.port) as peer:
        peer.associate()
    assert door.breaches() == {}


class Porter:
    """An admission that remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.inside = 0

    def connected(self, peer_address: str) -> str | None:
        assert peer_address == "127.0.0.1"
        self.inside += self.answer is None
        return self.answer

    def disconnected(self, peer_address: str) -> None:
        assert peer_address == "127.0.0.1"
        self.inside -= 1


def test_each_connection_is_counted_in_and_out(tmp_path: Path) -> None:
    porter = Porter()
    with opened(tmp_path, admission=porter) as door:
        with RawPeer(door.port) as idle, RawPeer(door.port) as mean, RawPeer(door.port) as sender:
            sender.associate()
            mean.send(b"GET / HTTP/1.1\r\n\r\n")
            assert mean.is_aborted()
            wait_for("the count", lambda: porter.inside == 2)
            assert idle.connection.fileno() >= 0
        wait_for("the end", lambda: porter.inside == 0)
        porter.answer = "too many"
        with RawPeer(door.port) as peer:
            assert peer.is_closed()
        assert porter.inside == 0


# ---------------------------------------------------------------------- within the association


@pytest.mark.parametrize(
    ("said", "breach"),
    [
        (encode_pdu(DATA_TF, b"", length=300 * 1024 * 1024), Breach.OVERSIZED_PDU),
        (encode_pdu(RELEASE_RQ, b"", length=300 * 1024 * 1024), Breach.OVERSIZED_PDU),
        (encode_pdu(9, b"xxxx"), Breach.UNEXPECTED_PDU),
        (encode_request(), Breach.UNEXPECTED_PDU),
        (encode_pdu(DATA_TF, b"\0\0\0\xff\1\3xx"), Breach.UNREADABLE_PDU),
        (encode_pdu(DATA_TF, b"\0\0\0\0"), Breach.UNREADABLE_PDU),
        (encode_pdu(DATA_TF, b"\0"), Breach.UNREADABLE_PDU),
        (encode_pdu(DATA_TF, encode_pdv(1, LAST_COMMAND, b"\x08\0\0\0\1\0\0\0x")), Breach.UNREADABLE_PDU),
        (encode_pdu(DATA_TF, encode_pdv(1, LAST_COMMAND, b"")), Breach.UNREADABLE_PDU),
        (encode_pdu(DATA_TF, encode_pdv(1, DATASET, b"x")), Breach.UNEXPECTED_MESSAGE),
        (
            encode_pdu(DATA_TF, encode_pdv(1, COMMAND, b"x") + encode_pdv(3, COMMAND, b"x")),
            Breach.UNEXPECTED_MESSAGE,
        ),
        (
            encode_pdu(DATA_TF, encode_pdv(1, LAST_COMMAND, encode_store_command()) * 2),
            Breach.UNEXPECTED_MESSAGE,
        ),
        (
            encode_pdu(DATA_TF, encode_pdv(99, LAST_COMMAND, encode_store_command())),
            Breach.UNEXPECTED_MESSAGE,
        ),
        (
            encode_pdu(DATA_TF, encode_pdv(VERIFICATION_CONTEXT, LAST_COMMAND, encode_store_command())),
            Breach.UNEXPECTED_MESSAGE,
        ),
        (
            encode_pdu(
                DATA_TF,
                encode_pdv(
                    1,
                    LAST_COMMAND,
                    encode_command(0x0100, dataset_type=NO_DATASET),
                ),
            ),
            Breach.UNEXPECTED_MESSAGE,
        ),
        (
            encode_pdu(
                DATA_TF,
                encode_pdv(
                    1,
                    LAST_COMMAND,
                    encode_command(0x7777, dataset_type=NO_DATASET),
                ),
            ),
            Breach.UNREADABLE_PDU,
        ),
        (encode_pdu(DATA_TF, encode_pdv(1, COMMAND, b"x" * 9000)) * 2, Breach.OVERSIZED_MESSAGE),
    ],
    ids=[
        "300 MiB",
        "long release",
        "unknown type",
        "second request",
        "value longer than its PDU",
        "value without context",
        "value without length",
        "not a command",
        "empty command",
        "dataset without command",
        "two contexts in a command",
        "command within a message",
        "unknown context",
        "storage as verification",
        "event report",
        "unknown command",
        "long command",
    ],
)
def test_what_the_protocol_forbids_ends_the_association(door: Door, said: bytes, breach: Breach) -> None:
    with RawPeer(door.port) as peer:
        peer.associate().send(said)
        assert peer.is_aborted()
    assert door.breaches() == {breach: 1}
    wait_for("the end of the instance", lambda: door.unfinished() == [])


def test_a_long_identifier_is_not_collected(door: Door) -> None:
    find = encode_command(0x0020, dataset_type=HAS_DATASET, sop_class=Verification)
    with RawPeer(door.port) as peer:
        peer.associate().send_data(VERIFICATION_CONTEXT, LAST_COMMAND, find)
        fragment = encode_pdu(DATA_TF, encode_pdv(VERIFICATION_CONTEXT, DATASET, bytes(100_000)))
        for _ in range(MAXIMUM_IDENTIFIER_BYTES // 100_000 + 1):
            peer.send(fragment)
        assert peer.is_aborted()
    assert door.breaches() == {Breach.OVERSIZED_MESSAGE: 1}


def test_an_association_that_says_nothing_is_aborted(tmp_path: Path) -> None:
    with opened(tmp_path, network_timeout_s=0.2) as door, RawPeer(door.port) as peer:
        assert peer.associate().is_aborted()
        assert door.breaches() == {Breach.IDLE_TIMEOUT: 1}


def test_a_pdu_that_drips_is_aborted_although_each_byte_is_in_time(tmp_path: Path) -> None:
    with opened(tmp_path, network_timeout_s=0.5) as door, RawPeer(door.port) as peer:
        peer.associate().send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command())
        assert peer.drip(
            encode_pdu(DATA_TF, encode_pdv(STORAGE_CONTEXT, DATASET, DATASET_BYTES)), every_s=0.05
        )
        wait_for("the count", lambda: door.breaches() == {Breach.PDU_TIMEOUT: 1})
        wait_for("the end of the instance", lambda: door.unfinished() == [])


def test_an_instance_that_drips_is_aborted_although_each_pdu_is_in_time(tmp_path: Path) -> None:
    with opened(tmp_path, object_timeout_s=0.3) as door, RawPeer(door.port) as peer:
        peer.associate().send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command())
        peer.connection.settimeout(0.05)
        with pytest.raises(ConnectionError):  # noqa: PT012 - it drips until it is stopped
            while True:
                peer.send_data(STORAGE_CONTEXT, DATASET, b"x")
                try:
                    if not peer.connection.recv(100):
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        wait_for("the count", lambda: door.breaches() == {Breach.OBJECT_TIMEOUT: 1})
        wait_for("the end of the instance", lambda: door.unfinished() == [])


def test_more_messages_than_are_served_wait_at_the_sender(door: Door) -> None:
    number = 2000
    with RawPeer(door.port) as peer:
        peer.associate()
        echoes = encode_pdu(DATA_TF, encode_pdv(VERIFICATION_CONTEXT, LAST_COMMAND, encode_echo_command()))
        sender = threading.Thread(target=peer.send, args=(echoes * number,))
        sender.start()
        assert {peer.read_status() for _ in range(number)} == {0}
        sender.join()


# ---------------------------------------------------------------------- instances


def test_one_too_large_is_refused_and_the_association_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path, maximum_object_bytes=100_000) as door, RawPeer(door.port) as peer:
        peer.associate()
        large = encode(make_dataset(pixel_bytes=60_000)).getvalue() + bytes(200_000)
        peer.send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command())
        for place in range(0, len(large), 16_000):
            is_last = place + 16_000 >= len(large)
            peer.send_data(STORAGE_CONTEXT, 2 * is_last, large[place : place + 16_000])
        assert peer.read_response() == (0xA700, "larger than is kept here (maximum_object_bytes)")
        assert door.unfinished() == []
        assert peer.store(DATASET_BYTES) == 0
        assert len(door.stored()) == 1


class Reserve:
    """A disk that is full when told."""

    def __init__(self) -> None:
        self.is_low = True

    def check(self) -> None:
        if self.is_low:
            raise DiskReserveError("full")


def test_a_full_disk_is_told_before_a_byte_is_written_and_recovers(tmp_path: Path) -> None:
    with opened(tmp_path) as door:
        reserve = Reserve()
        settings = ListenerSettings(root=tmp_path, port=0, http_port=0)
        reception = replace(door.reception, capacity=reserve)
        server = start_server(make_application_entity(settings), settings, handlers(reception))
        with RawPeer(server.server_address[1]) as peer:
            peer.associate()
            assert peer.store(DATASET_BYTES) == 0xA700
            reserve.is_low = False
            assert peer.store(DATASET_BYTES) == 0
        server.shutdown()


@pytest.mark.parametrize(
    ("instance", "status"), [("1.2.3.9", 0xA900), ("1.2.03", 0x0117), ("1.2.PLANTED", 0x0117), ("", 0x0117)]
)
def test_what_is_announced_wrongly_is_refused_once_it_is_whole(
    door: Door, instance: str, status: int
) -> None:
    with RawPeer(door.port) as peer:
        assert peer.associate().store(DATASET_BYTES, instance) == status
        assert peer.store(DATASET_BYTES) == 0
    assert len(door.stored()) == 1
    assert door.unfinished() == []


def test_a_class_of_another_context_is_refused(door: Door) -> None:
    with RawPeer(door.port) as peer:
        peer.associate()
        peer.send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command(sop_class=CTImageStorage))
        peer.send_data(STORAGE_CONTEXT, LAST_DATASET, DATASET_BYTES)
        assert peer.read_status() == 0x0122


def test_a_request_without_a_dataset_is_answered(door: Door) -> None:
    with RawPeer(door.port) as peer:
        peer.associate()
        peer.send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command(dataset_type=NO_DATASET))
        assert peer.read_status() == 0xC000
        peer.send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command())
        peer.send_data(STORAGE_CONTEXT, LAST_DATASET, b"")
        assert peer.read_status() == 0xC000
        assert peer.store(DATASET_BYTES) == 0


@pytest.mark.parametrize("fragment_bytes", [1, 7, 100, 16000])
def test_however_it_is_cut_it_is_the_same_instance(door: Door, fragment_bytes: int) -> None:
    with RawPeer(door.port) as peer:
        assert peer.associate().store(DATASET_BYTES, fragment_bytes=fragment_bytes) == 0
    [file] = door.stored()
    assert file.read_bytes().endswith(DATASET_BYTES)


def test_several_values_in_one_pdu_are_taken_in_turn(door: Door) -> None:
    command = encode_store_command()
    whole = (
        encode_pdv(1, COMMAND, command[:20])
        + encode_pdv(1, LAST_COMMAND, command[20:])
        + encode_pdv(1, DATASET, DATASET_BYTES[:50])
        + encode_pdv(1, LAST_DATASET, DATASET_BYTES[50:])
    )
    with RawPeer(door.port) as peer:
        peer.associate().send(encode_pdu(DATA_TF, whole) * 2)
        assert [peer.read_status(), peer.read_status()] == [0, 0]


def test_a_peer_that_takes_little_at_once_gets_its_answer_in_pieces(door: Door) -> None:
    with RawPeer(door.port) as peer:
        assert peer.associate(maximum_length=20).store(DATASET_BYTES) == 0


def vanish(peer: RawPeer) -> None:
    peer.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset, not a goodbye
    peer.connection.close()


def hang_up(peer: RawPeer) -> None:
    peer.connection.close()


def give_up(peer: RawPeer) -> None:
    peer.send(encode_pdu(ABORT, b"\0\0\0\0"))


@pytest.mark.parametrize("leave", [vanish, hang_up, give_up])
def test_a_sender_that_leaves_midway_leaves_no_part_of_a_file_anywhere(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[RawPeer], None]
) -> None:
    elsewhere = tmp_path / "system's temporary folder"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    with RawPeer(door.port) as peer:
        peer.associate().send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command())
        peer.send_data(STORAGE_CONTEXT, DATASET, DATASET_BYTES)
        wait_for("the unfinished file", door.unfinished)
        leave(peer)
        wait_for("its end", lambda: door.unfinished() == [])
    assert door.stored() == []
    assert list(elsewhere.iterdir()) == []
    assert door.reception.ledger.list_studies() == []


def test_a_deflated_syntax_is_not_negotiated(door: Door) -> None:
    with RawPeer(door.port) as peer:
        peer.send(encode_request(transfer_syntax=DeflatedExplicitVRLittleEndian))
        kind, body = peer.read_pdu()
    assert kind == ASSOCIATE_AC
    place = body.index(b"\x21\x00")  # the first presentation context item (PS3.8 Table 9-18)
    assert body[place + 6] == 4  # transfer syntaxes not supported


# ---------------------------------------------------------------------- memory


def peak_bytes(pid: int) -> int:
    """Read the largest resident memory of a process so far."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("this system does not tell a process's memory in /proc")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def send_large(port: int, number: int, size_bytes: int) -> int:
    header = encode(make_dataset(instance=f"1.2.3.1.{number}", pixel_bytes=2)).getvalue()[:-2]
    dataset = bytearray(header[:-4] + struct.pack("<L", size_bytes))  # the length of the pixels
    fragment = encode_pdu(DATA_TF, encode_pdv(STORAGE_CONTEXT, DATASET, bytes(130_000)))
    with RawPeer(port) as peer:
        peer.associate().send_data(STORAGE_CONTEXT, LAST_COMMAND, encode_store_command(f"1.2.3.1.{number}"))
        peer.send_data(STORAGE_CONTEXT, DATASET, bytes(dataset))
        for _ in range(size_bytes // 130_000):
            peer.send(fragment)
        peer.send_data(STORAGE_CONTEXT, LAST_DATASET, bytes(size_bytes % 130_000))
        return peer.read_status()


def test_memory_does_not_grow_with_what_is_received(tmp_path: Path) -> None:
    large, small = 400_000_000, 1_000_000
    with listening(tmp_path / "root") as (running, ports, _log):
        port = ports["dicom_port"]

        def send_all(size_bytes: int, first: int) -> None:
            statuses: list[int] = []
            senders = [
                threading.Thread(
                    target=lambda number=number: statuses.append(send_large(port, number, size_bytes))
                )
                for number in range(first, first + 8)
            ]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            assert statuses == [0] * 8

        send_all(small, 1)
        before = peak_bytes(running.pid)
        assert send_large(port, 100, large) == 0
        send_all(large // 8, 200)
        grown = peak_bytes(running.pid) - before
    assert grown < 48_000_000


def test_what_is_over_is_forgotten(door: Door) -> None:
    def associations() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "GuardedAssociation" for thing in gc.get_objects())

    for number in range(1, 20):
        with RawPeer(door.port) as peer:
            assert peer.associate().store(DATASET_BYTES, f"1.2.3.9.{number}") == 0xA900
    wait_for("their end", lambda: associations() <= 1)
