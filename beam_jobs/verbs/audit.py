"""`echobeam audit`: what was done to the headers and pixels of a study.

Exit codes: 0 fine, 1 a study was quarantined or the results cannot be read, 2 usage or configuration
refused, 3 no such study.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import json
import sys
from pathlib import Path
from typing import Any

import click

from dicom_listener.exit_codes import ExitCode, exit_codes


@click.command(epilog="\b\nExample:\n  echobeam audit 16bb1529652e9c4ead58e540e9aa796f --json")
@click.argument("study_key", required=False)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration and results.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object for each instance.")
def audit(study_key: str | None, root: Path, *, as_json: bool) -> None:
    """List every action on every instance of a study, as it was recorded when the study was processed.

    Without STUDY_KEY, one line for each study. No value of a header is in an audit.
    """
    from beam_jobs.audits import read_audit, summarize_audits
    from beam_jobs.settings import SECTION, WorkerSettings
    from dicom_listener.settings import load_section

    with exit_codes():
        results = load_section(WorkerSettings, SECTION, root).results
        rows = summarize_audits(results) if study_key is None else read_audit(results, study_key)
    if study_key is not None and not rows:
        click.echo("Error: there is no audit of a study of this key: see `echobeam audit`", err=True)
        sys.exit(ExitCode.NOT_FOUND)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif study_key is None:
        _print_studies(rows)
    else:
        _print_instances(rows)
    if any(row["outcome"] == "quarantined" for row in rows):
        sys.exit(ExitCode.FAILED)


def _print_studies(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("study", "revision", "instances", "outcome", "reason", "to review")
    for row in rows:
        table.add_row(
            row["study_key"],
            str(row["revision"]),
            str(row["instances"]),
            row["outcome"],
            row["reason"] or "",
            str(row["needs_review"]),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _print_instances(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for row in rows:
        verdict = row["outcome"] if row["reason"] is None else f"{row['outcome']}: {row['reason']}"
        console.print(
            f"instance {row['instance_key']}  {verdict}\n"
            f"  {row['profile']}, echobeam {row['code_version']}, key {row['key_id']}\n"
            f"  {row['number_of_frames']} frames cleaned, OCR {row['ocr']}"
        )
        for finding in row["findings"]:
            console.print(f"  found: {finding['kind']} in {finding['place']} ({finding['count']})")
        table = Table("output", "element", "rule", "action", "elements")
        for action in row["actions"]:
            table.add_row(
                action["output"],
                action["element"],
                action["rule"] or "allow-list",
                action["action"],
                str(action["elements"]),
            )
        if row["actions"]:
            console.print(table)
