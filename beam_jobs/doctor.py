"""Checks of an installation and its root folder: what is right, what is not, what to do.

Each check is a function that returns findings and changes nothing but a temporary file that it
removes. A check never raises: what it could not find out is a finding too.
"""

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from beam_jobs.command import EXTRA_OF_MODULE
from dicom_listener.operations.runfile import read_run_file

GIB: Final = 1024**3
LITTLE_SPACE_BYTES: Final = 20 * GIB
"""Under this free space: a warning. A day of a busy echo laboratory is about as much."""
NO_SPACE_BYTES: Final = 1 * GIB
LITTLE_OF_RESERVE: Final = 3
"""Under so many times the listener's reserve: a warning, as the alert EchobeamDiskLow."""
DAY_S: Final = 86400.0
FEW_DAYS: Final = 14
"""A certificate that is good for fewer days: a warning, as the alert EchobeamCertificateExpires."""


class Outcome(StrEnum):
    """How a check ended; `FAIL` means that echobeam will not work as set up."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        advice: what to do about it; empty where nothing needs doing.
    """

    check: str
    outcome: Outcome
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Configuration:
    """The settings a root resolves to, or None where they are refused or cannot be read."""

    listener: Any | None
    worker: Any | None


def examine(root: Path) -> list[Finding]:
    """Run every check against `root`; the order is that in which an operator would fix things."""
    configuration, findings = check_configuration(root)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_extras,
        check_sender,
        lambda: iter(findings),
        lambda: check_root(root),
        lambda: check_results(configuration),
        lambda: check_key(configuration, root),
        lambda: check_ports(configuration, root),
        lambda: check_senders(configuration),
        lambda: check_tls(configuration),
        lambda: check_reserve(configuration),
        lambda: check_ledger(configuration),
        lambda: check_models(configuration),
    )
    return [finding for check in checks for finding in check()]


def check_python() -> Iterator[Finding]:
    """Check the interpreter's version against what the lock was resolved for."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding("python", Outcome.OK, version)
    else:
        yield Finding("python", Outcome.FAIL, version, "make the environment with Python 3.11 or 3.12")


def check_extras() -> Iterator[Finding]:
    """Check which extras are installed, and that Beam is the version the pipeline was proven on."""
    yield Finding("echobeam", Outcome.OK, metadata.version("echobeam"))
    for extra in ("worker", "demo"):
        absent = sorted(
            module
            for module, of_extra in EXTRA_OF_MODULE.items()
            if of_extra == extra and not is_installed(module)
        )
        if absent:
            yield Finding(
                f"extra {extra}",
                Outcome.WARN,
                f"not installed: {', '.join(absent)}",
                f"pip install 'echobeam[{extra}]', unless only the listener runs here",
            )
        else:
            yield Finding(f"extra {extra}", Outcome.OK, "installed")
    for distribution in ("pynetdicom", "apache-beam", "tensorflow", "keras"):
        try:
            yield Finding(distribution, Outcome.OK, metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue  # said above, by the extra


def is_installed(module: str) -> bool:
    """Return whether a module could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_sender() -> Iterator[Finding]:
    """Look for DCMTK's storescu, which the demo prefers as a client made by somebody else."""
    from beam_jobs.dcmtk import find_dcmtk_storescu  # noqa: PLC0415

    storescu = find_dcmtk_storescu()
    if storescu is None:
        yield Finding(
            "storescu",
            Outcome.WARN,
            "DCMTK is not installed; the demo sends with pynetdicom's own storescu",
            "optional: apt-get install dcmtk",
        )
    else:
        yield Finding("storescu", Outcome.OK, str(storescu))


def check_configuration(root: Path) -> tuple[Configuration, list[Finding]]:
    """Read every section of the configuration as the services would."""
    from dicom_listener.errors import SettingsError  # noqa: PLC0415
    from dicom_listener.settings import ListenerSettings, load_section  # noqa: PLC0415

    sections: dict[str, Any] = {"listener": ListenerSettings}
    if is_installed("apache_beam"):
        from beam_jobs.settings import RetrainSettings, WorkerSettings  # noqa: PLC0415

        sections |= {"worker": WorkerSettings, "retrain": RetrainSettings}
    loaded: dict[str, Any] = {}
    findings = []
    for section, settings in sections.items():
        name = f"configuration [{section}]"
        try:
            loaded[section] = load_section(settings, section, root)
        except SettingsError as error:
            findings.append(Finding(name, Outcome.FAIL, str(error), f"correct {root / 'echobeam.toml'}"))
        else:
            findings.append(Finding(name, Outcome.OK, "accepted"))
    return Configuration(loaded.get("listener"), loaded.get("worker")), findings


def check_root(root: Path) -> Iterator[Finding]:
    """Check that the root can be written durably, and how much room it has."""
    place = root
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as folder:
            _write_durably(Path(folder))
    except OSError as error:
        yield Finding(
            "root",
            Outcome.FAIL,
            f"{place} cannot be written durably ({error.strerror or error})",
            "give this user a folder it may write, on a file system with fsync, by --root",
        )
        return
    yield Finding("root", Outcome.OK, f"{root} can be written, and fsync works")
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free"
    if free < NO_SPACE_BYTES:
        yield Finding("disk", Outcome.FAIL, found, "free some space: studies would be refused")
    elif free < LITTLE_SPACE_BYTES:
        yield Finding("disk", Outcome.WARN, found, "a busy laboratory sends about 20 GiB a day")
    else:
        yield Finding("disk", Outcome.OK, found)


def _write_durably(folder: Path) -> None:
    """Do what the spool does for each instance: write, fsync, rename, fsync the folder."""
    unfinished = folder / "unfinished"
    with unfinished.open("wb") as file:
        file.write(b"echobeam")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / "finished")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_results(configuration: Configuration) -> Iterator[Finding]:
    """Try an object store that is to have the results, as a worker does when it starts."""
    from dicom_listener.errors import StoreError  # noqa: PLC0415
    from dicom_listener.object_store import StoreUrl, check_store  # noqa: PLC0415

    if configuration.worker is None or not isinstance(configuration.worker.results, StoreUrl):
        return
    url = configuration.worker.results
    if not is_installed("obstore"):
        yield Finding(
            "results", Outcome.FAIL, "obstore is not installed", "pip install 'echobeam[object-store]'"
        )
        return
    try:
        check_store(url)
    except StoreError as error:
        yield Finding("results", Outcome.FAIL, str(error), "docs/guides/engine.md says what a store must do")
    else:
        yield Finding("results", Outcome.OK, f"{url} can be written, and heeds If-None-Match and If-Match")


def check_key(configuration: Configuration, root: Path) -> Iterator[Finding]:
    """Check that the key of the pseudonyms, if made, is readable by its owner alone."""
    key = Path(configuration.worker.key_file) if configuration.worker else root / "secret.key"
    try:
        mode = key.stat().st_mode & 0o777
    except FileNotFoundError:
        yield Finding("key file", Outcome.OK, "not there yet; the worker makes it on its first start")
        return
    except OSError as error:
        yield Finding("key file", Outcome.FAIL, f"cannot be examined ({error.strerror})", "check its folder")
        return
    if mode & 0o077:
        yield Finding("key file", Outcome.FAIL, f"mode {mode:04o}, expected 0600", f"chmod 600 {key}")
    else:
        yield Finding("key file", Outcome.OK, f"mode {mode:04o}; keep a copy of it somewhere safe")


def check_ports(configuration: Configuration, root: Path) -> Iterator[Finding]:
    """Check that each configured port is free, or taken by this root's own service."""
    wanted: list[tuple[str, str, int, str]] = []
    if configuration.listener:
        settings = configuration.listener
        if settings.has_plain_port:
            wanted.append(("DICOM port", settings.host, settings.port, "listener"))
        if settings.has_tls:
            wanted.append(("DICOM port with TLS", settings.host, settings.tls_port, "listener"))
        wanted.append(("listener's HTTP port", settings.http_host, settings.http_port, "listener"))
    if configuration.worker:
        settings = configuration.worker
        wanted.append(("worker's HTTP port", settings.http_host, settings.http_port, "worker"))
    for name, host, port, service in wanted:
        running = read_run_file(root / "run" / f"{service}.json")
        if port_is_free(host, port):
            yield Finding(name, Outcome.OK, f"{host}:{port} is free")
        elif running and port in running.values():
            yield Finding(name, Outcome.OK, f"{host}:{port} is held by the {service} of this root")
        else:
            yield Finding(
                name,
                Outcome.FAIL,
                f"{host}:{port} is in use by another program",
                "stop it, or choose another port in echobeam.toml",
            )


def check_senders(configuration: Configuration) -> Iterator[Finding]:
    """Say who may send, and warn where that is everybody, or nobody who could connect."""
    if configuration.listener is None:
        return
    settings = configuration.listener
    if settings.allow_any_peer:
        yield Finding(
            "senders",
            Outcome.WARN,
            "every sender that can reach us is accepted",
            "name those that are meant as [[listener.allow]], and remove allow_any_peer",
        )
    elif settings.allow:
        listed = ", ".join(f"{peer.ae_title} at {peer.address}" for peer in settings.allow)
        yield Finding("senders", Outcome.OK, f"only {listed}")
    elif settings.is_local:
        yield Finding("senders", Outcome.OK, "only programs of this machine")
    else:
        yield Finding(
            "senders",
            Outcome.WARN,
            f"we receive on {settings.host}, but only programs of this machine are accepted",
            "name the senders that are meant as [[listener.allow]] in echobeam.toml",
        )


def check_tls(configuration: Configuration) -> Iterator[Finding]:
    """Check the files of TLS as the listener would, and how long our certificate is good."""
    from dicom_listener.association.tls import certificate_expires_at, server_context  # noqa: PLC0415
    from dicom_listener.errors import CertificateError  # noqa: PLC0415

    if configuration.listener is None:
        return
    settings = configuration.listener
    if not settings.has_tls:
        if not settings.is_local:
            yield Finding(
                "TLS", Outcome.WARN, "off: patients cross the network in the clear", "set tls_certificate"
            )
        return
    try:
        server_context(settings)
        days = (certificate_expires_at(settings) - time.time()) / DAY_S
    except CertificateError as error:
        yield Finding("TLS", Outcome.FAIL, "; ".join(error.faults), "correct these files or their settings")
        return
    found = f"our certificate is good for {days:.0f} days; senders' are {settings.tls_client_certificates}"
    if days < FEW_DAYS:
        yield Finding("TLS", Outcome.WARN, found, "have a new one issued and replace the files")
    elif settings.plain_beside_tls and not settings.is_local:
        yield Finding("TLS", Outcome.WARN, f"{found}; plain DICOM too", "remove plain_beside_tls")
    else:
        yield Finding("TLS", Outcome.OK, found)


def check_reserve(configuration: Configuration) -> Iterator[Finding]:
    """Compare the free space of the spool's disk with the reserve below which nothing is accepted."""
    if configuration.listener is None:
        return
    settings = configuration.listener
    place = settings.spool
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free for the spool, {settings.minimum_free_bytes / GIB:.1f} GiB kept free"
    if free < settings.minimum_free_bytes:
        yield Finding(
            "disk reserve",
            Outcome.FAIL,
            f"{found}: nothing is accepted",
            "free space, or lower minimum_free_bytes",
        )
    elif free < LITTLE_OF_RESERVE * settings.minimum_free_bytes:
        yield Finding("disk reserve", Outcome.WARN, found, "free space before the reserve is reached")
    else:
        yield Finding("disk reserve", Outcome.OK, found)


def port_is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now; port 0 (any) always is."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_ledger(configuration: Configuration) -> Iterator[Finding]:
    """Open an existing ledger and count its studies; one that is not there yet is left alone."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    from dicom_listener.errors import LedgerUnavailableError, LedgerVersionError  # noqa: PLC0415
    from dicom_listener.ledger import Ledger  # noqa: PLC0415

    if configuration.listener is None:
        return
    url = make_url(configuration.listener.ledger_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        yield Finding("ledger", Outcome.OK, "not there yet; the listener makes it on its first start")
        return
    try:
        ledger = Ledger(configuration.listener.ledger_url)
        try:
            counts = ledger.counts_by_state()
        finally:
            ledger.close()
    except LedgerVersionError as error:
        yield Finding("ledger", Outcome.FAIL, str(error), "install the release that made it, or a newer one")
        return
    except LedgerUnavailableError as error:
        yield Finding("ledger", Outcome.FAIL, str(error), "see that the file is a ledger this user may write")
        return
    found = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if count)
    failed = counts.get("failed", 0)
    if failed:
        yield Finding(
            "ledger", Outcome.WARN, found, "echobeam studies list --state failed, then studies retry"
        )
    else:
        yield Finding("ledger", Outcome.OK, found or "no studies yet")


def check_models(configuration: Configuration) -> Iterator[Finding]:
    """Check that each task has a model, and that its files are those that were published."""
    if configuration.worker is None:
        return
    from echo_models.errors import ModelsError  # noqa: PLC0415
    from echo_models.manifest import TASKS, verify  # noqa: PLC0415
    from echo_models.registry import SHIPPED, Registry  # noqa: PLC0415

    registry = Registry(Path(configuration.worker.models))
    for task in TASKS:
        name = f"model {task}"
        shipped = sorted((SHIPPED / task).glob("*/"))
        try:
            if registry.production(task) is not None:
                yield Finding(name, Outcome.OK, f"{verify(registry.resolve(task)).name} in production")
            elif shipped:
                found = ", ".join(verify(folder).name for folder in shipped)
                yield Finding(name, Outcome.OK, f"{found} ships with echobeam; the worker installs it")
            else:
                yield Finding(
                    name, Outcome.FAIL, "none in production, none shipped", f"echobeam train {task} --help"
                )
        except ModelsError as error:
            yield Finding(name, Outcome.FAIL, str(error), f"echobeam models rollback {task}")
