"""`echobeam studies verify` and `prune`: is everything there, and what may go."""

# ruff: noqa: PLC0415 - what is heavy is imported when a verb runs, so that help is instant
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dicom_listener.exit_codes import ExitCode, exit_codes
from dicom_listener.verbs import as_time, json_option, opened_ledger, print_json, print_table, root_option

if TYPE_CHECKING:
    from dicom_listener.spool.retention import PruneReport
    from dicom_listener.spool.verify import VerifyReport

_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class _Age(click.ParamType[float]):
    """A time span such as `30d`, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number and one of the units s, m, h, d, w."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age: expected a number and s, m, h, d or w, such as 30d", param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


@click.command("verify", epilog="\b\nExample:\n  echobeam studies verify --all")
@root_option
@click.option("--study", metavar="UID", help="Only the files of this study.")
@click.option("--all", "everything", is_flag=True, help="Every file of the spool; reads all of it.")
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@json_option
def verify_studies(root: Path, study: str | None, everything: bool, quiet: bool, as_json: bool) -> None:
    """Read files again and compare their digests with what was received.

    Ends with exit code 1 if a file is missing or damaged, which is written into the ledger too. The listener
    may run meanwhile. What the rules of retention deleted is not missed.
    """
    if (study is None) != everything:
        raise click.UsageError("Give either --study UID or --all.")
    with exit_codes(), opened_ledger(root) as (settings, ledger):
        from dicom_listener.spool.files import count_quarantined
        from dicom_listener.spool.verify import contents_of_spool, verify

        contents = contents_of_spool(ledger) if study is None else ledger.list_contents(study)
        size_bytes = (
            ledger.spool_bytes() if study is None else sum(content.size_bytes for content in contents)
        )
        with _progress(size_bytes, is_shown=not quiet and sys.stderr.isatty()) as told:
            report = verify(settings.spool, ledger, contents, now=time.time, told=told)
        quarantined = count_quarantined(settings.spool)
    if as_json:
        print_json(_verify_document(report, quarantined))
    else:
        _show_findings(report, quarantined)
    if report.findings:
        raise SystemExit(ExitCode.FAILED)


@click.command(
    "prune",
    epilog="\b\nExamples:\n  echobeam studies prune --older-than 30d --dry-run\n"
    "  echobeam studies prune --down-to-bytes 500000000000",
)
@root_option
@click.option("--older-than", type=_Age(), metavar="AGE", help="Studies done so long ago, such as 30d.")
@click.option(
    "--down-to-bytes", type=click.IntRange(0), help="As many, the oldest first, as make the spool this small."
)
@click.option("--dry-run", is_flag=True, help="Delete nothing, and say what would be.")
@json_option
def prune_spool(
    root: Path, older_than: float | None, down_to_bytes: int | None, dry_run: bool, as_json: bool
) -> None:
    """Delete files of studies that are done from the spool; their results and their rows stay.

    Never a file that a storage commitment promises to keep (`commitment_keep_days`), nor, where
    `retention_requires_commitment` is set, one without. The listener may run meanwhile.
    """
    if older_than is None and down_to_bytes is None:
        raise click.UsageError("Give --older-than, --down-to-bytes, or both.")
    with exit_codes(), opened_ledger(root) as (settings, ledger):
        from dicom_listener.spool.retention import RetentionRule, prune

        rule = replace(RetentionRule.of(settings), older_than_s=older_than, down_to_bytes=down_to_bytes)
        report = prune(settings.spool, ledger, rule, now=time.time(), dry_run=dry_run)
    if as_json:
        print_json(_prune_document(report, dry_run))
    else:
        _show_pruned(report, down_to_bytes, dry_run=dry_run)


@contextmanager
def _progress(size_bytes: int, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar over bytes for the block; give what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        "verifying",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not is_shown,
    )
    with bar:
        task = bar.add_task("verifying", total=size_bytes)
        yield lambda step: bar.advance(task, step)


def _verify_document(report: "VerifyReport", quarantined: int) -> dict[str, Any]:
    return {
        "files": report.files,
        "size_bytes": report.size_bytes,
        "restored": report.restored,
        "quarantined": quarantined,
        "findings": [
            {
                "study_instance_uid": finding.content.study_instance_uid,
                "sop_instance_uid": finding.content.sop_instance_uid,
                "is_at_work": finding.content.is_at_work,
                "path": finding.content.path,
                "state": finding.state.value,
            }
            for finding in report.findings
        ],
    }


def _show_findings(report: "VerifyReport", quarantined: int) -> None:
    if report.findings:
        from rich.table import Column, Table

        table = Table(
            Column("study", overflow="fold"), Column("instance", overflow="fold"), "at work", "file"
        )
        for finding in report.findings:
            content = finding.content
            table.add_row(
                content.study_instance_uid,
                content.sop_instance_uid,
                "yes" if content.is_at_work else "no",
                finding.state.value,
            )
        print_table(table)
    click.echo(
        f"{report.files} files, {report.size_bytes / 1e6:.1f} MB: {len(report.findings)} missing or damaged"
    )
    if report.restored:
        click.echo(f"{report.restored} that had been are right again")
    if quarantined:
        click.echo(f"{quarantined} files that belong to nothing are in the spool's quarantine")


def _prune_document(report: "PruneReport", dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "files": report.files,
        "size_bytes": report.size_bytes,
        "kept_for_commitment": report.kept_for_commitment,
        "spool_bytes": report.spool_bytes,
        "studies": [
            {
                "study_instance_uid": study.study_instance_uid,
                "done_at": study.done_at,
                "files": study.files,
                "size_bytes": study.size_bytes,
            }
            for study in report.studies
        ],
    }


def _show_pruned(report: "PruneReport", down_to_bytes: int | None, *, dry_run: bool) -> None:
    if report.studies:
        from rich.table import Column, Table

        table = Table(Column("study", overflow="fold"), "done", "files", "MB")
        for study in report.studies:
            table.add_row(
                study.study_instance_uid,
                as_time(study.done_at),
                str(study.files),
                f"{study.size_bytes / 1e6:.1f}",
            )
        print_table(table)
    would = "would be deleted" if dry_run else "deleted"
    click.echo(
        f"{report.files} files of {len(report.studies)} studies, {report.size_bytes / 1e6:.1f} MB, {would}; "
        f"the spool then has {report.spool_bytes / 1e6:.1f} MB"
    )
    if report.kept_for_commitment:
        click.echo(f"{report.kept_for_commitment} more files are kept because of storage commitment")
    if down_to_bytes is not None and report.spool_bytes > down_to_bytes:
        click.echo("Nothing more may go: the other studies are not done, or their files are kept")
