"""`echobeam compact`: few large files in place of one for each study.

Exit codes: 0 fine, 1 a partition could not be packed, 2 usage or configuration refused, 4 busy.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import json
import signal
import threading
from pathlib import Path

import click

from dicom_listener.exit_codes import exit_codes


@click.command(
    epilog="\b\nExamples:\n"
    "  echobeam compact --root ./echobeam-data\n"
    "  echobeam compact --root ./echobeam-data --loose 1 --json"
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration and results.",
)
@click.option(
    "--loose",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Fewest files of single studies for which a partition is packed.",
)
@click.option(
    "--rows-per-file",
    type=click.IntRange(1000),
    default=500_000,
    show_default=True,
    help="Most rows of a packed file, about half a kilobyte of memory each while it is packed.",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done, as JSON.")
def compact(*, root: Path, loose: int, rows_per_file: int, quiet: bool, as_json: bool) -> None:
    """Pack the tables: few large files in place of one for each study.

    Listener, worker and queries go on meanwhile. It may be stopped or killed at any moment; the nightly job
    is kept from starting until it ends.
    """
    from beam_jobs.compaction import CompactionRules, ExchangeError
    from beam_jobs.compaction import compact as compact_results
    from beam_jobs.erase import no_night
    from beam_jobs.settings import SECTION, WorkerSettings
    from dicom_listener.log import configure_logging
    from dicom_listener.object_store import StoreUrl
    from dicom_listener.settings import load_section

    configure_logging(quiet=quiet)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with exit_codes():
        settings = load_section(WorkerSettings, SECTION, root)
        if isinstance(settings.results, StoreUrl):
            raise ExchangeError(
                "packing needs a file system on which two folders can change places; received an object "
                "store. Results stay one file a study, which is as right"
            )
        if not settings.results.is_dir():
            _report({}, as_json=as_json)
            return
        with no_night(root / "run" / "retrain.lock"):
            counts: dict[str, dict[str, int]] = {}
            for packed in compact_results(
                settings.results,
                CompactionRules(loose=loose, rows_per_file=rows_per_file),
                stopping=stopping.is_set,
            ):
                of_table = counts.setdefault(
                    packed.table, {"partitions": 0, "files_before": 0, "files_after": 0, "rows": 0}
                )
                of_table["partitions"] += 1
                of_table["files_before"] += packed.files_before
                of_table["files_after"] += packed.files_after
                of_table["rows"] += packed.rows
        _report(counts, as_json=as_json)


def _report(counts: dict[str, dict[str, int]], *, as_json: bool) -> None:
    import structlog

    if as_json:
        click.echo(json.dumps(counts, indent=2))
    else:
        for table, count in counts.items():
            click.echo(
                f"{table}: {count['files_before']} files of {count['partitions']} partitions are now "
                f"{count['files_after']}"
            )
        if not counts:
            click.echo("Nothing to pack")
    structlog.get_logger(__name__).info(
        "compacted",
        partitions=sum(count["partitions"] for count in counts.values()),
        files_before=sum(count["files_before"] for count in counts.values()),
        files_after=sum(count["files_after"] for count in counts.values()),
    )
