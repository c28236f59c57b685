"""Experiments with few labels as pages of Markdown with pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw

from echo_models.experiments.few_labels import THERE
from echo_models.experiments.few_labels_page import (
    COLOURS,
    best_of,
    cell,
    errors_of,
    exams_of,
    figure_of,
    heads_of,
    opened,
    picture_of,
    row_of,
    write_page,
)
from echo_models.experiments.labels import ALL
from echo_models.experiments.labels import NAME as LABELS
from echo_models.experiments.lvh_gan import NAME as LVH_GAN
from echo_models.experiments.methods import GANS, METHODS
from echo_models.experiments.results import Result
from echo_models.experiments.sites import NAME as SITES
from echo_models.experiments.sites import ORACLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER: Final = {"1": 16, "5": 28, "15": 43, "30": 51, "90": 65, "270": 78, "810": 82, ALL: 88}
"""Test accuracy of the paper's GAN, %, on frames that nobody else has (paper, Table 4)."""

_EPOCHS_SHOWN: Final = (1, 2, 3, 4, 13)
"""Of the generated frames, and the last (paper, Fig. 10)."""


def write_few_labels_report(folder: Path, into: Path | None = None, *, command: str) -> Path:
    """Write a page, its pictures, and a copy of the results that it tells of.

    Args:
        folder: of the results of `labels`, `lvh-gan` or `sites`.
        into: where they go; None for `<folder>/report`.
        command: that made them.

    Returns:
        The page.

    Raises:
        TrainingError: if the folder has no results.
    """
    results, into = opened(folder, into)
    title, blocks_of = _PAGES[results[0].experiment]
    return write_page(into, title, results, command, blocks_of(results, into, folder))


def _labels(results: list[Result], into: Path, _: Path) -> list[str]:
    """Tell how accuracy grows with labels."""
    by_arm = {result.arm: result for result in results}
    counts = sorted({result.arm.rpartition("_")[2] for result in results}, key=_count)
    picture = into / "labels.png"
    figure = figure_of(9.5, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (prefix, where) in zip(panels, exams_of(results[0]), strict=True):
        _draw_curves(axes, by_arm, counts, prefix)
        axes.set_title(f"test frames of {where}", fontsize=9)
    panels[0].set_ylabel("accuracy, synthetic frames")
    panels[0].legend(fontsize=7)
    figure.savefig(picture, dpi=120)
    lines = []
    for prefix, where in exams_of(results[0]):
        heads = [*METHODS.values(), *([] if prefix else ["the paper's GAN, its own frames"])]
        lines += [f"## Accuracy on {where}", "", *heads_of(["labels a class", *heads])]
        for count in counts:
            cells = [
                cell(by_arm.get(f"{method}_{count}"), f"{prefix}accuracy", best)
                for best in [best_of([by_arm.get(f"{method}_{count}") for method in METHODS], prefix)]
                for method in METHODS
            ]
            cells += [] if prefix else [f"{_PAPER[count] / 100:.2f}"]
            lines.append(row_of([count, *cells]))
        lines.append("")
    return [picture_of(picture, "Accuracy by labels a class"), *lines]


def _lvh_gan(results: list[Result], into: Path, folder: Path) -> list[str]:
    """Tell what each method comes to in hypertrophy, epoch by epoch, with generated frames."""
    names = ("accuracy", "f1", "sensitivity", "specificity", f"{THERE}accuracy", f"{THERE}f1")
    (_, home), (_, there) = exams_of(results[0])
    lines = heads_of(["method", *names[:4], f"accuracy on {there}", f"F1 on {there}", "s an epoch"])
    results.sort(key=lambda result: list(METHODS).index(result.arm))
    for result in results:
        seconds = "-" if result.seconds_per_epoch is None else f"{result.seconds_per_epoch:.1f}"
        lines.append(row_of([result.title, *(cell(result, name) for name in names), seconds]))
    curves = into / "lvh-gan.png"
    _draw_epochs(results, curves)
    blocks = [f"Measured on {home} unless a column says otherwise.", "", *lines, ""]
    blocks += [picture_of(curves, f"Accuracy and F1 by epoch and member, on {home}"), ""]
    for gan in (result for result in results if result.arm in GANS):
        picture = into / f"lvh-{gan.arm.replace('_', '-')}-generated.png"
        blocks += [*_confusion(gan), *_generated(folder, gan, picture)]
    return blocks


def _sites(results: list[Result], into: Path, _: Path) -> list[str]:
    """Tell what unlabeled frames of a site are worth there."""
    sites = list(dict.fromkeys(result.data["plan"]["archive_site"] for result in results))
    arms = [*METHODS, ORACLE]
    by_arm = {result.arm: result for result in results}
    picture = into / "sites.png"
    figure = figure_of(9.5, 3.4)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        shown = [
            (place, by_arm[key]) for place, site in enumerate(sites) if (key := f"{site}_{arm}") in by_arm
        ]
        places = np.array([place for place, _ in shown]) + (number - (len(arms) - 1) / 2) * 0.14
        values, errors = errors_of([result for _, result in shown], f"{THERE}accuracy")
        label = METHODS.get(arm, "labels of the site itself")
        axes.bar(places, values, 0.13, yerr=errors, capsize=2, color=COLOURS.get(arm, "#bbbbbb"), label=label)
    axes.set_xticks(range(len(sites)), sites)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy at the site, synthetic")
    axes.legend(fontsize=7, ncols=3)
    figure.savefig(picture, dpi=120)
    lines = [picture_of(picture, "Accuracy at each site"), ""]
    lines += heads_of(["site", "method", "accuracy there", "balanced accuracy there", "accuracy at home"])
    for site in sites:
        of_site = [by_arm[key] for arm in arms if (key := f"{site}_{arm}") in by_arm]
        adapted = [result for result in of_site if not result.arm.endswith(ORACLE)]
        for result in of_site:
            title = result.title.partition(": ")[2]
            best = best_of(adapted, THERE)
            cells = [cell(result, f"{THERE}accuracy", best), cell(result, f"{THERE}balanced_accuracy")]
            lines.append(row_of([site, title, *cells, cell(result, "accuracy")]))
    return [*lines, ""]


_PAGES: Final = {
    LABELS: ("How many labels a class it takes to name views (paper, Table 4 and Fig. 8)", _labels),
    LVH_GAN: ("Hypertrophy with unlabeled frames (paper, Fig. 9 and 10)", _lvh_gan),
    SITES: ("What a site gains from its own unlabeled frames", _sites),
}


def _confusion(result: Result) -> list[str]:
    """Give the confusion matrix of the ensemble (paper, Fig. 9)."""
    lines = [f"Confusion of the {result.title}, rows are true classes:", ""]
    lines += heads_of(["", *result.classes])
    lines += [
        row_of([name, *map(str, row)]) for name, row in zip(result.classes, result.confusion, strict=True)
    ]
    return [*lines, ""]


def _generated(folder: Path, gan: Result, path: Path) -> list[str]:
    """Put the first member's generated frames of some epochs below each other, if they are still there."""
    grids = {
        int(file.stem.rpartition("_")[2]): file
        for checkpoint in (folder / "work" / "checkpoints").glob(f"{gan.arm}-{gan.key}")
        for file in checkpoint.glob("gan*_generated/epoch_*.png")
        if "member" not in file.parent.name or "member_1" in file.parent.name
    }
    if not grids:
        return []
    shown = sorted({epoch for epoch in _EPOCHS_SHOWN if epoch in grids} | {max(grids)})
    images = [Image.open(grids[epoch]).convert("L") for epoch in shown]
    width, height, margin = images[0].width, images[0].height, 14
    sheet = Image.new("L", (width, (height + margin) * len(images)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (epoch, image) in enumerate(zip(shown, images, strict=True)):
        draw.text((2, number * (height + margin) + 1), f"epoch {epoch}", fill=0)
        sheet.paste(image, (0, number * (height + margin) + margin))
    sheet.save(path, optimize=True)
    return [
        f"![Generated frames by epoch]({path.name})",
        "",
        f"Generated frames of one member of the {gan.title}; a row a class.",
        "",
    ]


def _count(shown: str) -> float:
    return float("inf") if shown == ALL else float(shown)


def _draw_curves(axes: "Axes", by_arm: Mapping[str, Result], counts: Sequence[str], prefix: str) -> None:
    for method, title in METHODS.items():
        places = [place for place, count in enumerate(counts) if f"{method}_{count}" in by_arm]
        results = [by_arm[f"{method}_{counts[place]}"] for place in places]
        values, errors = errors_of(results, f"{prefix}accuracy")
        axes.errorbar(places, values, errors, fmt="o-", color=COLOURS[method], label=title, ms=3, capsize=2)
    axes.set_xticks(range(len(counts)), counts)
    axes.set_xlabel("labels a class")
    axes.set_ylim(0, 1)


def _draw_epochs(results: Sequence[Result], path: Path) -> None:
    figure = figure_of(9.5, 3.4)
    for axes, (name, label) in zip(
        figure.subplots(1, 2, sharey=True), {"accuracy": "accuracy", "f1": "F1"}.items(), strict=True
    ):
        for result in results:
            for member in sorted({entry.get("member", 1.0) for entry in result.log}):
                entries: list[Mapping[str, Any]] = [
                    entry for entry in result.log if entry.get("member", 1.0) == member and name in entry
                ]
                axes.plot(
                    [entry["epoch"] for entry in entries],
                    [entry[name] for entry in entries],
                    color=COLOURS[result.arm],
                    linewidth=1,
                    label=result.title if member == 1 else None,
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{label}, synthetic test frames")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
