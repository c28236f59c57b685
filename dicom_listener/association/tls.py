"""TLS for DICOM, after the BCP 195 profile (PS3.15 B.12; RFC 9325): certificates checked before the start."""

import ssl
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_listener.errors import CertificateError
from dicom_listener.log import describe_error
from dicom_listener.settings import ListenerSettings

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, 4.2). TLS 1.3 has no others."""

_DAY_S: Final = 86400.0
_CLIENT_CERTIFICATES: Final = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = structlog.get_logger(__name__)


class ServerSocket(ssl.SSLSocket):
    """A socket that is closed once its peer is known to be gone.

    `wrap_socket` takes a socket over before it looks who is at the other end; if nobody is, it raises, and
    what it had made would stay open until it is collected.
    """

    def getpeername(self) -> Any:
        """Give the peer's address.

        Raises:
            OSError: the peer is gone; the socket is closed.
        """
        try:
            return super().getpeername()
        except OSError:
            self.close()
            raise


def server_context(settings: ListenerSettings, *, clock: Callable[[], float] = time.time) -> ssl.SSLContext:
    """Build what a server needs to speak TLS.

    Args:
        settings: with `tls_certificate` and `tls_key`, as `settings.has_tls` says.
        clock: seconds since the epoch.

    Raises:
        CertificateError: with every fault: a file that cannot be read or is none, a key that others can
            read or that is another certificate's, a certificate that has expired or is no server's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = ServerSocket
    context.minimum_version = _VERSIONS[settings.tls_minimum_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    faults = _load_own(context, settings)
    context.verify_mode = _CLIENT_CERTIFICATES[settings.tls_client_certificates]
    if settings.tls_ca is not None:
        faults += _load_authorities(context, settings.tls_ca, clock())
    if not faults:
        try:
            certificate_expires_at(settings)
        except CertificateError as error:
            faults += error.faults
    if faults:
        raise CertificateError(faults)
    return context


def certificate_expires_at(settings: ListenerSettings) -> float:
    """Say when our certificate ends (seconds since the epoch), by shaking hands with ourselves.

    A handshake in memory shows a client's view of it: that it is valid now, and fit for a server.

    Raises:
        CertificateError: if the certificate cannot be used.
    """
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    faults = _load_own(server_side, settings)
    if faults:
        raise CertificateError(faults)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # our certificate is its own authority here
    client_side.load_verify_locations(cafile=settings.tls_certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    try:
        while not _shakes_hands(client):
            _shakes_hands(server)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", error.reason)
        raise CertificateError(
            [f"tls_certificate {settings.tls_certificate}: {why}: have a new one issued, for a server"]
        ) from None
    certificate = client.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


class ServerTls:
    """TLS of a running server, which follows its files: a renewed certificate is used without a restart.

    Attributes:
        context: for the server.
        expires_at: when our certificate ends, seconds since the epoch.

    Raises:
        CertificateError: when made, with every fault.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._seen = self._look()
        self.context = server_context(settings)
        self.expires_at = certificate_expires_at(settings)

    def follow_files(self, _now: float) -> None:
        """Load certificate, key and authorities again if a file has changed; a chore of the housekeeper.

        With a fault, the old ones stay in use and the fault is logged. An authority that was taken out
        of its file is trusted until the next start.
        """
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        settings = self._settings
        try:
            server_context(settings)
            expires_at = certificate_expires_at(settings)
            _load_own(self.context, settings)
            if settings.tls_ca is not None:
                self.context.load_verify_locations(cafile=settings.tls_ca)
        except (CertificateError, OSError) as error:
            _log.warning(
                "certificate_not_renewed",
                error=describe_error(error),
                advice="the old one is used on; complete the change, or see `echobeam doctor`",
            )
            return
        self.expires_at = expires_at
        _log.info("certificate_renewed", days=round((expires_at - time.time()) / _DAY_S))

    def _look(self) -> list[tuple[int, int, int] | None]:
        files = (self._settings.tls_certificate, self._settings.tls_key, self._settings.tls_ca)
        return [_stamp(file) for file in files if file is not None]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class CertificateCollector(Collector):
    """When our certificate ends; nothing where there is no TLS."""

    def __init__(self, tls: ServerTls | None) -> None:
        self._tls = tls

    def describe(self) -> Iterable[Metric]:
        """Name the metric."""
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        """Give the end of the certificate that is in use."""
        family = self._family()
        if self._tls is not None:
            family.add_metric([], self._tls.expires_at)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "echobeam_listener_certificate_expiry_timestamp_seconds",
            "When our TLS certificate ends, seconds since the epoch; absent without TLS.",
        )


def _load_own(context: ssl.SSLContext, settings: ListenerSettings) -> list[str]:
    certificate, key = Path(str(settings.tls_certificate)), Path(str(settings.tls_key))
    faults = [
        *_fault_of_file("tls_certificate", certificate),
        *_fault_of_file("tls_key", key),
    ]
    if faults:
        return faults
    if key.stat().st_mode & stat.S_IRWXO:
        faults.append(f"tls_key {key}: everybody on this machine may read it: chmod 600 {key}")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            faults.append(f"tls_key {key} is not the key of {certificate}: give the one it was issued for")
        else:
            faults.append(
                f"tls_certificate {certificate} and tls_key {key} cannot be used "
                f"({error.reason or 'no PEM'}): give PEM files, the key without a password"
            )
    return faults


def _load_authorities(context: ssl.SSLContext, path: Path, now: float) -> list[str]:
    faults = list(_fault_of_file("tls_ca", path))
    if faults:
        return faults
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        return [f"tls_ca {path}: no certificates could be read ({error.reason or 'no PEM'}): give PEM"]
    ends = [ssl.cert_time_to_seconds(str(authority["notAfter"])) for authority in context.get_ca_certs()]
    if not ends:
        return [f"tls_ca {path}: none of its certificates may issue others: give those of the authority"]
    if max(ends) <= now:
        return [f"tls_ca {path}: every certificate in it has expired: give the current ones"]
    return []


def _fault_of_file(setting: str, path: Path) -> Iterable[str]:
    try:
        path.open("rb").close()
    except OSError as error:
        yield f"{setting} {path}: cannot be read ({error.strerror}): correct the path or its permissions"


def _no_password() -> str:
    return ""  # or OpenSSL asks for it on the terminal


def _shakes_hands(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
