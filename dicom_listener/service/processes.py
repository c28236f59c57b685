"""Several processes that receive on the same ports: a keeper here, a receiver in each child.

The kernel hands each connection to one of the children (SO_REUSEPORT). The ports are reserved here for
as long as the listener runs, so that a child that is started again finds them. A child that dies is
replaced after a growing wait; its associations break, and their senders send again what was not
acknowledged. Children end when this process does, however it ends.
"""

import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_listener.errors import UnsupportedSystemError
from dicom_listener.operations.lifeline import STOP_SIGNALS
from dicom_listener.operations.runfile import announced
from dicom_listener.operations.shared_metrics import Registries, forget_metrics, process_has_ended
from dicom_listener.operations.supervisor import Service, Supervisor
from dicom_listener.service.keeper import Keeper
from dicom_listener.service.listener import RUN_FILE
from dicom_listener.service.receiver import port_in_use
from dicom_listener.settings import ListenerSettings

SETTINGS_VARIABLE: Final = "ECHOBEAM_RECEIVER_SETTINGS"
"""Environment variable with a child's settings in JSON: those of the parent, whatever the file says now."""

_DRAIN_MARGIN_S: Final = 30.0

_log = structlog.get_logger(__name__)


def run_processes(settings: ListenerSettings, metrics_folder: Path, *, quiet: bool = False) -> int:
    """Receive with `settings.processes` children until SIGTERM or SIGINT, then drain.

    Signals to stop must be blocked in every thread: see `dicom_listener.verbs.listen`.

    Args:
        settings: everything.
        metrics_folder: as `share_metrics` gave it.
        quiet: let children log warnings and errors only.

    Returns:
        The exit code, as `Supervisor.run` gives it.

    Raises:
        UnsupportedSystemError: if this system cannot share a port among processes.
        CertificateError: if TLS cannot work.
        SpoolLockedError: if another listener receives into the same spool.
        PortInUseError: if a port is taken.
        SpoolUnavailableError: if the spool cannot be made.
        LedgerUnavailableError: if the ledger cannot be opened.
    """
    if sys.platform != "linux":
        raise UnsupportedSystemError(
            f"processes = {settings.processes} needs Linux, which spreads connections over the processes "
            "that share a port; set processes = 1"
        )
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, metrics_folder, ignore_errors=True)
        stopping = threading.Event()

        def stop() -> None:
            stopping.set()
            supervisor.stop()

        def is_receiving() -> bool:
            return not stopping.is_set() and bool(supervisor.ready_services())

        ports = {
            name: stack.enter_context(reserved_port(settings.host, port, tls=name == "tls_port"))
            for name, port in _wanted_ports(settings).items()
        }
        run_folder = (settings.root / RUN_FILE).parent
        supervisor = _supervisor(settings.model_copy(update=ports), run_folder, metrics_folder, quiet=quiet)
        _on_signals(stop)
        keeper = stack.enter_context(
            Keeper(settings, is_receiving, registries=Registries.of_several_processes(metrics_folder))
        )
        forget_metrics(run_folder, keep=metrics_folder)
        stack.callback(_forget_receivers, run_folder)

        def announce(_ready: Mapping[str, dict[str, Any]]) -> None:
            own = {"dicom_port": ports.get("port", ports.get("tls_port", 0)), **ports}
            own.pop("port", None)
            stack.enter_context(announced(settings.root / RUN_FILE, http_port=keeper.http_port, **own))
            _log.info("listening", http_port=keeper.http_port, processes=settings.processes, **own)

        supervisor.on_ready = announce
        code = supervisor.run()
        stopping.set()
    _log.info("stopped")
    return code


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` for each signal to stop, from a thread that does nothing but wait for them.

    A handler in Python would run only when the main thread wakes, and it may sleep for days. All other
    threads have blocked these signals, and so have the children until they wait for them in the same way.
    """

    def wait() -> None:
        while True:
            signal.sigwait(STOP_SIGNALS)
            stop()

    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextmanager
def reserved_port(host: str, port: int, *, tls: bool = False) -> Iterator[int]:
    """Keep a port for children that share it, without listening on it.

    Args:
        host: the address.
        port: the port; 0 takes a free one.
        tls: whether it is the one with TLS, for the error.

    Yields:
        The port.

    Raises:
        PortInUseError: if somebody listens there.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as alone:  # sharing would hide who is there already
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
        reserved = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise port_in_use(host, port, error, tls=tls) from error
    with reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind((host, port))
        except OSError as error:
            raise port_in_use(host, port, error, tls=tls) from error
        yield int(reserved.getsockname()[1])


def _forget_receivers(run_folder: Path) -> None:
    for announcement in run_folder.glob("receiver-*.json"):  # of those that were killed
        announcement.unlink(missing_ok=True)


def _wanted_ports(settings: ListenerSettings) -> dict[str, int]:
    wanted = {"tls_port": settings.tls_port} if settings.has_tls else {}
    return {**wanted, "port": settings.port} if settings.has_plain_port else wanted


def _supervisor(
    settings: ListenerSettings, run_folder: Path, metrics_folder: Path, *, quiet: bool
) -> Supervisor:
    options = ("--quiet",) if quiet else ()
    command = (sys.executable, "-m", "dicom_listener.service.receiver_process")
    names = [f"receiver-{number}" for number in range(1, settings.processes + 1)]
    return Supervisor(
        services=[Service(name, (*command, name, *options)) for name in names],
        run_folder=run_folder,
        on_ready=lambda _ready: None,
        environment={**os.environ, SETTINGS_VARIABLE: settings.model_dump_json()},
        drain_s=settings.drain_s + _DRAIN_MARGIN_S,
        on_ended=lambda pid: process_has_ended(metrics_folder, pid),
    )
