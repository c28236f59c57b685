"""`echobeam up`: the listener and the worker on one root, kept alive together."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from dicom_listener.exit_codes import exit_codes

DRAIN_OF_WORKER_S: Final = 120.0
"""A worker finishes the batch it is at; killed later, its claims would only come back by themselves."""


@click.command(
    epilog="\b\nExample:\n  echobeam up --root ./echobeam-data\n\n\b\n"
    "Ports and everything else come from echobeam.toml in the root, or from the environment:\n"
    "  ECHOBEAM_LISTENER_PORT=11113 echobeam up"
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder of configuration, ledger, spool, results and models.",
)
@click.option("--json", "as_json", is_flag=True, help="Announce as one line of JSON.")
def up(root: Path, *, as_json: bool) -> None:
    """Run the listener and the worker together until SIGTERM or Ctrl-C.

    Prints one line when both are ready. A crashed service is started again after a growing wait.
    Exit code 0 after a clean drain, 2 if the configuration is refused, 4 if a port is in use,
    1 if a service kept crashing or did not drain.
    """
    from beam_jobs.settings import WorkerSettings  # noqa: PLC0415
    from dicom_listener.log import configure_logging  # noqa: PLC0415
    from dicom_listener.operations.supervisor import Service, Supervisor  # noqa: PLC0415
    from dicom_listener.settings import ListenerSettings, load_section  # noqa: PLC0415

    configure_logging(quiet=False)
    root.mkdir(parents=True, exist_ok=True)
    with exit_codes():
        listener = load_section(ListenerSettings, "listener", root)
        worker = load_section(WorkerSettings, "worker", root)

    def announce(ready: Mapping[str, dict[str, Any]]) -> None:
        place = {
            "ae_title": listener.ae_title,
            "host": listener.host,
            "port": ready["listener"]["dicom_port"],
            "tls_port": ready["listener"].get("tls_port"),
            "listener_url": f"http://{listener.http_host}:{ready['listener']['http_port']}",
            "worker_url": f"http://{worker.http_host}:{ready['worker']['http_port']}",
            "root": str(root),
        }
        click.echo(json.dumps(place) if as_json else announcement(place))
        sys.stdout.flush()

    echobeam = (sys.executable, "-m", "beam_jobs")
    supervisor = Supervisor(
        services=(
            Service("listener", (*echobeam, "listen", "--root", str(root))),
            Service("worker", (*echobeam, "work", "--root", str(root))),
        ),
        run_folder=root / "run",
        drain_s=listener.drain_s + DRAIN_OF_WORKER_S,
        on_ready=announce,
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: supervisor.stop())
    sys.exit(supervisor.run())


def announcement(place: Mapping[str, Any]) -> str:
    """Say in one line where to push and where to look."""
    tls = {None: "", place["port"]: " with TLS"}.get(
        place["tls_port"], f", or with TLS at {place['host']}:{place['tls_port']}"
    )
    return (
        f"Push to {place['ae_title']} at {place['host']}:{place['port']}{tls}"
        f" · listener {place['listener_url']}/metrics · worker {place['worker_url']}/metrics"
        f" · root {place['root']}"
    )
