"""`echobeam commitments`: what was promised to whom, and whether they know."""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dicom_listener.exit_codes import exit_codes
from dicom_listener.verbs import PIPE_COLUMNS, as_time, existing_ledger, json_option, print_json, root_option

if TYPE_CHECKING:
    from dicom_listener.commitment.ledger import CommitmentLedger
    from dicom_listener.commitment.records import Commitment

_STATES: Final = ("pending", "reported", "failed")


@click.group(epilog="\b\nExample:\n  echobeam commitments list --state failed")
def commitments() -> None:
    """Show requests of storage commitment; report one again."""


@commitments.command("list", epilog="\b\nExample:\n  echobeam commitments list --state failed --json")
@root_option
@click.option("--state", type=click.Choice(_STATES), help="Only requests in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most to list.")
@json_option
def list_commitments(root: Path, state: str | None, limit: int, as_json: bool) -> None:
    """List requests of storage commitment, the newest first."""
    with exit_codes(), _opened(root) as ledger:
        found = ledger.list(state=state, limit=limit)
    if as_json:
        print_json([_document(commitment) for commitment in found])
        return
    from rich.table import Column, Table

    table = Table(
        Column("commitment", overflow="fold"),
        "requester",
        "state",
        "requested",
        "instances",
        "committed",
        "failed",
        "attempts",
    )
    for one in found:
        table.add_row(
            one.commitment_id,
            one.requester,
            one.state.value,
            as_time(one.requested_at),
            str(one.instances),
            str(one.committed),
            str(one.failed_instances),
            str(one.attempts),
        )
    _print(table)


@commitments.command("show", epilog="\b\nExample:\n  echobeam commitments show 2.25.4711 --json")
@click.argument("commitment")
@root_option
@json_option
def show_commitment(commitment: str, root: Path, as_json: bool) -> None:
    """Show one request, by its id or its transaction UID, with what was not committed and why."""
    with exit_codes(), _opened(root) as ledger:
        found = ledger.show(commitment)
        failures = _failures(ledger, found)
    document = _document(found)
    if as_json:
        print_json(document | {"failures": failures})
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in document.items():
        is_over = name == "next_attempt_at" and found.state.value != "pending"
        if value is not None and not is_over:
            table.add_row(name.replace("_", " "), as_time(value) if name.endswith("_at") else str(value))
    for failure in failures:
        table.add_row("not committed", f"{failure['sop_instance_uid']}: {failure['failure_reason']}")
    _print(table)


@commitments.command("retry", epilog="\b\nExample:\n  echobeam commitments retry 2.25.4711")
@click.argument("commitment")
@root_option
@json_option
def retry_commitment(commitment: str, root: Path, as_json: bool) -> None:
    """Verify and report a request again, whatever became of it before; the running listener does it."""
    with exit_codes(), _opened(root) as ledger:
        found = ledger.retry(commitment, now=time.time())
    if as_json:
        print_json(_document(found))
    else:
        click.echo(f"{found.commitment_id} of {found.requester} is {found.state.value} again")


@contextmanager
def _opened(root: Path) -> Iterator["CommitmentLedger"]:
    from dicom_listener.commitment.ledger import CommitmentLedger

    with existing_ledger(root) as ledger:
        yield CommitmentLedger(ledger)


def _document(commitment: "Commitment") -> dict[str, Any]:
    return dataclasses.asdict(commitment)


def _failures(ledger: "CommitmentLedger", commitment: "Commitment") -> list[dict[str, str]]:
    from dicom_listener.commitment.statuses import FailureReason

    return [
        {
            "sop_instance_uid": verdict.reference.sop_instance_uid,
            "failure_reason": FailureReason(verdict.failure_reason).name.lower(),
        }
        for verdict in ledger.verdicts(commitment.commitment_id)
        if verdict.failure_reason is not None
    ]


def _print(table: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
