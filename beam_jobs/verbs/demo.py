"""`echobeam demo`: real clips through everything, and what came out."""

import json
import signal
import sys
from pathlib import Path
from typing import Final

import click

from dicom_listener.exit_codes import ExitCode, exit_codes

TERMINATED: Final = 128 + signal.SIGTERM
"""What a shell says of a program that SIGTERM ended."""

WIDTH: Final = 100
"""Columns of the table where no terminal says how many there are."""


@click.command(epilog="\b\nExample:\n  echobeam demo --root ./echobeam-demo")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder of configuration, ledger, spool, results and models.",
)
@click.option(
    "--client",
    type=click.Choice(["auto", "dcmtk", "pynetdicom"]),
    default="auto",
    show_default=True,
    help="Which storescu sends; auto takes DCMTK's where it is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and no progress.")
def demo(root: Path, client: str, *, as_json: bool) -> None:
    """Send real clips through everything and show the result.

    Starts the listener and the worker on free ports, sends public ultrasound files and a synthetic
    study, waits until they are processed, stops, and prints what the tables say. A second run on the
    same root changes nothing. Exit code 0 if every study was processed, 1 if one was not.
    """
    from rich.console import Console  # noqa: PLC0415

    from beam_jobs.dcmtk import find_dcmtk_storescu  # noqa: PLC0415
    from beam_jobs.demo import run_demo  # noqa: PLC0415
    from beam_jobs.demo_report import Bars, report_as_json, show_report  # noqa: PLC0415
    from dicom_listener.log import configure_logging  # noqa: PLC0415

    configure_logging(quiet=True)
    signal.signal(
        signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED)
    )  # so that the services end too
    storescu = None if client == "pynetdicom" else find_dcmtk_storescu()
    if client == "dcmtk" and storescu is None:
        raise click.UsageError("DCMTK's storescu is not on PATH: install dcmtk, or use --client pynetdicom")
    console = Console(stderr=True, quiet=as_json)
    with exit_codes(), Bars(console) as bars:
        report = run_demo(root, storescu, bars)
    if as_json:
        click.echo(json.dumps(report_as_json(report), indent=2))
    else:
        show_report(report, Console(width=None if sys.stdout.isatty() else WIDTH))
    for study in report.failed:
        click.echo(f"Error: study {study.study_key} failed: {study.error}", err=True)
    sys.exit(ExitCode.FAILED if report.failed else 0)
