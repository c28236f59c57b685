"""The verbs `train` and `models`."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from echo_models.errors import ModelsError, NotInRegistryError
from echo_models.manifest import TASKS, Manifest, read_manifest
from echo_models.registry import SHIPPED, Registry

if TYPE_CHECKING:
    from echo_models.recipes import Workshop

Result = TypeVar("Result")

FAILED = 1
NOT_FOUND = 3

_root = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    envvar="ECHOBEAM_ROOT",
    show_default=True,
    help="The folder with configuration, ledger, spool, results and models.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_task = click.argument("task", type=click.Choice(TASKS))


def _fail(error: ModelsError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(NOT_FOUND if isinstance(error, NotInRegistryError) else FAILED)


# --- train ------------------------------------------------------------------------------------------


@click.command(
    epilog="\b\nExamples:\n  echobeam train view --seed 1\n  echobeam train all --seed 1 --out ./bundles"
)
@click.argument("task", type=click.Choice(("fov", "view", "lv", "lvh", "gan", "all")))
@_root
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
)
@click.option(
    "--preset",
    type=click.Choice(("small", "paper")),
    default="small",
    show_default=True,
    help="Widths of the networks.",
)
@click.option("--subjects", type=click.IntRange(min=8), help="Phantom subjects.  [default: the preset's]")
@click.option("--epochs", type=click.IntRange(min=1), help="Of every stage.  [default: the schedule's]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write <out>/<task>/<version>/ instead of publishing into the registry.",
)
@click.option("--replace", is_flag=True, help="With --out: remove the task's other versions afterwards.")
@click.option("--resume/--no-resume", default=False, help="Go on where a killed run stopped.")
@click.option(
    "--processes", type=click.IntRange(min=1), default=2, show_default=True, help="That render frames."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@_json
def train(
    *,
    task: str,
    root: Path,
    seed: int,
    preset: str,
    subjects: int | None,
    epochs: int | None,
    out: Path | None,
    replace: bool,
    resume: bool,
    processes: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train one model, or all four of the pipeline, on the phantom from a seed.

    The bundle is published into the registry under --root, and not yet put to work: see `echobeam models
    promote`. Logs (CSV) and checkpoints are under <root>/training. TASK is fov, view, lv, lvh, gan (a
    semi-supervised lvh), or all (fov, view, lv, lvh).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from echo_models.recipes import Order  # noqa: PLC0415 - TensorFlow takes seconds to import

    work = root / "training"
    names: tuple[str, ...] = ("fov", "view", "lv", "lvh") if task == "all" else (task,)
    try:
        with _workshop(quiet=quiet) as workshop:
            if task == "lvh":
                workshop.views = _view_classifier(root, out, preset)
            for name in names:
                order = Order(name, seed, preset, subjects, epochs, processes, work, resume)
                folder = _made(workshop, order, root, out, replace=replace)
                _show_bundle(folder, as_json=as_json)
    except ModelsError as error:
        _fail(error)


@contextmanager
def _workshop(*, quiet: bool) -> "Iterator[Workshop]":
    """Give a workshop whose progress shows on stderr, where that is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - only this verb draws
    from rich.progress import Progress, TimeRemainingColumn  # noqa: PLC0415

    from echo_models.fitting import Step  # noqa: PLC0415
    from echo_models.recipes import Workshop  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1],
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as progress:
        bar = progress.add_task("")

        def on_step(step: Step) -> None:
            progress.update(
                bar,
                description=f"{step.stage}: epoch {step.epoch} of {step.epochs}, loss {step.loss:.3f}",
                completed=(step.epoch - 1) * step.steps + step.step,
                total=step.epochs * step.steps,
            )

        def on_render(done: int, total: int) -> None:
            progress.update(bar, description="phantom subjects", completed=done, total=total)

        yield Workshop(on_step, on_render)


def _view_classifier(root: Path, out: Path | None, preset: str) -> tuple[str, Any] | None:
    """Find the view classifier that "lvh" starts from: beside --out, at work, or the one that ships."""
    from echo_models.bundle import load_bundle  # noqa: PLC0415 - TensorFlow takes seconds to import

    registry = Registry(root / "models")
    folders = [] if out is None else sorted((out / "view").glob("*"))
    folders += [registry.resolve("view")] if registry.production("view") else []
    folders += sorted((SHIPPED / "view").glob("*"))
    for folder in folders:
        if read_manifest(folder).training.get("preset") == preset:
            bundle = load_bundle(folder)
            return bundle.name, bundle.model
    click.echo(f"No view model of preset {preset} to start from: convolutions are random.", err=True)
    return None


def _made(workshop: "Workshop", order: Any, root: Path, out: Path | None, *, replace: bool) -> Path:
    """Train, and put the bundle where it was asked for."""
    if out is None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = workshop.fill(order, Path(scratch))
            return Registry(root / "models").publish(folder, reason=f"trained with seed {order.seed}")
    folder = workshop.fill(order, out)
    if replace:
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)
    return folder


def _show_bundle(folder: Path, *, as_json: bool) -> None:
    manifest = read_manifest(folder)
    if as_json:
        metrics = {name: interval.model_dump() for name, interval in manifest.metrics.items()}
        click.echo(json.dumps({"name": manifest.name, "folder": str(folder), "metrics": metrics}))
        return
    click.echo(f"{manifest.name}  {folder}")
    for name, interval in manifest.metrics.items():
        click.echo(f"  {name:24} {interval}")


# --- models -----------------------------------------------------------------------------------------


@click.group(epilog="\b\nExample:\n  echobeam models list")
def models() -> None:
    """List, show, promote and roll back models.

    Exit codes: 0 fine, 1 refused (an altered bundle, nothing to go back to), 2 usage, 3 not found.
    """


@models.command("list", epilog="\b\nExample:\n  echobeam models list --json")
@_root
@_json
def list_models(root: Path, *, as_json: bool) -> None:
    """List every version of every task; a star marks what is in production."""
    registry = Registry(root / "models")
    rows = [
        {"task": task, "version": version, "production": version == registry.production(task)}
        for task in TASKS
        for version in registry.versions(task)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{'*' if row['production'] else ' '} {row['task']:5} {row['version']}")
    if not rows:
        click.echo(f"No models under {registry.root}; `echobeam work` installs those that ship.", err=True)


@models.command(epilog="\b\nExample:\n  echobeam models show view")
@_task
@click.argument("version", default="production")
@_root
@_json
def show(task: str, version: str, root: Path, *, as_json: bool) -> None:
    """Show a version's contract, metrics and history; the one in production unless VERSION is given."""
    registry = Registry(root / "models")

    def look() -> tuple[Path, Manifest]:
        folder = registry.resolve(task, version)
        return folder, read_manifest(folder)

    folder, manifest = _or_fail(look)
    events = [event for event in registry.history(task) if event.version == manifest.version]
    if as_json:
        history = [{"at": it.at, "action": it.action, "reason": it.reason} for it in events]
        click.echo(json.dumps(manifest.model_dump(mode="json") | {"folder": str(folder), "history": history}))
        return
    _show_bundle(folder, as_json=False)
    click.echo(f"  {'reads':24} {manifest.rows} x {manifest.columns}, mask: {manifest.mask}")
    click.echo(f"  {'gives':24} {', '.join(manifest.classes)}")
    for event in events:
        click.echo(f"  {event.action:24} {event.reason}")


@models.command(
    epilog="\b\nExample:\n  echobeam models promote view small-s1-0a1b2c3d --reason 'better on a5c'"
)
@_task
@click.argument("version")
@_root
@click.option("--reason", default="promoted by hand", show_default=True, help="For the history.")
@_json
def promote(task: str, version: str, root: Path, reason: str, *, as_json: bool) -> None:
    """Put a version to work. The next batch uses it; nothing needs a restart."""
    registry = Registry(root / "models")
    _or_fail(lambda: registry.promote(task, version, reason=reason))
    _show_change(task, version, as_json=as_json)


@models.command(epilog="\b\nExample:\n  echobeam models rollback view --reason 'a5c came out as a4c'")
@_task
@_root
@click.option("--reason", default="rolled back by hand", show_default=True, help="For the history.")
@_json
def rollback(task: str, root: Path, reason: str, *, as_json: bool) -> None:
    """Go back to the version that was in production before, even if the present one is broken."""
    registry = Registry(root / "models")
    _show_change(task, _or_fail(lambda: registry.rollback(task, reason=reason)), as_json=as_json)


def _show_change(task: str, version: str, *, as_json: bool) -> None:
    line = (
        json.dumps({"task": task, "production": version})
        if as_json
        else f"{task}: {version} is in production"
    )
    click.echo(line)


def _or_fail(action: Callable[[], Result]) -> Result:
    """Do it, or say why not and leave with the exit code that says so."""
    try:
        return action()
    except ModelsError as error:
        _fail(error)
