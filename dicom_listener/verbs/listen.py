"""`echobeam listen`: the receiver in the foreground."""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_listener.verbs import exit_codes, root_option

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


def _receive_here(settings: "ListenerSettings") -> None:
    from dicom_listener.lifeline import stop_with_supervisor
    from dicom_listener.service import Listener

    # Blocked before any thread starts, so that none of them takes a signal which would then wait for the
    # main thread to wake by itself.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    stop_with_supervisor()
    with Listener(settings):
        signal.sigwait(signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _receive_in_children(settings: "ListenerSettings", *, quiet: bool) -> int:
    from dicom_listener.lifeline import stop_with_supervisor
    from dicom_listener.shared_metrics import share_metrics

    metrics_folder = share_metrics(settings.root / "run")
    from dicom_listener.processes import run_processes  # imports what share_metrics must precede

    stop_with_supervisor()
    return run_processes(settings, metrics_folder, quiet=quiet)
