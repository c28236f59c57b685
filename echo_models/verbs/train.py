"""`echobeam train`: one model, or all four of the pipeline, from a seed."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from echo_models.errors import ModelsError
from echo_models.manifest import read_manifest
from echo_models.registry import SHIPPED, Registry
from echo_models.verbs import fail, json_option, root_option
from echo_models.verbs.showing import show_bundle

if TYPE_CHECKING:
    from echo_models.backend import Precision
    from echo_models.gan import GanOptions
    from echo_models.gan.recipe import GanTask
    from echo_models.networks import Head
    from echo_models.recipes import Workshop
    from echo_models.source_specs import SourceSpec


@click.command(
    epilog="\b\nExamples:\n  echobeam train view --seed 1\n  echobeam train all --seed 1 --out ./bundles\n"
    "  echobeam train lv --dataset camus:./CAMUS\n"
    "  echobeam train view --labels ./labels --frames ./pool/a4c --dataset phantom\n"
    "  echobeam train gan --gan-task view --head k_plus_1 --ensemble 3"
)
@click.argument("task", type=click.Choice(("fov", "view", "lv", "lvh", "gan", "all")))
@root_option
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
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="KIND:PATH",
    help="Train on a public set, or on `phantom` beside others; may be given several times.  "
    "[default: phantom]",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Train on labels of your own; with --frames.")
@click.option("--frames", type=click.Path(path_type=Path), help="What --labels speak of.")
@click.option("--subjects", type=click.IntRange(min=8), help="Phantom subjects.  [default: the preset's]")
@click.option("--epochs", type=click.IntRange(min=1), help="Of every stage.  [default: the schedule's]")
@click.option(
    "--precision",
    type=click.Choice(("float32", "mixed")),
    default="float32",
    show_default=True,
    help="Compute in bfloat16 while learning: faster on recent GPUs, slower on most CPUs.",
)
@click.option(
    "--gan-task",
    type=click.Choice(("lvh", "view")),
    help="What `gan` learns: hypertrophy, or the view.  [default: lvh]",
)
@click.option(
    "--head",
    type=click.Choice(("sigmoid", "k_plus_1")),
    help="How the GAN tells real from generated: by a unit of its own, or as one more class of the "
    "softmax.  [default: sigmoid]",
)
@click.option(
    "--ema-decay",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Classify with a moving average of the GAN's weights, of which a step keeps this share.  "
    "[default: the weights themselves]",
)
@click.option(
    "--ensemble", type=click.IntRange(min=1), help="GANs whose probabilities are averaged.  [default: 1]"
)
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
@json_option
def train(
    *,
    task: str,
    root: Path,
    seed: int,
    preset: str,
    datasets: tuple[str, ...],
    labels: Path | None,
    frames: Path | None,
    subjects: int | None,
    epochs: int | None,
    precision: "Precision",
    gan_task: "GanTask | None",
    head: "Head | None",
    ema_decay: float | None,
    ensemble: int | None,
    out: Path | None,
    replace: bool,
    resume: bool,
    processes: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train one model, or all four of the pipeline, from a seed: on the phantom, on public sets, on labels.

    Public sets (docs/public-sets.md) and labels of your own (docs/labels.md) are used instead of the
    phantom; name `--dataset phantom` to mix it in. A network takes the frames whose labels it needs.

    The bundle is published into the registry under --root, and not yet put to work: see `echobeam models
    promote`. Logs (CSV), checkpoints and grids of generated frames are under <root>/training. TASK is fov,
    view, lv, lvh, gan (a semi-supervised lvh or view), or all (fov, view, lv, lvh).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from echo_models.progress import progress  # noqa: PLC0415 - TensorFlow takes seconds to import
    from echo_models.recipes import Order, Workshop  # noqa: PLC0415

    sources = sources_of(datasets, labels, frames)
    gan = _gan_options(task, gan_task, head, ema_decay, ensemble)
    if gan_task == "view":
        task = "gan_view"
    work = root / "training"
    names: tuple[str, ...] = ("fov", "view", "lv", "lvh") if task == "all" else (task,)
    try:
        with progress(quiet=quiet) as (on_step, on_render):
            workshop = Workshop(on_step, on_render)
            if task == "lvh":
                workshop.views = _view_classifier(root, out, preset)
            for name in names:
                order = Order(
                    name, seed, preset, subjects, epochs, processes, work, resume, sources, precision, gan=gan
                )
                folder = _made(workshop, order, root, out, replace=replace)
                show_bundle(folder, as_json=as_json)
    except ModelsError as error:
        fail(error)


def sources_of(
    datasets: tuple[str, ...], labels: Path | None, frames: Path | None
) -> "tuple[SourceSpec, ...]":
    """Read what to train on; empty for the phantom alone."""
    from echo_models.source_specs import SourceSpec  # noqa: PLC0415 - imports numerical libraries

    if (labels is None) != (frames is None):
        raise click.UsageError("--labels and --frames go together: labels, and the frames they speak of")
    sources = []
    for text in datasets:
        try:
            sources.append(SourceSpec.parse(text))
        except ValueError as error:
            raise click.UsageError(f"--dataset {text}: {error}") from error
    if labels is not None:
        sources.append(SourceSpec("labels", labels, frames))
    return tuple(sources)


def _gan_options(
    task: str,
    gan_task: "GanTask | None",
    head: "Head | None",
    ema_decay: float | None,
    ensemble: int | None,
) -> "GanOptions":
    """Read what was told of the GAN; refuse it for another network."""
    if task != "gan" and any(told is not None for told in (gan_task, head, ema_decay, ensemble)):
        raise click.UsageError(
            f"--gan-task, --head, --ema-decay and --ensemble are of `train gan`; received {task}"
        )
    from echo_models.gan import GanOptions  # noqa: PLC0415 - TensorFlow takes seconds to import

    return GanOptions(head=head or "sigmoid", ema_decay=ema_decay, ensemble=ensemble or 1)


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
