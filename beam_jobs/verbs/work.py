"""`echobeam work`: complete studies into Parquet.

Exit codes: 0 fine, 1 a study failed at every attempt, 2 usage or configuration refused, 4 busy.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

_FAILED: Final = 1
_REFUSED: Final = 2
_BUSY: Final = 4


@click.command(
    epilog="\b\nExample:\n  echobeam work --root ./echobeam-data --once\n\n\b\n"
    "What follows `--` goes to Beam as it is:\n"
    "  echobeam work --root ./echobeam-data -- --direct_num_workers=1"
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
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of /metrics, /healthz and /readyz, 0 for a free one.  [default: 9109]",
)
@click.option(
    "--studies-per-batch", type=click.IntRange(1), help="Most studies in one pipeline.  [default: 8]"
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Most frames in one call of a network.  [default: 64]"
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
def work(
    *,
    beam_options: tuple[str, ...],
    root: Path,
    once: bool,
    http_port: int | None,
    studies_per_batch: int | None,
    batch_size: int | None,
    quiet: bool,
) -> None:
    """Process complete studies into Parquet until SIGTERM or Ctrl-C.

    The batch under way is finished first; a second signal stops at once, and its studies come back
    when their leases end.
    """
    from beam_jobs.quiet_beam import quiet_beam
    from dicom_listener.completion import CompletionRule
    from dicom_listener.ledger import StudyState
    from dicom_listener.lifeline import stop_with_supervisor
    from dicom_listener.log import configure_logging
    from dicom_listener.settings import ListenerSettings, load_section

    configure_logging(quiet=quiet)
    quiet_beam()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up chatter
    with _exit_codes():
        from beam_jobs.settings import DEID_SECTION, SECTION, DeidSettings, WorkerSettings

        listener = load_section(ListenerSettings, "listener", root)
        settings = load_section(
            WorkerSettings,
            SECTION,
            root,
            http_port=http_port,
            studies_per_batch=studies_per_batch,
            batch_size=batch_size,
            beam_options=list(beam_options) or None,
        )
        if settings.threads:  # read by TensorFlow when it is imported
            os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(
                settings.threads
            )
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
            worker.run(once=once)
            failed = worker.ledger.counts_by_state()[StudyState.FAILED] - failed_before
    if once and failed > 0:
        sys.exit(_FAILED)


@contextmanager
def _exit_codes() -> Iterator[None]:
    from beam_jobs.deid.errors import KeyFileError
    from beam_jobs.errors import BeamJobsError
    from dicom_listener.errors import ListenerError, PortInUseError, StartRefusedError

    try:
        yield
    except (BeamJobsError, KeyFileError, ListenerError) as error:
        click.echo(f"Error: {error}", err=True)
        match error:
            case PortInUseError():
                code = _BUSY
            case StartRefusedError() | BeamJobsError() | KeyFileError():
                code = _REFUSED
            case _:
                code = _FAILED
        sys.exit(code)
