"""`echobeam backfill`: fetch studies that an archive has already."""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dicom_listener.exit_codes import ExitCode, exit_codes
from dicom_listener.verbs import PIPE_COLUMNS, json_option, print_json, root_option

if TYPE_CHECKING:
    from rich.progress import Progress

    from dicom_listener.backfill.job import Outcome, Summary
    from dicom_listener.backfill.plan import Question
    from dicom_listener.settings import ListenerSettings

_DAY: Final = click.DateTime(["%Y-%m-%d"])
_FAILURES_SHOWN: Final = 20


def _keys(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    from pydicom.datadict import tag_for_keyword

    pairs = [value.partition("=") for value in values]
    for keyword, separator, _ in pairs:
        if not separator or tag_for_keyword(keyword) is None:
            raise click.BadParameter(f"expected KEYWORD=VALUE with a DICOM keyword, received {keyword!r}")
    return {keyword: value for keyword, _, value in pairs}


def _between(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    from dicom_listener.backfill.pace import Window

    if value is None:
        return None
    try:
        return Window.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    epilog="\b\nExamples:\n"
    "  echobeam backfill --from 2020-01-01 --to 2020-12-31 --modality US --between 22:00-06:00\n"
    "  echobeam backfill --list accession-numbers.csv --peer archive --studies-per-minute 10"
)
@root_option
@click.option("--peer", "peer_name", help="Name of the peer to fetch from.  [default: the only one]")
@click.option("--from", "first", type=_DAY, help="First study date.")
@click.option("--to", "last", type=_DAY, help="Last study date.  [default: today]")
@click.option(
    "--list",
    "list_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV with a column study_instance_uid or accession_number, instead of dates.",
)
@click.option("--modality", help="Only studies with this modality, such as US.")
@click.option("--description", help="Only studies whose description matches; * and ? are wildcards.")
@click.option("--patient-id", help="Only studies of this patient ID.")
@click.option(
    "--where",
    "keys",
    multiple=True,
    callback=_keys,
    metavar="KEYWORD=VALUE",
    help="Only studies that match another attribute of the study level.",
)
@click.option(
    "--method",
    type=click.Choice(["get", "move"]),
    default="get",
    show_default=True,
    help="C-GET, or C-MOVE to the running listener.",
)
@click.option("--job", help="Name of the job; a job goes on where it ended.  [default: made of the question]")
@click.option("--between", callback=_between, metavar="HH:MM-HH:MM", help="Fetch only at these hours.")
@click.option(
    "--studies-per-minute", type=click.FloatRange(0, min_open=True), help="The most studies a minute."
)
@click.option("--mb-per-minute", type=click.FloatRange(0, min_open=True), help="The most megabytes a minute.")
@click.option("--dry-run", is_flag=True, help="Find and count, fetch nothing.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def backfill(
    *,
    root: Path,
    peer_name: str | None,
    first: datetime | None,
    last: datetime | None,
    list_path: Path | None,
    modality: str | None,
    description: str | None,
    patient_id: str | None,
    keys: dict[str, str],
    method: str,
    job: str | None,
    between: Any,
    studies_per_minute: float | None,
    mb_per_minute: float | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch studies from an archive: those of a range of days, of a query, or of a list.

    Studies that are here already, with as many instances as the archive has, are passed over. The
    command can be ended at any time; the same command goes on where it ended. Exit code 1 if something
    failed.
    """
    from dicom_listener.backfill.pace import Pace
    from dicom_listener.log import configure_logging
    from dicom_listener.settings import ListenerSettings, load_section

    configure_logging(quiet=True)
    asked = {"ModalitiesInStudy": modality, "StudyDescription": description, "PatientID": patient_id}
    matching = {keyword: value for keyword, value in asked.items() if value} | keys
    with exit_codes():
        settings = load_section(ListenerSettings, "listener", root)
        questions, asks = _questions(first, last, list_path, matching)
        summary = _run(
            settings,
            peer_name,
            questions,
            asks,
            method=method,
            job=job,
            pace=Pace(studies_per_minute, mb_per_minute),
            window=between,
            dry_run=dry_run,
            quiet=quiet,
        )
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        _print(summary, dry_run=dry_run)
    if summary.has_failed:
        raise SystemExit(ExitCode.FAILED)


def _questions(
    first: datetime | None, last: datetime | None, list_path: Path | None, keys: dict[str, str]
) -> tuple[list["Question"], str]:
    """Say what is asked, and the digest by which the same command is known again on another day."""
    from dicom_listener.backfill.plan import digest, question_by_keys, questions_by_day, questions_by_list
    from dicom_listener.peers.find import StudyQuery

    if list_path is not None:
        if first or last or keys:
            raise click.UsageError("--list says which studies; leave dates and filters out")
        questions = questions_by_list(list_path)
        return questions, digest(question.query for question in questions)
    if first is not None:
        days = list(questions_by_day(first.date(), last.date() if last else _today(), keys))
        return days, digest([StudyQuery(first.date(), last.date() if last else None, keys)])
    if last is not None:
        raise click.UsageError("--to needs --from")
    if not keys:
        raise click.UsageError("say which studies: --from and --to, --list, or a filter such as --patient-id")
    question = question_by_keys(keys)
    return [question], digest([question.query])


def _today() -> date:
    return datetime.now().astimezone().date()


def _run(
    settings: "ListenerSettings",
    peer_name: str | None,
    questions: list["Question"],
    asks: str,
    *,
    method: str,
    job: str | None,
    pace: Any,
    window: Any,
    dry_run: bool,
    quiet: bool,
) -> "Summary":
    from dicom_listener.backfill.fetch import Fetcher, GetFetcher, MoveFetcher
    from dicom_listener.backfill.job import Job
    from dicom_listener.backfill.journal import Journal
    from dicom_listener.backfill.receiving import receiving_beside
    from dicom_listener.peers.configured import peer_named
    from dicom_listener.peers.outgoing import Caller

    peer = peer_named(settings.peers, peer_name)
    caller = Caller.of(settings)
    with ExitStack() as stack:
        reception = stack.enter_context(receiving_beside(settings))
        name = job or f"{peer.name}-{asks[:12]}"
        journal: Journal | frozenset[str]
        fetcher: Fetcher | None
        if dry_run:
            journal, fetcher = Journal.done(settings.root, name), None
        else:
            journal = stack.enter_context(Journal.opened(settings.root, name, asks_sha256=asks))
            fetcher = GetFetcher(caller, peer, reception) if method == "get" else MoveFetcher(caller, peer)
        watcher = stack.enter_context(_progress(quiet=quiet))
        return Job(
            peer=peer,
            caller=caller,
            ledger=reception.ledger,
            journal=journal,
            watcher=watcher,
            fetcher=fetcher,
            pace=pace,
            window=window,
        ).run(questions)


class _Bar:
    """Shows how far it is; on something that is no terminal it shows nothing."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._task = progress.add_task("asking", total=None, note="")
        self._size_bytes = 0

    def asking(self, questions: int) -> None:
        self._progress.update(self._task, total=questions)

    def asked(self, found: int) -> None:
        self._progress.update(self._task, advance=1, note=f"{found} studies found")

    def fetching(self, studies: int) -> None:
        self._progress.reset(self._task, total=studies, description="fetching", note="")

    def looked_at(self, outcome: "Outcome", size_bytes: int) -> None:
        self._size_bytes += size_bytes
        self._progress.update(
            self._task, advance=1, description="fetching", note=f"{self._size_bytes / 1e6:.1f} MB"
        )

    def waiting(self, seconds: float, why: str) -> None:
        self._progress.update(self._task, description=f"waiting {why}")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    is_hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=is_hidden, transient=True) as progress:
        yield _Bar(progress)


def _print(summary: "Summary", *, dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    shown = ("found", "already_there", "done_before", *(("to_fetch",) if dry_run else ("fetched", "failed")))
    for name in shown:
        table.add_row(name.replace("_", " "), str(getattr(summary, name)))
    if not dry_run:
        table.add_row("instances", str(summary.instances))
        table.add_row("MB", f"{summary.size_bytes / 1e6:.1f}")
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
    for failure in summary.failures[:_FAILURES_SHOWN]:
        click.echo(f"failed: {failure.what}: {failure.reason}", err=True)
    if len(summary.failures) > _FAILURES_SHOWN:
        click.echo(f"and {len(summary.failures) - _FAILURES_SHOWN} more; --json lists all", err=True)
    if summary.stopped_because is not None:
        click.echo(f"stopped: {summary.stopped_because}", err=True)
