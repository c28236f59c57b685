"""`echobeam models`: what is in the registry, and what is put to work."""

import json
from pathlib import Path

import click

from echo_models.manifest import TASKS, Manifest, read_manifest
from echo_models.registry import Registry
from echo_models.verbs import json_option, or_fail, root_option
from echo_models.verbs.calibrate import calibrate
from echo_models.verbs.showing import show_bundle

_task = click.argument("task", type=click.Choice(TASKS))


@click.group(epilog="\b\nExample:\n  echobeam models list")
def models() -> None:
    """List, show, calibrate, promote and roll back models.

    Exit codes: 0 fine, 1 refused (an altered bundle, nothing to go back to), 2 usage, 3 not found.
    """


@models.command("list", epilog="\b\nExample:\n  echobeam models list --json")
@root_option
@json_option
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
@root_option
@json_option
def show(task: str, version: str, root: Path, *, as_json: bool) -> None:
    """Show a version's contract, metrics and history; the one in production unless VERSION is given."""
    registry = Registry(root / "models")

    def look() -> tuple[Path, Manifest]:
        folder = registry.resolve(task, version)
        return folder, read_manifest(folder)

    folder, manifest = or_fail(look)
    events = [event for event in registry.history(task) if event.version == manifest.version]
    if as_json:
        history = [{"at": it.at, "action": it.action, "reason": it.reason} for it in events]
        click.echo(json.dumps(manifest.model_dump(mode="json") | {"folder": str(folder), "history": history}))
        return
    show_bundle(folder, as_json=False)
    click.echo(f"  {'reads':24} {manifest.rows} x {manifest.columns}, mask: {manifest.mask}")
    click.echo(f"  {'gives':24} {', '.join(manifest.classes)}")
    if manifest.calibration is not None:
        click.echo(f"  {'calibrated on':24} {manifest.calibration.source}")
    for event in events:
        click.echo(f"  {event.action:24} {event.reason}")


@models.command(
    epilog="\b\nExample:\n  echobeam models promote view small-s1-0a1b2c3d --reason 'better on a5c'"
)
@_task
@click.argument("version")
@root_option
@click.option("--reason", default="promoted by hand", show_default=True, help="For the history.")
@json_option
def promote(task: str, version: str, root: Path, reason: str, *, as_json: bool) -> None:
    """Put a version to work. The next batch uses it; nothing needs a restart."""
    registry = Registry(root / "models")
    or_fail(lambda: registry.promote(task, version, reason=reason))
    _show_change(task, version, as_json=as_json)


@models.command(epilog="\b\nExample:\n  echobeam models rollback view --reason 'a5c came out as a4c'")
@_task
@root_option
@click.option("--reason", default="rolled back by hand", show_default=True, help="For the history.")
@json_option
def rollback(task: str, root: Path, reason: str, *, as_json: bool) -> None:
    """Go back to the version that was in production before, even if the present one is broken."""
    registry = Registry(root / "models")
    _show_change(task, or_fail(lambda: registry.rollback(task, reason=reason)), as_json=as_json)


models.add_command(calibrate)


def _show_change(task: str, version: str, *, as_json: bool) -> None:
    line = (
        json.dumps({"task": task, "production": version})
        if as_json
        else f"{task}: {version} is in production"
    )
    click.echo(line)
