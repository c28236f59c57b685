"""Associations that we open: over TLS, cut off from another thread, and never left behind."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from dicom_listener.errors import PeerUnreachableError, StartRefusedError
from dicom_listener.peers.outgoing import Caller
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings, Peer
from tests.certificates import Authority, Issued
from tests.integration.serving import serving
from tests.programs import DEADLINE_S

ECHO = [build_context(Verification)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Issued:
    return authority.issue("listener")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    """A certificate of an authority that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("others"), "stranger").issue("listener")


def with_tls(root: Path, authority: Authority, own: Issued, *peers: Peer) -> ListenerSettings:
    return ListenerSettings(
        root=root,
        port=0,
        tls_port=0,
        http_port=0,
        drain_s=0,
        minimum_free_bytes=0,
        tls_certificate=own.certificate,
        tls_key=own.key,
        tls_ca=authority.ca.certificate,
        peers=peers,
        peer_timeout_s=DEADLINE_S,
    )


@contextmanager
def echoing() -> Iterator[Peer]:
    ae = AE(ae_title="PACS")
    ae.supported_contexts = ECHO
    with serving(ae) as port:
        yield Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)


def test_a_peer_is_called_over_tls_with_our_certificate(
    tmp_path: Path, authority: Authority, ours: Issued, other: Issued
) -> None:
    with Listener(with_tls(tmp_path / "peer", authority, ours)) as listener:
        assert listener.tls_port is not None
        peer = Peer(name="p", ae_title="ECHOBEAM", host="localhost", port=listener.tls_port, tls=True)
        caller = Caller.of(with_tls(tmp_path, authority, ours, peer))
        with caller.associated(peer, ECHO) as assoc:
            assert assoc.send_c_echo().Status == 0
        stranger = Caller.of(with_tls(tmp_path, authority, other, peer))
        with pytest.raises(PeerUnreachableError, match="TLS"), stranger.associated(peer, ECHO):
            pass


def test_a_peer_whose_certificate_we_do_not_trust_is_not_called(
    tmp_path: Path, authority: Authority, ours: Issued
) -> None:
    peers_authority = Authority(tmp_path / "peers", "another")
    with Listener(with_tls(tmp_path / "peer", peers_authority, peers_authority.issue("peer"))) as listener:
        assert listener.tls_port is not None
        peer = Peer(name="p", ae_title="ECHOBEAM", host="localhost", port=listener.tls_port, tls=True)
        caller = Caller.of(with_tls(tmp_path, authority, ours, peer))
        with pytest.raises(PeerUnreachableError, match="TLS"), caller.associated(peer, ECHO):
            pass


def test_a_renewed_certificate_is_used_and_a_broken_one_is_told(
    tmp_path: Path, authority: Authority, ours: Issued, other: Issued
) -> None:
    own = Issued(tmp_path / "own.pem", tmp_path / "own.key")

    def install(issued: Issued) -> None:
        own.certificate.write_bytes(issued.certificate.read_bytes())
        own.key.write_bytes(issued.key.read_bytes())

    with Listener(with_tls(tmp_path / "peer", authority, ours)) as listener:
        assert listener.tls_port is not None
        peer = Peer(name="p", ae_title="ECHOBEAM", host="localhost", port=listener.tls_port, tls=True)
        install(other)
        caller = Caller.of(with_tls(tmp_path, authority, own, peer))
        with pytest.raises(PeerUnreachableError), caller.associated(peer, ECHO):
            pass
        install(ours)
        with caller.associated(peer, ECHO) as assoc:
            assert assoc.send_c_echo().Status == 0
        own.key.write_text("no PEM")
        with pytest.raises(PeerUnreachableError, match="PEM"), caller.associated(peer, ECHO):
            pass


def test_files_that_are_no_certificates_refuse_the_start(tmp_path: Path, authority: Authority) -> None:
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("no PEM")
    broken = Issued(tmp_path / "certificate", tmp_path / "key")
    peer = Peer(name="p", ae_title="PACS", host="localhost", port=104, tls=True)
    with pytest.raises(StartRefusedError, match="PEM"):
        Caller.of(with_tls(tmp_path, authority, broken, peer))


def test_an_association_is_released_after_its_block_and_aborted_after_an_error() -> None:
    caller = Caller("ECHOBEAM", DEADLINE_S)
    with echoing() as peer:
        with caller.associated(peer, ECHO) as released:
            assert released.is_established
        assert released.is_released
        with pytest.raises(RuntimeError, match="ours"), caller.associated(peer, ECHO) as aborted:
            raise RuntimeError("ours")
        assert aborted.is_aborted


def test_stopping_cuts_off_what_is_open_and_opens_nothing_more() -> None:
    caller = Caller("ECHOBEAM", DEADLINE_S)
    with echoing() as peer:
        with caller.associated(peer, ECHO) as assoc:
            caller.stop()
            assert "Status" not in assoc.send_c_echo()
        with pytest.raises(PeerUnreachableError, match="stopping"), caller.associated(peer, ECHO):
            pass


def test_stopping_ends_a_negotiation_that_the_peer_does_not_answer() -> None:
    caller = Caller("ECHOBEAM", DEADLINE_S)
    refused: list[str] = []

    def call(peer: Peer) -> None:
        with pytest.raises(PeerUnreachableError) as error, caller.associated(peer, ECHO):
            pass
        refused.append(str(error.value))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(name="p", ae_title="PACS", host="127.0.0.1", port=silent.getsockname()[1])
        calling = threading.Thread(target=call, args=(peer,))
        calling.start()
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"\x01"  # its request has come, and stays unanswered
            caller.stop()
            calling.join(DEADLINE_S)
    assert len(refused) == 1
