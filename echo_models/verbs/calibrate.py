"""`echobeam models calibrate`: probabilities that mean what they say, and "unknown", for a trained model."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from echo_models.errors import ModelsError
from echo_models.manifest import read_manifest
from echo_models.registry import PRODUCTION, Registry
from echo_models.verbs import fail, json_option, or_fail, root_option
from echo_models.verbs.showing import show_bundle
from echo_models.verbs.train import sources_of

if TYPE_CHECKING:
    from echo_models.datasets import LabeledFrames
    from echo_models.manifest import Manifest
    from echo_models.progress import OnRender
    from echo_models.source_specs import SourceSpec

_OTHER_SUBJECTS: Final = 1000
"""Added to a model's seed: phantom subjects it did not learn from."""


@click.command(
    epilog="\b\nExamples:\n  echobeam models calibrate view\n"
    "  echobeam models calibrate view --labels ./labels --frames ./pool/a4c --dataset phantom\n"
    "  echobeam models calibrate lvh small-s1-0a1b2c3d --out ./bundles"
)
@click.argument("task", type=click.Choice(("view", "lvh")))
@click.argument("version", default=PRODUCTION)
@root_option
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="KIND:PATH",
    help="Calibrate on a public set, or on `phantom` beside others; may be given several times.  "
    "[default: phantom]",
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Calibrate on labels of your own; with --frames."
)
@click.option("--frames", type=click.Path(path_type=Path), help="What --labels speak of.")
@click.option(
    "--subjects", type=click.IntRange(min=8), default=180, show_default=True, help="Phantom subjects."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of them.  [default: 1000 more than the model's]")
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Share of frames of known views that are to be called known.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write <out>/<task>/<version>/ instead of publishing into the registry.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), default=2, show_default=True, help="That render frames."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@json_option
def calibrate(
    *,
    task: str,
    version: str,
    root: Path,
    datasets: tuple[str, ...],
    labels: Path | None,
    frames: Path | None,
    subjects: int,
    seed: int | None,
    coverage: float,
    out: Path | None,
    processes: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Calibrate a trained model: how sure it may be and, for views, what it does not know.

    The network stays as it is; the result is a new version, published and not yet put to work. VERSION is the
    one in production unless given. Labels of your own make it right for your machines: frames of subjects the
    model did not learn from, of every class; one subject in seven is kept to measure on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sources = sources_of(datasets, labels, frames)
    registry = Registry(root / "models")
    folder = or_fail(lambda: registry.resolve(task, version))
    manifest = or_fail(lambda: read_manifest(folder))
    learned_from = int(manifest.training.get("seed", 0))
    seed = learned_from + _OTHER_SUBJECTS if seed is None else seed
    if seed == learned_from:
        raise click.UsageError(
            f"--seed {seed} makes the subjects that {manifest.name} learned from; calibrate on others"
        )
    from echo_models.calibration import calibrate_bundle  # noqa: PLC0415 - TensorFlow takes seconds to import
    from echo_models.progress import progress  # noqa: PLC0415

    try:
        with progress(quiet=quiet) as (_, on_render):
            fit, test = _parts(
                manifest, sources, seed=seed, subjects=subjects, processes=processes, on_render=on_render
            )
        with tempfile.TemporaryDirectory() as scratch:
            made = calibrate_bundle(
                folder,
                fit,
                test,
                Path(scratch) if out is None else out / task,
                source=" and ".join(source.kind for source in sources) or f"phantom, seed {seed}",
                coverage=coverage,
            )
            if out is None:
                made = registry.publish(made, reason=f"calibrated from {manifest.version}")
        show_bundle(made, as_json=as_json)
    except ModelsError as error:
        fail(error)


def _parts(
    manifest: "Manifest",
    sources: "tuple[SourceSpec, ...]",
    *,
    seed: int,
    subjects: int,
    processes: int,
    on_render: "OnRender",
) -> "tuple[LabeledFrames, LabeledFrames]":
    """Give frames to fit on and frames to measure on, of subjects that the model did not learn from."""
    from echo_models.datasets import LabeledFrames, render, split_by_subject  # noqa: PLC0415 - numerical
    from echo_models.recipes import PLANS  # noqa: PLC0415
    from echo_models.source_specs import SourceSpec  # noqa: PLC0415
    from echo_models.sources import join_sources  # noqa: PLC0415

    plan = dataclasses.replace(PLANS["small"][manifest.task], seed=seed, subjects=subjects)
    loaded = [
        spec.load(lambda: render(plan, processes=processes, on_progress=on_render))
        for spec in sources or (SourceSpec("phantom"),)
    ]
    whole = join_sources(loaded, outlined=manifest.mask == "lv")
    learned_from = int(manifest.training.get("seed", 0))
    data = split_by_subject(whole.labeled, seed=learned_from, published=whole.parts)
    if whole.labeled.fingerprint() == manifest.training.get("data_fingerprint"):
        return data.validation, data.test  # the very frames it was trained on, divided as they were then
    return LabeledFrames.join([data.train, data.validation]), data.test
