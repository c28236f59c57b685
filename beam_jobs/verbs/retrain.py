"""`echobeam retrain`: the nightly job.

Exit codes: 0 a model was judged, promoted or kept out; 1 nothing was judged; 2 configuration
refused; 4 another run holds the lock.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dicom_listener.exit_codes import exit_codes

if TYPE_CHECKING:
    from beam_jobs.pool_dataset import PoolManifest
    from beam_jobs.retrain import Night
    from echo_models.manifest import Interval

_LOOK_EVERY_S: Final = 0.5


@click.command(epilog="\b\nExample:\n  echobeam retrain --root ./echobeam-data --task lvh --epochs 6 --json")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration, ledger, spool, results and models.",
)
@click.option("--task", type=click.Choice(["lvh", "view"]), help="What the model is for.  [default: lvh]")
@click.option(
    "--seed", type=click.IntRange(0), help="Seed of labeled frames, weights and order.  [default: 0]"
)
@click.option(
    "--epochs", type=click.IntRange(0), help="Passes over the pool.  [default: as training_steps need]"
)
@click.option(
    "--min-view-confidence",
    type=click.FloatRange(0, 1),
    help="Least probability of apical four chamber for the pool.  [default: 0.6]",
)
@click.option(
    "--time-budget-s",
    type=click.FloatRange(0, min_open=True),
    help="Stop training after so long.  [default: 3600]",
)
@click.option("--pushgateway-url", help="Pushgateway that takes the metrics.  [default: none]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress; log warnings and errors only.")
def retrain(root: Path, *, as_json: bool, quiet: bool, **overrides: Any) -> None:
    """Build the pool, retrain the GAN on it, and promote it only if it is better.

    Labels are the phantom's, the pool is of the archive's own frames: apical four-chamber ones that the
    worker stored to tell hypertrophy (lvh), frames of the archive of de-identified DICOM to name views
    (view). The new model and the one in production are judged on the same fixed set of labeled phantom
    frames; a worse one stays out, and the reason is in its history. The next batch of the worker uses a
    promoted one.

    It may be killed at any moment; started again within a day, it goes on where it was.

    The default is a toy budget: about 90 seconds on two cores for an archive of a few studies. For a
    real one set training_steps and labeled_subjects in [retrain].

    Exit codes: 0 a model was judged; 1 nothing was (too few frames, or the job failed); 2 the
    configuration is refused; 4 another run is at it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up chatter
    from beam_jobs.quiet_beam import quiet_beam
    from beam_jobs.retrain_settings import SECTION, RetrainSettings
    from dicom_listener.log import configure_logging
    from dicom_listener.settings import load_section

    configure_logging(quiet=quiet)
    quiet_beam()
    with exit_codes():
        settings = load_section(RetrainSettings, SECTION, root, **overrides)

        from beam_jobs import retrain as job
        from beam_jobs.errors import BeamJobsError, SetupError
        from beam_jobs.nightly.errors import EmptyPoolError, RetrainBusyError, RetrainError
        from echo_models.errors import ModelsError

        try:
            with _progress(job.workplace_of(settings), shown=not quiet and sys.stderr.isatty()):
                night = job.retrain(settings)
        except EmptyPoolError as error:
            _print(_no_pool_document(error), as_json=as_json, text=_pool_text(error.manifest))
            raise
        except (RetrainBusyError, SetupError):
            raise
        except (BeamJobsError, ModelsError, OSError) as error:
            raise RetrainError(f"{error}; production stays as it is") from error
    _print(_night_document(night), as_json=as_json, text=_night_text(night))


def _print(document: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    click.echo(json.dumps(document, indent=2) if as_json else text)


def _no_pool_document(error: Any) -> dict[str, Any]:
    from beam_jobs.pool_dataset import manifest_counts
    from beam_jobs.retrain import Outcome

    return {"decision": Outcome.NO_POOL, "reason": str(error), "pool": manifest_counts(error.manifest)}


def _night_document(night: "Night") -> dict[str, Any]:
    from beam_jobs.pool_dataset import manifest_counts

    verdict = night.verdict

    def measures(intervals: Mapping[str, "Interval"]) -> dict[str, Any]:
        return {name: interval.model_dump(exclude_none=True) for name, interval in intervals.items()}

    return {
        "decision": night.outcome,
        "reason": verdict.decision.reason,
        "checks": {check.name: check.passed for check in verdict.decision.checks},
        "numbers": verdict.decision.numbers,
        "task": night.task,
        "version": night.version,
        "production_before": night.production,
        "candidate": measures(verdict.candidate),
        "production": measures(verdict.production),
        "test_fingerprint": night.test_fingerprint,
        "pool": manifest_counts(night.pool),
        "epochs": night.epochs,
        "pruned": list(night.pruned),
        "duration_s": round(night.duration_s, 1),
    }


def _night_text(night: "Night") -> str:
    decision, verdict = night.outcome.value.replace("_", " "), night.verdict
    lines = [
        _pool_text(night.pool),
        "",
        f"{night.task} {night.version}: {decision}",
        f"  {verdict.decision.reason}",
        f"  on the fixed set {night.test_fingerprint[:12]} of synthetic frames; 95 % intervals over subjects",
    ]
    for name, measured in verdict.candidate.items():
        before = f"   production {verdict.production[name]}" if name in verdict.production else ""
        lines.append(f"  {name.replace('_', ' '):18} new {measured}{before}")
    lines.append(f"  {night.epochs} epochs, {night.duration_s:.0f} s in all")
    return "\n".join(lines)


def _pool_text(manifest: "PoolManifest") -> str:
    dropped = ", ".join(
        f"{count} {rule.replace('_', ' ')}" for rule, count in manifest.dropped.items() if count
    )
    return (
        f"pool {manifest.name}: {manifest.frames} of {manifest.candidates} stored frames, "
        f"of {manifest.studies} studies and {manifest.subjects} subjects\n"
        f"  dropped: {dropped or 'none'}"
    )


@contextmanager
def _progress(workplace: Path, *, shown: bool) -> Iterator[None]:
    """Show a bar on stderr while the model is trained, here or elsewhere."""
    if not shown:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress

    from beam_jobs.nightly.progress import read_progress

    ended = threading.Event()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pool", total=None)

        def look() -> None:
            while not ended.wait(_LOOK_EVERY_S):
                at = read_progress(workplace)
                if at:
                    text = f"training, epoch {at['epoch']} of {at['epochs']}, loss {at['loss']:.2f}"
                    bar.update(task, total=float(at["steps"]), completed=float(at["done"]), description=text)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
