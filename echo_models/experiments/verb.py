"""The verb `experiment`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from echo_models.errors import ModelsError, NotInRegistryError
from echo_models.manifest import read_manifest
from echo_models.registry import SHIPPED, Registry

if TYPE_CHECKING:
    from echo_models.bundle import Bundle

_FAILED: Final = 1
NAMES: Final = ("resolution", "views", "lvh", "severity", "labels", "lvh-gan", "sites", "open-set")


@click.command(
    epilog="\b\nExamples:\n  echobeam experiment resolution --size small --seed 1\n"
    "  echobeam experiment views --resnet50-weights resnet50_notop.weights.h5\n"
    "  echobeam experiment severity --report docs/reports\n"
    "  echobeam experiment labels --site home"
)
@click.argument("name", type=click.Choice(NAMES))
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    envvar="ECHOBEAM_ROOT",
    show_default=True,
    help="The folder with configuration, ledger, spool, results and models.",
)
@click.option(
    "--size",
    type=click.Choice(("toy", "small", "medium", "paper")),
    default="small",
    show_default=True,
    help="toy: to see that it works; small: up to an hour of two cores; medium: hours; paper: wants a GPU.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results.  [default: <root>/experiments/<name>]",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report.  [default: <out>/report]",
)
@click.option(
    "--resnet50-weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="ImageNet weights without top, for `views`.",
)
@click.option(
    "--vgg16-weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="ImageNet weights without top, for `views`.",
)
@click.option(
    "--random-transfer",
    is_flag=True,
    help="Train ResNet50 and VGG16 from random weights if no file is given.",
)
@click.option(
    "--site",
    type=click.Choice(("home", "bedside", "smooth", "mirrored")),
    default="smooth",
    show_default=True,
    help="Phantom site of the unlabeled frames of `labels` and `lvh-gan`; home: that of the labeled ones.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), default=2, show_default=True, help="That render frames."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def experiment(
    *,
    name: str,
    root: Path,
    size: str,
    seed: int,
    out: Path | None,
    report: Path | None,
    resnet50_weights: Path | None,
    vgg16_weights: Path | None,
    random_transfer: bool,
    site: str,
    processes: int,
    quiet: bool,
) -> None:
    """Repeat a comparison of the paper on phantom frames, or try the models, and report it.

    A run that was stopped goes on where it was: arms that are done are kept, one under way starts again at
    its last whole epoch. All frames are synthetic.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Each arm is a new network, which TensorFlow takes for one that is traced again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from echo_models.experiments.hypertrophy import compare_hypertrophy  # noqa: PLC0415 - imports Keras
    from echo_models.experiments.report import write_report  # noqa: PLC0415
    from echo_models.experiments.resolution import compare_resolutions  # noqa: PLC0415
    from echo_models.experiments.setups import Setup  # noqa: PLC0415
    from echo_models.experiments.severity import TASKS, measure_severity  # noqa: PLC0415
    from echo_models.experiments.severity_report import write_severity_report  # noqa: PLC0415
    from echo_models.experiments.sizes import SIZES  # noqa: PLC0415
    from echo_models.experiments.views import compare_views  # noqa: PLC0415
    from echo_models.progress import progress  # noqa: PLC0415

    folder = out or root / "experiments" / name
    command = f"echobeam experiment {name} --size {size} --seed {seed}"
    absent: list[str] = []
    try:
        with progress(quiet=quiet) as (on_step, on_render):
            setup = Setup(folder, size, seed, processes, on_step, on_render)
            match name:
                case "resolution":
                    compare_resolutions(setup)
                case "views":
                    files = {"resnet50": resnet50_weights, "vgg16": vgg16_weights}
                    absent = compare_views(
                        setup,
                        imagenet={key: file for key, file in files.items() if file is not None},
                        random_transfer=random_transfer,
                    )
                case "severity":
                    bundles = {task: _bundle(root, task) for task in TASKS}
                    measure_severity(setup, bundles=bundles)
                    click.echo(write_severity_report(folder, report, command=command))
                    return
                case "open-set":
                    from echo_models.experiments.open_set import measure_open_set  # noqa: PLC0415
                    from echo_models.experiments.open_set_report import write_open_set_report  # noqa: PLC0415

                    measure_open_set(setup, fov=_bundle(root, "fov"), view=_bundle(root, "view"))
                    click.echo(write_open_set_report(folder, report, command=command))
                    return
                case "labels" | "lvh-gan" | "sites":
                    from echo_models.experiments.few_labels_report import (  # noqa: PLC0415
                        write_few_labels_report,
                    )

                    chosen = {} if name == "sites" else {"site": site}
                    command += "".join(f" --site {it}" for it in chosen.values())
                    _with_few_labels(name)(setup, **chosen)
                    click.echo(write_few_labels_report(folder, report, command=command))
                    return
                case _:
                    views = _bundle(root, "view", SIZES[size].preset)
                    compare_hypertrophy(setup, views=(views.name, views.model))
        click.echo(write_report(folder, report, command=command, absent=absent))
    except ModelsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_FAILED)


def _with_few_labels(name: str) -> Callable[..., None]:
    """Find what runs an experiment with few labels."""
    from echo_models.experiments.labels import compare_label_counts  # noqa: PLC0415 - imports Keras
    from echo_models.experiments.lvh_gan import compare_hypertrophy_methods  # noqa: PLC0415
    from echo_models.experiments.sites import adapt_to_sites  # noqa: PLC0415

    found: dict[str, Callable[..., None]] = {
        "labels": compare_label_counts,
        "lvh-gan": compare_hypertrophy_methods,
        "sites": adapt_to_sites,
    }
    return found[name]


def _bundle(root: Path, task: str, preset: str | None = None) -> "Bundle":
    """Load the bundle of a task that is at work, or the one that ships.

    Args:
        root: with the registry.
        task: of the bundle.
        preset: that it must have been trained with, None for any.

    Raises:
        NotInRegistryError: if there is none of that preset.
    """
    from echo_models.bundle import load_bundle  # noqa: PLC0415 - imports Keras

    registry = Registry(root / "models")
    at_work = [registry.resolve(task)] if registry.production(task) else []
    for folder in [*at_work, *sorted((SHIPPED / task).glob("*"))]:
        if preset in (None, read_manifest(folder).training.get("preset")):
            return load_bundle(folder)
    raise NotInRegistryError(
        f"the experiment starts from a {task} model of preset {preset}, and there is none: train one with "
        f"`echobeam train {task} --preset {preset}` and promote it"
    )
