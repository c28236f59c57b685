"""`echobeam listen`: the receiver in the foreground."""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_listener.exit_codes import exit_codes
from dicom_listener.operations.lifeline import STOP_SIGNALS
from dicom_listener.verbs import root_option

if TYPE_CHECKING:
    from dicom_listener.settings import ListenerSettings


@click.command(epilog="\b\nExample:\n  echobeam listen --root ./echobeam-data --host 0.0.0.0 --port 11112")
@root_option
@click.option("--host", help="Address to receive on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="DICOM port, 0 for a free one.  [default: 11112]")
@click.option("--ae-title", help="Our AE title.  [default: ECHOBEAM]")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of /metrics, /healthz and /readyz, 0 for a free one.  [default: 9108]",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    help="Processes that receive, all on the same port.  [default: 1]",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
def listen(
    *,
    root: Path,
    host: str | None,
    port: int | None,
    ae_title: str | None,
    http_port: int | None,
    processes: int | None,
    quiet: bool,
) -> None:
    """Receive studies over C-STORE until SIGTERM or Ctrl-C, then drain and stop.

    Open associations may finish for `drain_s` seconds. A second signal stops at once.
    """
    # Before anything is imported that starts a thread, as numerical libraries do: one that does not block
    # them could take the signals that another waits for, and end the process at once.
    with _blocked_signals():
        from dicom_listener.log import configure_logging
        from dicom_listener.settings import ListenerSettings, load_section

        configure_logging(quiet=quiet)
        with exit_codes():
            settings = load_section(
                ListenerSettings,
                "listener",
                root,
                host=host,
                port=port,
                ae_title=ae_title,
                http_port=http_port,
                processes=processes,
            )
            if settings.processes == 1:
                _receive_here(settings)
            else:
                raise SystemExit(_receive_in_children(settings, quiet=quiet))


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals to stop; after the block all is as before, so that nothing else inherits it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive_here(settings: "ListenerSettings") -> None:
    from dicom_listener.operations.lifeline import stop_with_supervisor
    from dicom_listener.service.listener import Listener

    stop_with_supervisor()
    with Listener(settings):
        signal.sigwait(STOP_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _receive_in_children(settings: "ListenerSettings", *, quiet: bool) -> int:
    from dicom_listener.operations.lifeline import stop_with_supervisor
    from dicom_listener.operations.shared_metrics import share_metrics

    metrics_folder = share_metrics(settings.root / "run")
    from dicom_listener.service.processes import run_processes  # imports what share_metrics must precede

    stop_with_supervisor()
    return run_processes(settings, metrics_folder, quiet=quiet)
