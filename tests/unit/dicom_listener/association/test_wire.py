import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_listener.association.guard import BreachError, Limits, PduType
from dicom_listener.association.wire import AbortReason, PduReader, encode_abort, split_pdvs
from dicom_listener.reception.breaches import Breach
from dicom_listener.settings import ListenerSettings
from tests.raw_peer import ABORT, DATA_TF, encode_pdu, encode_pdv

MAXIMUM: dict[int, int] = {PduType.DATA_TF: 1000, PduType.ABORT: 4}
CAPACITY = 1006


@pytest.fixture
def pair() -> Iterator[tuple[PduReader, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield PduReader(ours, CAPACITY), theirs


def test_a_pdu_is_given_once_it_is_whole(pair: tuple[PduReader, socket.socket]) -> None:
    reader, peer = pair
    pdu = encode_pdu(DATA_TF, b"abc")
    for number in range(len(pdu)):
        assert reader.next(MAXIMUM) is None
        assert reader.is_within_pdu == (number > 0)
        peer.send(pdu[number : number + 1])
        assert reader.fill() == 1
    found = reader.next(MAXIMUM)
    assert found is not None
    assert (found[0], bytes(found[1])) == (PduType.DATA_TF, pdu)
    assert not reader.is_within_pdu


def test_nothing_there_now_and_the_end_are_told_apart(pair: tuple[PduReader, socket.socket]) -> None:
    reader, peer = pair
    assert reader.fill() is None
    peer.close()
    assert reader.fill() == 0


def test_many_pdus_go_through_one_buffer(pair: tuple[PduReader, socket.socket]) -> None:
    reader, peer = pair
    pdus = [encode_pdu(DATA_TF, bytes([n % 256]) * (n % 1000)) for n in range(3000)]
    stream, received = b"".join(pdus), []
    while stream or reader.is_within_pdu:
        stream = stream[peer.send(stream[:5000]) :] if stream else stream
        reader.fill()
        while (found := reader.next(MAXIMUM)) is not None:
            received.append(bytes(found[1]))
    assert received == pdus


@pytest.mark.parametrize(
    ("header", "breach"),
    [
        (encode_pdu(DATA_TF, b"", length=1001), Breach.OVERSIZED_PDU),
        (encode_pdu(ABORT, b"", length=2**32 - 1), Breach.OVERSIZED_PDU),
        (encode_pdu(1, b"", length=1), Breach.UNEXPECTED_PDU),
        (encode_pdu(255, b"", length=1), Breach.UNEXPECTED_PDU),
    ],
)
def test_what_is_not_allowed_is_known_by_its_header(
    pair: tuple[PduReader, socket.socket], header: bytes, breach: Breach
) -> None:
    reader, peer = pair
    peer.send(header)
    reader.fill()
    with pytest.raises(BreachError) as caught:
        reader.next(MAXIMUM)
    assert caught.value.breach is breach


def test_an_abort_is_one_of_the_service_provider() -> None:
    assert encode_abort(AbortReason.INVALID_PARAMETER) == encode_pdu(ABORT, b"\0\0\2\6")


def test_lengths_that_do_not_fit_are_a_breach() -> None:
    body = encode_pdv(1, 3, b"abc")
    assert [(c, h, bytes(f)) for c, h, f in split_pdvs(memoryview(body))] == [(1, 3, b"abc")]
    for spoiled in (body[:-1], body + b"\0", b"\0\0\0\1" + body[4:]):
        with pytest.raises(BreachError):
            list(split_pdvs(memoryview(spoiled)))


def test_every_breach_says_what_to_do() -> None:
    assert all(len(breach.advice) > 30 for breach in Breach)


def test_a_pdu_may_be_a_little_longer_than_was_asked_for(tmp_path: Path) -> None:
    limits = Limits.of(ListenerSettings(root=tmp_path, maximum_pdu_bytes=16384))
    assert limits.of_pdus()[PduType.DATA_TF] == 16384 + 1024
    assert PduType.ASSOCIATE_RQ not in limits.of_pdus()
