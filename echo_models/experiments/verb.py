"""The verb `experiment`."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from echo_models.errors import ModelsError, NotInRegistryError
from echo_models.manifest import read_manifest
from echo_models.registry import SHIPPED, Registry

if TYPE_CHECKING:
    import keras

_FAILED: Final = 1
NAMES: Final = ("resolution", "views", "lvh")


@click.command(
    epilog="\b\nExamples:\n  echobeam experiment resolution --size small --seed 1\n"
    "  echobeam experiment views --resnet50-weights resnet50_notop.weights.h5"
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
    type=click.Choice(("toy", "small", "paper")),
    default="small",
    show_default=True,
    help="toy: seconds, to see that it works; small: hours of two cores; paper: wants a GPU.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of results and report.  [default: <root>/experiments/<name>]",
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
    resnet50_weights: Path | None,
    vgg16_weights: Path | None,
    random_transfer: bool,
    processes: int,
    quiet: bool,
) -> None:
    """Repeat a comparison of the paper on phantom frames, and report it.

    A run that was stopped goes on where it was: arms that are done are kept, one under way starts again at
    its last whole epoch. All frames are synthetic.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Each arm is a new network, which TensorFlow takes for one that is traced again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from echo_models.experiments.hypertrophy import compare_hypertrophy  # noqa: PLC0415 - imports Keras
    from echo_models.experiments.report import write_report  # noqa: PLC0415
    from echo_models.experiments.resolution import compare_resolutions  # noqa: PLC0415
    from echo_models.experiments.sizes import SIZES  # noqa: PLC0415
    from echo_models.experiments.views import compare_views  # noqa: PLC0415
    from echo_models.progress import progress  # noqa: PLC0415

    folder = out or root / "experiments" / name
    absent: list[str] = []
    try:
        with progress(quiet=quiet) as (on_step, on_render):
            shared: dict[str, Any] = {
                "size": size,
                "seed": seed,
                "processes": processes,
                "on_step": on_step,
                "on_render": on_render,
            }
            match name:
                case "resolution":
                    compare_resolutions(folder, **shared)
                case "views":
                    files = {"resnet50": resnet50_weights, "vgg16": vgg16_weights}
                    absent = compare_views(
                        folder,
                        imagenet={key: file for key, file in files.items() if file is not None},
                        random_transfer=random_transfer,
                        **shared,
                    )
                case _:
                    views = _starting_views(root, SIZES[size].preset)
                    compare_hypertrophy(folder, views=views, **shared)
        command = f"echobeam experiment {name} --size {size} --seed {seed}"
        click.echo(write_report(folder, command=command, absent=absent))
    except ModelsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_FAILED)


def _starting_views(root: Path, preset: str) -> "tuple[str, keras.Model]":
    """Find the view classifier whose convolutions hypertrophy starts from: at work, or the one that ships."""
    from echo_models.bundle import load_bundle  # noqa: PLC0415 - imports Keras

    registry = Registry(root / "models")
    at_work = [registry.resolve("view")] if registry.production("view") else []
    for folder in [*at_work, *sorted((SHIPPED / "view").glob("*"))]:
        if read_manifest(folder).training.get("preset") == preset:
            bundle = load_bundle(folder)
            return bundle.name, bundle.model
    raise NotInRegistryError(
        f"hypertrophy starts from the convolutions of a view model of preset {preset}, and there is none: "
        f"train one with `echobeam train view --preset {preset}` and promote it"
    )
