"""Certificates are checked before the start, and every fault is told at once."""

import select
import shutil
import socket
import ssl
import struct
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dicom_listener.association.tls import (
    CertificateCollector,
    ServerTls,
    certificate_expires_at,
    server_context,
)
from dicom_listener.errors import CertificateError
from dicom_listener.settings import ListenerSettings
from tests.certificates import Authority, Issued
from tests.programs import DEADLINE_S

DAY_S = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Issued:
    return authority.issue("ours")


def make_settings(root: Path, ours: Issued, **values: Any) -> ListenerSettings:
    tls: dict[str, Any] = {
        "tls_certificate": ours.certificate,
        "tls_key": ours.key,
        "tls_client_certificates": "none",
    }
    return ListenerSettings(root=root, **(tls | values))


def faults_of(settings: ListenerSettings, **clock: Any) -> str:
    with pytest.raises(CertificateError) as caught:
        server_context(settings, **clock)
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_peer_that_is_gone_before_the_handshake_leaves_no_socket_open(
    sent: bytes, ours: Issued, tmp_path: Path
) -> None:
    context = server_context(make_settings(tmp_path, ours))
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname(), DEADLINE_S)
        connection, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset on close
        peer.sendall(sent)
        peer.close()
        assert select.select([connection], [], [], DEADLINE_S)[0]
        with pytest.raises(OSError) as caught:  # noqa: PT011 - of any number: only that it is told
            context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    frames = (frame for frame, _ in traceback.walk_tb(caught.value.__traceback__))
    made = [
        value for frame in frames for value in frame.f_locals.values() if isinstance(value, ssl.SSLSocket)
    ]
    assert made
    assert {each.fileno() for each in made} == {-1}


def test_what_is_configured_is_what_is_spoken(authority: Authority, ours: Issued, tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, ours, tls_ca=authority.ca.certificate, tls_client_certificates="required"
    )
    context = server_context(settings)
    assert (context.minimum_version.name, context.verify_mode.name) == ("TLSv1_2", "CERT_REQUIRED")
    names = {cipher["name"] for cipher in context.get_ciphers()}
    assert all(name.startswith(("ECDHE-", "TLS_")) for name in names), names
    assert not any("SHA256" in name and "GCM" not in name and "POLY" not in name for name in names), "no CBC"
    strict = make_settings(tmp_path, ours, tls_minimum_version="1.3")
    assert server_context(strict).minimum_version.name == "TLSv1_3"


def test_the_end_of_our_certificate_is_known_and_scraped(ours: Issued, tmp_path: Path) -> None:
    expires_at = certificate_expires_at(make_settings(tmp_path, ours))
    written_at = ours.certificate.stat().st_mtime
    assert expires_at - written_at == pytest.approx(30 * DAY_S, abs=60)
    registry = CollectorRegistry()
    registry.register(CertificateCollector(ServerTls(make_settings(tmp_path, ours))))
    name = "echobeam_listener_certificate_expiry_timestamp_seconds"
    assert registry.get_sample_value(name) == expires_at
    without = CollectorRegistry()
    without.register(CertificateCollector(None))
    assert without.get_sample_value(name) is None


def test_files_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    nowhere = Issued(tmp_path / "a.pem", tmp_path / "a.key")
    faults = faults_of(make_settings(tmp_path, nowhere, tls_ca=tmp_path / "ca.pem"))
    for setting, name in (("tls_certificate", "a.pem"), ("tls_key", "a.key"), ("tls_ca", "ca.pem")):
        assert f"{setting} {tmp_path / name}: cannot be read (No such file or directory)" in faults
    with pytest.raises(CertificateError):
        certificate_expires_at(make_settings(tmp_path, nowhere))


def test_a_key_of_another_certificate_is_a_fault(authority: Authority, ours: Issued, tmp_path: Path) -> None:
    mixed = Issued(ours.certificate, authority.issue("other").key)
    assert "is not the key of" in faults_of(make_settings(tmp_path, mixed))


def test_an_expired_certificate_is_a_fault(authority: Authority, tmp_path: Path) -> None:
    old = authority.issue("old", expired=True)
    assert "certificate has expired" in faults_of(make_settings(tmp_path, old))
    with pytest.raises(CertificateError, match="certificate has expired"):
        certificate_expires_at(make_settings(tmp_path, old))


def test_a_key_that_everybody_reads_and_a_bad_authority_are_told_together(
    authority: Authority, tmp_path: Path
) -> None:
    open_key = authority.issue("open")
    open_key.key.chmod(0o604)
    faults = faults_of(make_settings(tmp_path, open_key, tls_ca=open_key.key))
    assert f"chmod 600 {open_key.key}" in faults
    assert "no certificates could be read" in faults


def test_a_certificate_that_issues_none_is_no_authority(ours: Issued, tmp_path: Path) -> None:
    assert "none of its certificates may issue" in faults_of(
        make_settings(tmp_path, ours, tls_ca=ours.certificate)
    )


def test_an_authority_of_the_past_is_a_fault(authority: Authority, ours: Issued, tmp_path: Path) -> None:
    in_a_year = ours.certificate.stat().st_mtime + 365 * DAY_S
    settings = make_settings(tmp_path, ours, tls_ca=authority.ca.certificate)
    assert "every certificate in it has expired" in faults_of(settings, clock=lambda: in_a_year)


def test_what_is_no_pem_is_a_fault(ours: Issued, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    assert "cannot be used (" in faults_of(make_settings(tmp_path, Issued(tmp_path / "no.pem", ours.key)))


def serial_of(tls: ServerTls, authority: Authority) -> str:
    """Shake hands in memory and give the serial number of the certificate that the server shows."""
    client_side = ssl.create_default_context(cafile=authority.ca.certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            client.do_handshake()
            return str((client.getpeercert() or {})["serialNumber"])
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLWantReadError):
                server.do_handshake()


def test_a_renewed_certificate_is_used_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    used = Issued(tmp_path / "used.pem", tmp_path / "used.key")

    def install(issued: Issued) -> None:
        for source, place in ((issued.certificate, used.certificate), (issued.key, used.key)):
            shutil.copy2(source, place)

    install(authority.issue("first"))
    tls = ServerTls(make_settings(tmp_path, used, tls_ca=authority.ca.certificate))
    first, first_end = serial_of(tls, authority), tls.expires_at
    with capture_logs() as logs:
        tls.follow_files(0.0)
    assert logs == [], "nothing has changed"
    second = authority.issue("second")
    shutil.copy2(second.certificate, used.certificate)  # its key is not there yet
    with capture_logs() as logs:
        tls.follow_files(0.0)
    assert [line["event"] for line in logs] == ["certificate_not_renewed"]
    assert "is not the key of" in logs[0]["error"]
    assert serial_of(tls, authority) == first
    install(second)
    with capture_logs() as logs:
        tls.follow_files(0.0)
    assert [(line["event"], line["days"]) for line in logs] == [("certificate_renewed", 30)]
    assert serial_of(tls, authority) != first
    assert tls.expires_at >= first_end
    used.certificate.unlink()
    with capture_logs() as logs:
        tls.follow_files(0.0)
        tls.follow_files(0.0)
    assert [line["event"] for line in logs] == ["certificate_not_renewed"], "told once"
