"""How the demo talks: progress while one waits, and the report for people and as JSON."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from beam_jobs.demo import Report
from beam_jobs.result_files import Results


class Bars:
    """A progress bar for each step on a terminal, a line for each elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<48}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, title: str, total: int) -> None:
        """Begin a bar, or print a line."""
        if not self._console.is_terminal:
            self._console.print(f"{title} …", highlight=False)
        self._task = self._progress.add_task(title, total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)


def show_report(report: Report, console: Console) -> None:
    """Print the report for people."""
    console.print(_table(report))
    right, drawn = report.phantom_views
    rejected = Counter(row["reason"] for row in report.rejections)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "none"
    for line in (
        f"Synthetic study: {right} of {drawn} clips named as drawn; real ones have no truth to compare with",
        f"Rejected: {reasons}",
        *(f"Not sent: {skipped.name} ({skipped.why})" for skipped in report.skipped),
        f"Sent {report.sent} instances with {report.client}; already there: {report.already_there}",
        f"Results: {_from_here(report.results)}/{{frames,clips,studies,rejections}}/**/*.parquet",
        f"Contact sheet: {_from_here(report.contact_sheet)}",
        f"Took {report.seconds:.0f} s",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _table(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("study", "what was sent", "predicted view"):
        table.add_column(name, overflow="fold")
    for name in ("clips", "frames", "confidence", "LVH"):
        table.add_column(name, justify="right")
    by_study = defaultdict(list)
    for row in report.views:
        by_study[row["study_key"]].append(row)
    for study in report.studies:
        what = _what(study.files)
        for place, row in enumerate(by_study[study.study_key]):
            table.add_row(
                study.study_key[:8] if place == 0 else "",
                what if place == 0 else "",
                row["view"],
                str(row["clips"]),
                str(row["frames"]),
                f"{row['confidence']:.2f}",
                "" if row["lvh_probability"] is None else f"{row['lvh_probability']:.2f}",
            )
        if not by_study[study.study_key]:
            table.add_row(study.study_key[:8], what, f"({study.state}, no clip)", "0", "0", "", "")
    return table


def _what(files: tuple[str, ...]) -> str:
    """Name what was sent of a study, shortly."""
    names = [name.partition(" (")[0] for name in files]
    if all(name.startswith("synthetic ") for name in names):
        return "synthetic study of every view"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def report_as_json(report: Report) -> dict[str, Any]:
    """Give the report as what `--json` prints."""
    return {
        "client": report.client,
        "sent": report.sent,
        "already_there": report.already_there,
        "skipped": [{"name": skipped.name, "why": skipped.why} for skipped in report.skipped],
        "studies": [
            {
                "study_key": study.study_key,
                "state": str(study.state),
                "revision": study.revision,
                "files": list(study.files),
                "error": study.error,
            }
            for study in report.studies
        ],
        "views": list(report.views),
        "rejections": list(report.rejections),
        "phantom_views": {"right": report.phantom_views[0], "drawn": report.phantom_views[1]},
        "results": str(report.results),
        "contact_sheet": str(report.contact_sheet),
        "seconds": round(report.seconds, 1),
    }


def _from_here(place: Results) -> Results:
    """Shorten a path below the working folder."""
    if isinstance(place, Path) and place.is_relative_to(Path.cwd()):
        return place.relative_to(Path.cwd())
    return place
