"""`echobeam studies`: where each study is, what is kept of it, and what may go."""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dicom_listener.exit_codes import exit_codes
from dicom_listener.verbs import (
    as_document,
    as_time,
    existing_ledger,
    json_option,
    print_json,
    print_table,
    root_option,
)
from dicom_listener.verbs.keeping import prune_spool, verify_studies

if TYPE_CHECKING:
    from rich.table import Table

    from dicom_listener.ledger import Content, StudyRecord

_STATES: Final = ("receiving", "complete", "claimed", "done", "failed")


@click.group(epilog="\b\nExample:\n  echobeam studies list --state failed")
def studies() -> None:
    """Show where each study is; retry a failed one; check and prune what is kept."""


studies.add_command(verify_studies)
studies.add_command(prune_spool)


@studies.command("list", epilog="\b\nExample:\n  echobeam studies list --state failed --json")
@root_option
@click.option("--state", type=click.Choice(_STATES), help="Only studies in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most to list.")
@json_option
def list_studies(root: Path, state: str | None, limit: int, as_json: bool) -> None:
    """List studies, the newest first, and count all by state."""
    with exit_codes(), existing_ledger(root) as ledger:
        records = ledger.list_studies(state=state, limit=limit)
        counts = ledger.counts_by_state()
    if as_json:
        print_json([as_document(record) for record in records])
        return
    from rich.table import Column, Table

    table = Table(
        Column("study", overflow="fold"),
        "state",
        "revision",
        "instances",
        "MB",
        "last received",
        "attempts",
        "notes",
    )
    for record in records:
        table.add_row(
            record.study_instance_uid,
            record.state.value,
            str(record.revision),
            str(record.instances),
            f"{record.size_bytes / 1e6:.1f}",
            as_time(record.last_received_at),
            str(record.attempts),
            _notes(record),
        )
    print_table(table)
    by_state = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    total = sum(counts.values())
    click.echo(f"{len(records)} of {total} studies" + (f": {by_state}" if by_state else ""))


@studies.command("show", epilog="\b\nExample:\n  echobeam studies show 1.2.826.0.1.3680043.8.498.1 --files")
@click.argument("study_instance_uid")
@root_option
@click.option("--files", "with_files", is_flag=True, help="List every file, not only those of conflicts.")
@json_option
def show_study(study_instance_uid: str, root: Path, with_files: bool, as_json: bool) -> None:
    """Show one study: its state, why it was called complete, attempts, last error, conflicts, files.

    Where one instance came with two contents, both are listed: which is at work, its digest and size, when
    it came, and what is wrong with its file. With --json all contents are always there.
    """
    with exit_codes(), existing_ledger(root) as ledger:
        record = ledger.show_study(study_instance_uid)
        contents = ledger.list_contents(study_instance_uid)
    document = as_document(record)
    if as_json:
        print_json(document | {"contents": [_content_document(content) for content in contents]})
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in document.items():
        if name == "conflicts":
            for line in _conflict_lines(record):
                table.add_row("conflict", line)
        elif value is not None:
            shown = as_time(value) if name.endswith(("_at", "_until")) else str(value)
            table.add_row(name.replace("_", " "), shown)
    print_table(table)
    several = {content.sop_instance_uid for content in contents if not content.is_at_work}
    listed = [one for one in contents if with_files or one.sop_instance_uid in several or one.file_state]
    if listed:
        print_table(_file_table(listed))


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


def _notes(record: "StudyRecord") -> str:
    notes = (
        (len(record.conflicts), "conflicts"),
        (record.lost_files, "files lost"),
        (record.pruned_files, "files pruned"),
    )
    return ", ".join(f"{count} {what}" for count, what in notes if count)


def _conflict_lines(record: "StudyRecord") -> list[str]:
    lines = []
    for conflict in record.conflicts:
        text = f"{conflict.kind.value.replace('_', ' ')}: {conflict.sop_instance_uid}"
        if conflict.resolution is not None and conflict.sha256 is not None:
            resolution = conflict.resolution.value.replace("_", " ")
            text += f" came as {conflict.sha256[:12]}, {conflict.size_bytes} bytes, and was {resolution}"
        times = f", {conflict.times} times" if conflict.times > 1 else ""
        lines.append(f"{text} at {as_time(conflict.seen_at)}{times}")
    return lines


def _file_table(contents: "list[Content]") -> "Table":
    from rich.table import Column, Table

    table = Table(
        Column("instance", overflow="fold"),
        "at work",
        Column("sha256", overflow="fold", min_width=16),
        "bytes",
        "received",
        "file",
    )
    for content in contents:
        is_lost = content.file_state is not None and content.file_state_at is not None
        state = f"{content.file_state} since {as_time(content.file_state_at or 0)}" if is_lost else "there"
        table.add_row(
            content.sop_instance_uid,
            "yes" if content.is_at_work else "no",
            content.sha256,
            str(content.size_bytes),
            as_time(content.received_at),
            state,
        )
    return table


def _content_document(content: "Content") -> dict[str, Any]:
    document = dataclasses.asdict(content)
    del document["study_instance_uid"]
    return document
