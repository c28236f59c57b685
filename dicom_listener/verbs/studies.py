"""`echobeam studies`: where each study is."""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import sys
import time
from pathlib import Path
from typing import Final

import click

from dicom_listener.verbs import (
    PIPE_COLUMNS,
    as_document,
    as_time,
    existing_ledger,
    exit_codes,
    json_option,
    print_json,
    root_option,
)

_STATES: Final = ("receiving", "complete", "claimed", "done", "failed")


@click.group(epilog="\b\nExample:\n  echobeam studies list --state failed")
def studies() -> None:
    """Show where each study is; retry a failed one."""


@studies.command("list", epilog="\b\nExample:\n  echobeam studies list --state failed --json")
@root_option
@click.option("--state", type=click.Choice(_STATES), help="Only studies in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most to list.")
@json_option
def list_studies(root: Path, state: str | None, limit: int, as_json: bool) -> None:
    """List studies, the newest first."""
    with exit_codes(), existing_ledger(root) as ledger:
        records = ledger.list_studies(state=state, limit=limit)
    if as_json:
        print_json([as_document(record) for record in records])
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
            as_time(record.last_received_at),
            str(record.attempts),
        )
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


@studies.command("show", epilog="\b\nExample:\n  echobeam studies show 1.2.826.0.1.3680043.8.498.1 --json")
@click.argument("study_instance_uid")
@root_option
@json_option
def show_study(study_instance_uid: str, root: Path, as_json: bool) -> None:
    """Show one study: its state, why it was called complete, attempts, last error, conflicts."""
    with exit_codes(), existing_ledger(root) as ledger:
        record = ledger.show_study(study_instance_uid)
    document = as_document(record)
    if as_json:
        print_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in document.items():
        if name == "conflicts":
            for conflict in record.conflicts:
                kind = conflict.kind.value.replace("_", " ")
                text = f"{kind}: {conflict.sop_instance_uid} at {as_time(conflict.seen_at)}"
                table.add_row("conflict", text)
        elif value is not None:
            shown = as_time(value) if name.endswith(("_at", "_until")) else str(value)
            table.add_row(name.replace("_", " "), shown)
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


@studies.command("retry", epilog="\b\nExample:\n  echobeam studies retry 1.2.826.0.1.3680043.8.498.1")
@click.argument("study_instance_uid")
@root_option
@json_option
def retry_study(study_instance_uid: str, root: Path, as_json: bool) -> None:
    """Put a failed study back into the queue, with all its attempts."""
    with exit_codes(), existing_ledger(root) as ledger:
        ledger.retry_study(study_instance_uid, now=time.time())
        record = ledger.show_study(study_instance_uid)
    if as_json:
        print_json(as_document(record))
    else:
        click.echo(f"{record.study_instance_uid} is {record.state.value} again")
