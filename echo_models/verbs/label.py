"""`echobeam label`: frames labeled by hand, labels checked, labelers compared."""

import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from echo_models.errors import ModelsError
from echo_models.verbs import FAILED, fail, json_option, root_option

if TYPE_CHECKING:
    from echo_models.labeling.agreement import Agreement

_QUESTIONS = ("view", "lvh_grade", "fov", "lv")
_labels_argument = click.argument("labels", type=click.Path(path_type=Path))


@click.group(epilog="\b\nExample:\n  echobeam label frames ./phantom/frames.npz --labeler ana --ask lv")
def label() -> None:
    """Label frames by hand in a window, check labels, and compare labelers.

    The columns of the table are described in docs/labels.md. Exit codes: 0 fine, 1 faults in labels or
    frames, 2 usage or no display.
    """


@label.command(
    epilog="\b\nExamples:\n  echobeam label frames --labeler ana --ask lv --ask lvh_grade\n"
    "  echobeam label frames ./phantom/frames.npz --labeler bo --labels ./labels/bo.csv"
)
@click.argument("frames", type=click.Path(path_type=Path), required=False)
@root_option
@click.option("--labeler", required=True, help="A pseudonym: whose labels these are.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to go on with or to begin, .csv or .parquet.  [default: ROOT/labels/LABELER.csv]",
)
@click.option(
    "--ask",
    type=click.Choice(_QUESTIONS),
    multiple=True,
    default=("view",),
    show_default=True,
    help="What is asked of each frame; may be given several times.",
)
def frames(
    *, frames: Path | None, root: Path, labeler: str, labels: Path | None, ask: tuple[str, ...]
) -> None:
    """Open frames one after another and take labels by keys and by polygons.

    FRAMES is a Parquet file or folder, an .npz, or a folder of <subject>/<instance>_<frame index>.png; the
    site's stored apical four-chamber frames unless given. Each answer is saved at once; a session that is
    begun again goes on at the first frame that is not finished.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415 - slow to import, and only windows need it

    from echo_models.frame_sets import open_frames  # noqa: PLC0415
    from echo_models.labeling.editor import asked, open_window  # noqa: PLC0415
    from echo_models.labeling.session import Session  # noqa: PLC0415
    from echo_models.labels import read_labels, write_labels  # noqa: PLC0415

    file = labels or root / "labels" / f"{labeler}.csv"
    try:
        opened = open_frames(frames or root / "pool" / "a4c")
        session = Session(
            opened.refs,
            read_labels(file) if file.exists() else (),
            labeler=labeler,
            questions=asked(ask),
            save=partial(write_labels, file),
            clock=time.time,
        )
        open_window(opened, session)
    except ModelsError as error:
        fail(error)
    except RuntimeError as error:
        raise click.UsageError(str(error)) from error
    plt.show()
    click.echo(f"{file}: {session.finished} of {len(opened)} frames finished")


@label.command(epilog="\b\nExample:\n  echobeam label check ./labels")
@_labels_argument
@root_option
@json_option
def check(labels: Path, root: Path, *, as_json: bool) -> None:  # noqa: ARG001 - every verb takes the root
    """Check a file of labels, or a folder of files, and count what they say.

    Every fault is named by file, row and column.
    """
    from echo_models.labels import QUESTIONS, read_labels  # noqa: PLC0415 - Arrow is slow to import

    try:
        found = read_labels(labels)
    except ModelsError as error:
        fail(error)
    counts = {
        "rows": len(found),
        "frames": len({label.frame_key for label in found}),
        "subjects": len({label.subject_key for label in found}),
        "labelers": len({label.labeler for label in found}),
        **{name: sum(getattr(label, name) is not None for label in found) for name in QUESTIONS},
    }
    if as_json:
        click.echo(json.dumps(counts))
        return
    for name, count in counts.items():
        click.echo(f"{name:10} {count}")


@label.command(epilog="\b\nExample:\n  echobeam label agreement ./labels")
@_labels_argument
@root_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@json_option
def agreement(labels: Path, root: Path, seed: int, *, as_json: bool) -> None:  # noqa: ARG001
    """Compare every two labelers on the frames that both labeled.

    Cohen's kappa of views and of LVH, Dice of outlines, each with a 95 % bootstrap interval over subjects.
    """
    from echo_models.labeling.agreement import measure_agreement  # noqa: PLC0415 - SciPy is slow to import
    from echo_models.labels import read_labels  # noqa: PLC0415

    try:
        found = measure_agreement(read_labels(labels), seed=seed)
    except ModelsError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps([_as_json(it) for it in found]))
    for it in () if as_json else found:
        click.echo(f"{it.question:9} {' and '.join(it.labelers):24} {it.measure:5} {_words(it)}")
    if not found:
        click.echo("No frame was labeled by two labelers: there is nothing to compare.", err=True)
        sys.exit(FAILED)


def _words(found: "Agreement") -> str:
    equal = "" if found.equal is None else f", the same answer to {found.equal:.1%}"
    if math.isnan(found.interval.value):
        return f"undefined: one answer to all {found.interval.n} frames{equal}"
    return f"{found.interval}{equal}"


def _as_json(found: "Agreement") -> dict[str, object]:
    interval = found.interval.model_dump(exclude={"control"})
    return {
        "question": found.question,
        "labelers": found.labelers,
        "measure": found.measure,
        **{name: None if math.isnan(value) else value for name, value in interval.items()},
        "equal": found.equal,
    }
