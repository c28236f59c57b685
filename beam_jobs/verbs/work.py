"""`echobeam work`: complete studies into Parquet.

Exit codes: 0 fine, 1 a study failed at every attempt, 2 usage or configuration refused, 3 a study that
was named is not in the ledger, 4 busy.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_listener.exit_codes import ExitCode, exit_codes

if TYPE_CHECKING:
    from beam_jobs.worker import Worker


@click.command(
    epilog="\b\nExample:\n  echobeam work --root ./echobeam-data --once\n\n\b\n"
    "What follows `--` goes to Beam as it is:\n"
    "  echobeam work --root ./echobeam-data -- --direct_num_workers=1\n\n\b\n"
    "On an engine, its job server and worker pools named:\n"
    "  echobeam work --runner FlinkRunner -- --flink_master=flink:8081 \\\n"
    "    --environment_type=EXTERNAL --environment_config=localhost:50000"
)
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration, ledger, spool, results and models.",
)
@click.option("--once", is_flag=True, help="Stop when no study is left to process.")
@click.option(
    "--runner", help="Beam runner of the engine to work on, such as FlinkRunner.  [default: in this process]"
)
@click.option(
    "--studies",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Process the studies whose Study Instance UIDs this file lists, one a line, and stop; - is stdin.",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of /metrics, /healthz and /readyz, 0 for a free one.  [default: 9109]",
)
@click.option(
    "--studies-per-batch", type=click.IntRange(1), help="Most studies in one pipeline.  [default: 8]"
)
@click.option(
    "--studies-in-flight",
    type=click.IntRange(1),
    help="Most studies that an engine holds at once; then claims wait.  [default: 32]",
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Most frames in one call of a network.  [default: tried out]"
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
def work(
    *,
    beam_options: tuple[str, ...],
    root: Path,
    once: bool,
    runner: str | None,
    studies: str | None,
    http_port: int | None,
    studies_per_batch: int | None,
    studies_in_flight: int | None,
    batch_size: int | None,
    quiet: bool,
) -> None:
    """Process complete studies into Parquet until SIGTERM or Ctrl-C.

    Batches under way are finished first; a second signal stops at once, and its studies come back
    when their leases end. On an engine (--runner) one pipeline claims without end: what it holds when it is
    told to stop goes back to the queue. With --studies only those that are complete are processed.
    """
    from beam_jobs.quiet_beam import quiet_beam
    from dicom_listener.ledger import StudyState
    from dicom_listener.ledger.completion import CompletionRule
    from dicom_listener.log import configure_logging
    from dicom_listener.operations.lifeline import stop_with_supervisor
    from dicom_listener.settings import ListenerSettings, load_section

    configure_logging(quiet=quiet)
    quiet_beam()
    listed = None if studies is None else _read_list(studies)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up chatter
    with exit_codes():
        from beam_jobs.settings import DEID_SECTION, SECTION, DeidSettings, WorkerSettings

        listener = load_section(ListenerSettings, "listener", root)
        settings = load_section(
            WorkerSettings,
            SECTION,
            root,
            runner=runner,
            http_port=http_port,
            studies_per_batch=studies_per_batch,
            studies_in_flight=studies_in_flight,
            batch_size=batch_size,
            beam_options=list(beam_options) or None,
        )
        from beam_jobs.tuning import tuned, use_threads

        settings = tuned(settings)
        use_threads(settings.threads)
        from beam_jobs.worker import Worker

        worker = Worker(
            settings,
            CompletionRule(listener.quiet_period_s, listener.max_age_s),
            deid=load_section(DeidSettings, DEID_SECTION, root),
        )

        def on_signal(number: int, _frame: object) -> None:
            worker.stop()
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        stop_with_supervisor()
        with worker:
            failed_before = worker.ledger.counts_by_state()[StudyState.FAILED]
            if listed is None:
                worker.run(once=once)
            else:
                _run_listed(worker, listed)
            failed = worker.ledger.counts_by_state()[StudyState.FAILED] - failed_before
    if (once or listed is not None) and failed > 0:
        sys.exit(ExitCode.FAILED)


def _read_list(path: str) -> list[str]:
    """Read Study Instance UIDs, one a line; each counts once."""
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return list(dict.fromkeys(filter(None, map(str.strip, file))))
    except (OSError, UnicodeDecodeError) as error:
        click.echo(
            f"Error: the list of studies cannot be read ({type(error).__name__}): expected a text file with "
            f"one Study Instance UID on each line, received {path}",
            err=True,
        )
        sys.exit(ExitCode.REFUSED)


def _run_listed(worker: "Worker", listed: list[str]) -> None:
    """Process the studies of a list, and say on stdout what became of them."""
    states = worker.ledger.states_of(listed)
    unknown = len(listed) - len(states)
    if unknown:
        click.echo(
            f"Error: {unknown} of the {len(listed)} listed studies are not in the ledger: "
            "expected one Study Instance UID of `echobeam studies list` on each line; nothing was processed",
            err=True,
        )
        sys.exit(ExitCode.NOT_FOUND)
    worker.run_studies(listed)
    counts = Counter(worker.ledger.states_of(listed).values())
    click.echo(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no studies")
