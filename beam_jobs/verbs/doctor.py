"""`echobeam doctor`: is everything as it must be, and what to do where it is not."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from dicom_listener.exit_codes import ExitCode


@click.command(epilog="\b\nExample:\n  echobeam doctor --root ./echobeam-data")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder of configuration, ledger, spool, results and models.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
def doctor(root: Path, *, as_json: bool) -> None:
    """Check the set-up and say what to do. Changes nothing.

    Exit code 0 if echobeam will work as set up, with or without warnings; 1 if a check failed.
    """
    from beam_jobs.doctor import Finding, Outcome, examine  # noqa: PLC0415

    findings = examine(root)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        colours = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}

        def line(finding: Finding) -> str:
            outcome = click.style(f"{finding.outcome:<5}", fg=colours[finding.outcome])
            advice = f"\n      → {finding.advice}" if finding.advice else ""
            return f"{outcome} {finding.check}: {finding.found}{advice}"

        click.echo("\n".join(line(finding) for finding in findings))
    if any(finding.outcome is Outcome.FAIL for finding in findings):
        sys.exit(ExitCode.FAILED)
