"""The results of an experiment as a page of Markdown with pictures."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from echo_models.errors import TrainingError
from echo_models.experiments.results import Record, Result, files_of, read_results

TITLES: Final = {
    "resolution": "Resolution of the frames (paper, Table 1 and Fig. 2)",
    "views": "Networks that name the view (paper, Table 2 and Fig. 5)",
    "lvh": "Hypertrophy with and without segmentation (paper, Table 3 and Fig. 7)",
}
_SECONDS: Final = """\
Seconds an epoch and frames a second are of one machine, which may have done other work: they compare the arms
at best."""
CAPTION: Final = "Synthetic frames of the phantom; 95 % intervals by bootstrap over test subjects."


def write_report(folder: Path, into: Path | None = None, *, command: str, absent: Sequence[str] = ()) -> Path:
    """Write a page, its pictures, and a copy of the results that it tells of.

    Args:
        folder: of the results.
        into: where `<experiment>.md`, its pictures and a folder of the results' files go; None for
            `<folder>/report`.
        command: that made them.
        absent: arms that were not trained, for want of ImageNet weights.

    Returns:
        The page.

    Raises:
        TrainingError: if the folder has no results.
    """
    results = read_results(folder)
    if not results:
        raise TrainingError(f"{folder} must hold results of `echobeam experiment`; it has none")
    experiment = results[0].experiment
    into = into or folder / "report"
    copy_results(folder, into / experiment)
    bars = into / f"{experiment}-accuracy.png"
    _draw_bars(results, bars)
    best = max(results, key=lambda result: result.metrics["accuracy"].value)
    matrix = into / f"{experiment}-confusion.png"
    _draw_confusion(best, matrix)
    page = into / f"{experiment}.md"
    page.write_text(
        "\n".join(
            [
                f"# {TITLES[experiment]}",
                "",
                *provenance(results[0], command),
                *_frames_of(results[0]),
                "",
                *table(results),
                "",
                _SECONDS,
                "",
                *_unsettled(results),
                *_not_run(absent),
                f"![Accuracy of each arm]({bars.name})",
                "",
                f"{CAPTION}",
                "",
                f"![Confusion of the best arm]({matrix.name})",
                "",
                f"Rows are true classes, each sums to one: {best.title}. Synthetic frames.",
                "",
                *class_table(results),
                "",
            ]
        ),
        encoding="utf-8",
    )
    return page


def _unsettled(results: Sequence[Result]) -> list[str]:
    """Name the arms that a longer schedule would have taken further."""
    learning = []
    for result in results:
        last = [entry for entry in result.log if entry["stage"] == result.log[-1]["stage"]]
        losses = [entry["validation_loss"] for entry in last if "validation_loss" in entry]
        if losses and losses[-1] <= min(losses):
            learning.append(result.title)
    if not learning:
        return []
    return [
        f"Still learning when the schedule ended (validation loss at its lowest): {', '.join(learning)}.",
        "",
    ]


def _not_run(absent: Sequence[str]) -> list[str]:
    if not absent:
        return []
    return [f"Not run, because no file of ImageNet weights was given: {', '.join(absent)}.", ""]


def copy_results(folder: Path, into: Path) -> None:
    """Put the files of results, as they are, in place of those that were there."""
    into.mkdir(parents=True, exist_ok=True)
    for old in files_of(into):
        old.unlink()
    for path in files_of(folder):
        shutil.copyfile(path, into / path.name)


def provenance(record: Record, command: str) -> list[str]:
    """Say how a result was made."""
    commit = f" at commit `{record.commit}`" if record.commit else ""
    where = f" on {record.machine}" if record.machine else ""
    how = f"size `{record.size}`, seed {record.seed}, {record.code_version}"
    return [f"Made by `{command}`{commit}{where}: {how}."]


def _frames_of(result: Result) -> list[str]:
    frames = result.data["frames"]
    return [
        (
            f"Data: synthetic frames of {result.data['plan']['subjects']} phantom subjects, fingerprint "
            f"`{result.data['fingerprint']}`: {frames['train']} for training, {frames['validation']} for "
            f"validation, {frames['test']} of {result.data['test_subjects']} other subjects for testing. "
            "Nothing here says how well it does on a patient."
        ),
    ]


def table(results: Sequence[Result]) -> list[str]:
    """Give the main table, one row an arm."""
    two_classes = len(results[0].classes) == 2
    extra = ("sensitivity", "specificity") if two_classes else ("balanced_accuracy",)
    names = ("accuracy", "f1", *extra)
    heads = ["arm", *(name.replace("_", " ") for name in names)]
    heads += ["epochs", "s an epoch", "frames a second", "parameters"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for result in results:
        cells = [result.title + (f" ({result.note})" if result.note else "")]
        cells += [_interval(result, name) for name in names]
        cells += [
            str(result.epochs),
            "-" if result.seconds_per_epoch is None else f"{result.seconds_per_epoch:.1f}",
            f"{result.images_per_second:.0f}",
            f"{result.parameters:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _interval(result: Result, name: str) -> str:
    interval = result.metrics[name]
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def class_table(results: Sequence[Result]) -> list[str]:
    """Give what is found of each class, one row a class; nothing for two classes."""
    classes = results[0].classes
    if len(classes) == 2:
        return []
    lines = [
        "| view | " + " | ".join(result.title for result in results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for name in classes:
        cells = [
            _interval(result, key) if (key := f"recall_{name}") in result.metrics else "-"
            for result in results
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _draw_bars(results: Sequence[Result], path: Path) -> None:
    figure, axes = _figure(7, 0.6 + 0.5 * len(results))
    places = np.arange(len(results))
    intervals = [result.metrics["accuracy"] for result in results]
    values = np.array([interval.value for interval in intervals])
    errors = np.array(
        [
            [interval.value - interval.low for interval in intervals],
            [interval.high - interval.value for interval in intervals],
        ]
    )
    axes.barh(places, values, xerr=np.clip(errors, 0, None), color="#4477aa", ecolor="#222222", capsize=3)
    axes.set_yticks(places, [result.title for result in results])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy on synthetic test frames")
    figure.savefig(path, dpi=130)


def _draw_confusion(result: Result, path: Path) -> None:
    counts = np.array(result.confusion, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.42 * len(result.classes)
    figure, axes = _figure(side + 0.8, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(result.classes)), result.classes, rotation=90)
    axes.set_yticks(range(len(result.classes)), result.classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (synthetic)")
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        share = float(shares[row, column])
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.savefig(path, dpi=130)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only reports draw

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
