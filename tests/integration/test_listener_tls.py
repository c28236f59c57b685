"""TLS with DCMTK as the peer, and with peers that are up to no good."""

import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import examples

from beam_jobs.command import main
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings
from tests.certificates import Authority, Issued
from tests.integration.listener_peers import associate, is_refused
from tests.programs import DEADLINE_S, need, wait_for

TLS_13_ONLY = "1.3"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Issued:
    return authority.issue("listener")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Issued:
    return authority.issue("sender")


@contextmanager
def listening(root: Path, authority: Authority, ours: Issued, **values: Any) -> Iterator[Listener]:
    settings: dict[str, Any] = {
        "port": 0,
        "tls_port": 0,
        "http_port": 0,
        "drain_s": 0.0,
        "tls_certificate": ours.certificate,
        "tls_key": ours.key,
        "tls_ca": authority.ca.certificate,
    }
    with Listener(ListenerSettings(root=root, **(settings | values))) as listener:
        yield listener


def dcmtk(
    program: str, listener: Listener, authority: Authority, *arguments: str | Path, client: Issued | None
) -> "subprocess.CompletedProcess[str]":
    """Run a program of DCMTK against the TLS port, with a client's certificate or without."""
    port = listener.tls_port
    identity: tuple[str | Path, ...] = (
        ("+tla",) if client is None else ("+tls", client.key, client.certificate)
    )
    command = (need(program, "dcmtk"), *identity, "+cf", authority.ca.certificate, "-aec", "ECHOBEAM")
    return subprocess.run(
        [*command, "127.0.0.1", str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def refused_handshakes(listener: Listener) -> float:
    return float(listener.reception.metrics.breaches.labels("tls_handshake")._value.get())


def test_dcmtk_stores_over_tls_with_its_certificate(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    with listening(tmp_path, authority, ours) as listener:
        assert listener.dicom_port == listener.tls_port
        file = examples.get_path("ybr_color")
        done = dcmtk("storescu", listener, authority, "-xy", file, client=theirs)
        assert (done.returncode, done.stderr) == (0, "")
        [study] = listener.reception.ledger.list_studies()
        assert study.instances == 1


def test_a_sender_without_a_good_certificate_gets_no_further(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("stranger")
    old = authority.issue("old", expired=True)
    with listening(tmp_path / "root", authority, ours) as listener:
        for client in (stranger, old, None):
            assert dcmtk("echoscu", listener, authority, client=client).returncode != 0
        wait_for("the counter", lambda: refused_handshakes(listener) == 3)
        assert dcmtk("echoscu", listener, authority, client=theirs).returncode == 0
        assert refused_handshakes(listener) == 3


@pytest.mark.parametrize(("mode", "without_is_fine"), [("optional", True), ("none", True)])
def test_a_certificate_may_be_optional(
    authority: Authority, ours: Issued, tmp_path: Path, mode: str, *, without_is_fine: bool
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("stranger")
    with listening(tmp_path / "root", authority, ours, tls_client_certificates=mode) as listener:
        done = dcmtk("echoscu", listener, authority, client=None)
        assert (done.returncode == 0) == without_is_fine
        with_a_bad_one = dcmtk("echoscu", listener, authority, client=stranger)
        assert (with_a_bad_one.returncode == 0) == (mode == "none"), "what is shown must be good"


def test_a_sender_that_trusts_another_authority_refuses_us(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    with listening(tmp_path / "root", authority, ours) as listener:
        assert dcmtk("echoscu", listener, other, client=theirs).returncode != 0
        assert dcmtk("echoscu", listener, authority, client=theirs).returncode == 0


def shake_hands(listener: Listener, authority: Authority, client: Issued, **versions: ssl.TLSVersion) -> str:
    """Shake hands as a client that speaks certain versions; give the one that was agreed on."""
    context = ssl.create_default_context(cafile=authority.ca.certificate)
    context.load_cert_chain(client.certificate, client.key)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or OpenSSL itself offers nothing old
    for name, version in versions.items():
        setattr(context, name, version)
    with (
        socket.create_connection(("127.0.0.1", listener.tls_port or 0), DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return str(encrypted.version())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_tls_is_not_spoken(authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path) -> None:
    old, middle, new = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    with listening(tmp_path / "a", authority, ours) as listener:
        with pytest.raises(ssl.SSLError):
            shake_hands(listener, authority, theirs, minimum_version=old, maximum_version=old)
        assert shake_hands(listener, authority, theirs, maximum_version=middle) == "TLSv1.2"
        assert shake_hands(listener, authority, theirs) == "TLSv1.3"
    with listening(tmp_path / "b", authority, ours, tls_minimum_version=TLS_13_ONLY) as listener:
        with pytest.raises(ssl.SSLError):
            shake_hands(listener, authority, theirs, maximum_version=middle)
        assert shake_hands(listener, authority, theirs, minimum_version=new) == "TLSv1.3"


def test_plain_dicom_is_off_unless_asked_for(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    with listening(tmp_path / "a", authority, ours) as listener:
        plain = subprocess.run(
            [need("echoscu", "dcmtk"), "-to", "5", "-aec", "ECHOBEAM", "127.0.0.1", str(listener.tls_port)],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert plain.returncode != 0
        wait_for("the counter", lambda: refused_handshakes(listener) == 1)
    with listening(tmp_path / "b", authority, ours, plain_beside_tls=True) as listener:
        assert listener.dicom_port != listener.tls_port
        associate(listener.dicom_port).release()
        assert dcmtk("echoscu", listener, authority, client=theirs).returncode == 0


def test_peers_that_say_nothing_hold_up_nobody(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    with listening(tmp_path, authority, ours, negotiation_timeout_s=1.0) as listener:
        silent = [
            socket.create_connection(("127.0.0.1", listener.tls_port or 0), DEADLINE_S) for _ in range(5)
        ]
        assert dcmtk("echoscu", listener, authority, client=theirs).returncode == 0
        for connection in silent:
            with connection:
                assert connection.recv(1) == b"", "closed at the end of its time"


def test_peers_that_are_gone_before_the_handshake_harm_nobody(
    authority: Authority, ours: Issued, theirs: Issued, tmp_path: Path
) -> None:
    reset_on_close = struct.pack("ii", 1, 0)  # struct linger: on, no time
    with listening(tmp_path, authority, ours) as listener:
        for number in range(60):
            connection = socket.create_connection(("127.0.0.1", listener.tls_port or 0), DEADLINE_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            connection.sendall(b"\x16\x03\x01" * (number % 3))
            connection.close()
        assert dcmtk("echoscu", listener, authority, client=theirs).returncode == 0


def test_faults_of_certificates_are_told_at_the_start_all_at_once_without_a_traceback(
    authority: Authority, ours: Issued, tmp_path: Path
) -> None:
    (tmp_path / "echobeam.toml").write_text(
        "[listener]\nport = 0\nhttp_port = 0\ntls_port = 0\n"
        f'tls_certificate = "{ours.certificate}"\ntls_key = "{authority.ca.key}"\ntls_ca = "nowhere.pem"\n'
    )
    done = CliRunner().invoke(main, ["listen", "--root", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not the key of" in done.output
    assert f"tls_ca {tmp_path / 'nowhere.pem'}: cannot be read" in done.output
    assert "Traceback" not in done.output
    assert is_refused(2762)
