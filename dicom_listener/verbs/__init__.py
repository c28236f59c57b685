"""The listener's verbs, one module each, and what they share: options, the ledger, tables."""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

    from dicom_listener.ledger import Ledger, StudyRecord
    from dicom_listener.settings import ListenerSettings

PIPE_COLUMNS: Final = 220
"""Width of a table that no terminal limits: room for a UID and a digest of 64 characters each."""

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def root_option(command: _Decorated) -> _Decorated:
    """Add `--root`."""
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("echobeam-data"),
        show_default=True,
        envvar="ECHOBEAM_ROOT",
        help="Folder with configuration, ledger, spool, results and models.",
    )(command)


def json_option(command: _Decorated) -> _Decorated:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@contextmanager
def opened_ledger(root: Path) -> Iterator[tuple["ListenerSettings", "Ledger"]]:
    """Read the configuration of a root and open its ledger for the block; the ledger must exist."""
    from dicom_listener.ledger import Ledger
    from dicom_listener.settings import ListenerSettings, load_section

    settings = load_section(ListenerSettings, "listener", root)
    ledger = Ledger(settings.ledger_url, must_exist=True)
    try:
        yield settings, ledger
    finally:
        ledger.close()


@contextmanager
def existing_ledger(root: Path) -> Iterator["Ledger"]:
    """Open the ledger of a root for the block; it must exist."""
    with opened_ledger(root) as (_settings, ledger):
        yield ledger


def as_document(record: "StudyRecord") -> dict[str, Any]:
    """Give what `--json` prints of a study."""
    return dataclasses.asdict(record)


def print_json(document: object) -> None:
    """Print a document as indented JSON."""
    click.echo(json.dumps(document, indent=2))


def print_table(table: "Table") -> None:
    """Print a table as wide as the terminal, or wide enough for UIDs where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def as_time(seconds: float) -> str:
    """Write a time for people, in UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(sep=" ", timespec="seconds")
