"""Certificates for tests, made by openssl: an authority, what it issues, and what is wrong with some."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import need


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, both PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder of its own.

    Attributes:
        ca: its own certificate, and its key.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._openssl = need("openssl", "openssl")
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._serial = 0
        self.ca = Issued(self._folder / "ca.pem", self._folder / "ca.key")
        self._make_key(self.ca.key)
        subject = ("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._run(
            "req", "-x509", "-new", "-key", self.ca.key, "-days", "30", *subject, "-out", self.ca.certificate
        )

    def issue(self, name: str, *, expired: bool = False) -> Issued:
        """Issue a certificate for localhost, good for both sides of a connection."""
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        self._make_key(issued.key)
        self._run("req", "-new", "-key", issued.key, "-subj", f"/CN={name}", "-out", request)
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=CA:FALSE\n"
        )
        self._serial += 1
        # a certificate that ends before it begins to be looked at
        days = ("-days", "-1") if expired else ("-days", "30")
        signing = ("-CA", self.ca.certificate, "-CAkey", self.ca.key, "-set_serial", str(self._serial))
        self._run(
            "x509",
            "-req",
            "-in",
            request,
            *signing,
            *days,
            "-extfile",
            extensions,
            "-out",
            issued.certificate,
        )
        return issued

    def _make_key(self, path: Path) -> None:
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
        path.chmod(0o600)

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)
