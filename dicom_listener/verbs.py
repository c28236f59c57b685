"""The listener's verbs: `echobeam listen` and `echobeam studies`.

Exit codes: 0 fine, 1 found a problem, 2 usage or configuration refused, 3 no such study, 4 busy.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from dicom_listener.ledger import Ledger, StudyRecord

_FAILED: Final = 1
_REFUSED: Final = 2
_NOT_FOUND: Final = 3
_BUSY: Final = 4

_PIPE_COLUMNS: Final = 160
"""Width of a table that no terminal limits: room for a UID of 64 characters."""

_STATES: Final = ("receiving", "complete", "claimed", "done", "failed")

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _root_option(command: _Decorated) -> _Decorated:
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("echobeam-data"),
        show_default=True,
        envvar="ECHOBEAM_ROOT",
        help="Folder with configuration, ledger, spool, results and models.",
    )(command)


def _json_option(command: _Decorated) -> _Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@click.command(epilog="\b\nExample:\n  echobeam listen --root ./echobeam-data --host 0.0.0.0 --port 11112")
@_root_option
@click.option("--host", help="Address to receive on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="DICOM port, 0 for a free one.  [default: 11112]")
@click.option("--ae-title", help="Our AE title.  [default: ECHOBEAM]")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of /metrics, /healthz and /readyz, 0 for a free one.  [default: 9108]",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
def listen(
    *,
    root: Path,
    host: str | None,
    port: int | None,
    ae_title: str | None,
    http_port: int | None,
    quiet: bool,
) -> None:
    """Receive studies over C-STORE until SIGTERM or Ctrl-C, then drain and stop.

    Open associations may finish for `drain_s` seconds. A second signal stops at once.
    """
    from dicom_listener.log import configure_logging
    from dicom_listener.service import Listener
    from dicom_listener.settings import ListenerSettings, load_section

    configure_logging(quiet=quiet)
    with _exit_codes():
        settings = load_section(
            ListenerSettings,
            "listener",
            root,
            host=host,
            port=port,
            ae_title=ae_title,
            http_port=http_port,
        )
        # Blocked before any thread starts, so that none of them takes a signal which would then wait
        # for the main thread to wake by itself.
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        with Listener(settings):
            signal.sigwait(signals)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


@click.group(epilog="\b\nExample:\n  echobeam studies list --state failed")
def studies() -> None:
    """Show where each study is; retry a failed one."""


@studies.command("list", epilog="\b\nExample:\n  echobeam studies list --state failed --json")
@_root_option
@click.option("--state", type=click.Choice(_STATES), help="Only studies in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most to list.")
@_json_option
def list_studies(root: Path, state: str | None, limit: int, as_json: bool) -> None:
    """List studies, the newest first."""
    with _exit_codes(), _existing_ledger(root) as ledger:
        records = ledger.list_studies(state=state, limit=limit)
    if as_json:
        _print_json([_as_document(record) for record in records])
        return
    from rich.console import Console
    from rich.table import Column, Table

    uid_column = Column("study", overflow="fold")
    table = Table(uid_column, "state", "revision", "instances", "MB", "last received", "attempts")
    for record in records:
        table.add_row(
            record.study_instance_uid,
            record.state.value,
            str(record.revision),
            str(record.instances),
            f"{record.size_bytes / 1e6:.1f}",
            _as_time(record.last_received_at),
            str(record.attempts),
        )
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)


@studies.command("show", epilog="\b\nExample:\n  echobeam studies show 1.2.826.0.1.3680043.8.498.1 --json")
@click.argument("study_instance_uid")
@_root_option
@_json_option
def show_study(study_instance_uid: str, root: Path, as_json: bool) -> None:
    """Show one study: its state, why it was called complete, attempts, last error, conflicts."""
    with _exit_codes(), _existing_ledger(root) as ledger:
        record = ledger.show_study(study_instance_uid)
    document = _as_document(record)
    if as_json:
        _print_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in document.items():
        if name == "conflicts":
            for conflict in record.conflicts:
                kind = conflict.kind.value.replace("_", " ")
                text = f"{kind}: {conflict.sop_instance_uid} at {_as_time(conflict.seen_at)}"
                table.add_row("conflict", text)
        elif value is not None:
            shown = _as_time(value) if name.endswith(("_at", "_until")) else str(value)
            table.add_row(name.replace("_", " "), shown)
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)


@studies.command("retry", epilog="\b\nExample:\n  echobeam studies retry 1.2.826.0.1.3680043.8.498.1")
@click.argument("study_instance_uid")
@_root_option
@_json_option
def retry_study(study_instance_uid: str, root: Path, as_json: bool) -> None:
    """Put a failed study back into the queue, with all its attempts."""
    with _exit_codes(), _existing_ledger(root) as ledger:
        ledger.retry_study(study_instance_uid, now=time.time())
        record = ledger.show_study(study_instance_uid)
    if as_json:
        _print_json(_as_document(record))
    else:
        click.echo(f"{record.study_instance_uid} is {record.state.value} again")


@contextmanager
def _existing_ledger(root: Path) -> Iterator["Ledger"]:
    from dicom_listener.ledger import Ledger
    from dicom_listener.settings import ListenerSettings, load_section

    settings = load_section(ListenerSettings, "listener", root)
    ledger = Ledger(settings.ledger_url, must_exist=True)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def _exit_codes() -> Iterator[None]:
    from dicom_listener import errors

    try:
        yield
    except errors.ListenerError as error:
        click.echo(str(error), err=True)
        match error:
            case errors.PortInUseError() | errors.SpoolLockedError():
                code = _BUSY
            case errors.StartRefusedError():
                code = _REFUSED
            case errors.StudyNotFoundError():
                code = _NOT_FOUND
            case _:
                code = _FAILED
        raise SystemExit(code) from error


def _as_document(record: "StudyRecord") -> dict[str, Any]:
    return dataclasses.asdict(record)


def _print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2))


def _as_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(sep=" ", timespec="seconds")
