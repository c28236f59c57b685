"""How a bundle is shown."""

import json
from pathlib import Path

import click

from echo_models.manifest import read_manifest


def show_bundle(folder: Path, *, as_json: bool) -> None:
    """Print name, folder and metrics."""
    manifest = read_manifest(folder)
    if as_json:
        metrics = {name: interval.model_dump() for name, interval in manifest.metrics.items()}
        click.echo(json.dumps({"name": manifest.name, "folder": str(folder), "metrics": metrics}))
        return
    click.echo(f"{manifest.name}  {folder}")
    for name, interval in manifest.metrics.items():
        click.echo(f"  {name:24} {interval}")
