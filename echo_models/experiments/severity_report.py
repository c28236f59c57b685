"""Curves of severity as a page of Markdown with a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from echo_models.errors import TrainingError
from echo_models.experiments.report import copy_results, provenance
from echo_models.experiments.results import Curve, Point, files_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS: Final = {
    "fov_dice": "field of view, Dice",
    "view_accuracy": "view, accuracy",
    "lv_dice": "left ventricle, Dice",
    "lvh_balanced_accuracy": "hypertrophy, balanced accuracy",
}
_COLOURS: Final = ("#4477aa", "#228833", "#cc3311", "#aa3377")
_USUAL: Final = "usual"
_PANELS_A_ROW: Final = 4
_TITLE: Final = "What harder scans cost the networks"
_TEXT: Final = """\
Each curve changes one thing and leaves the rest as in training. Every network gets what the one before it
gives: field of view, then view, left ventricle and hypertrophy. Shaded or dotted is what training had.
The Dice of the left ventricle stands beside that of the best mask that looks at no frame, which knows all
outlines of its level. Synthetic frames of the phantom; 95 % intervals by bootstrap over subjects."""


def write_severity_report(folder: Path, into: Path | None = None, *, command: str) -> Path:
    """Write a page, its picture, and a copy of the results that it tells of.

    Args:
        folder: of the results.
        into: where they go; None for `<folder>/report`.
        command: that made them.

    Returns:
        The page.

    Raises:
        TrainingError: if the folder does not have the curve of the usual scans, which all start from.
    """
    usual, curves = read_curves(folder)
    into = into or folder / "report"
    copy_results(folder, into / usual.experiment)
    picture = into / f"{usual.experiment}.png"
    _draw(usual.points[0], curves, picture)
    page = into / f"{usual.experiment}.md"
    lines = [
        f"# {_TITLE}",
        "",
        *provenance(usual, command),
        f"Bundles: {', '.join(f'`{name}`' for name in usual.data['bundles'])}. {_counts(usual)}",
        "",
        _TEXT,
        "",
        f"![Each curve, synthetic frames]({picture.name})",
        "",
        *table(usual, curves, hardest_only=False),
        "",
    ]
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def read_curves(folder: Path) -> tuple[Curve, list[Curve]]:
    """Read the usual scans' curve of one point, and all others: artefacts, then settings.

    Raises:
        TrainingError: if there is no such curve.
    """
    curves = {path.stem: Curve.read(path) for path in files_of(folder)}
    if _USUAL not in curves:
        raise TrainingError(
            f"{folder} must hold {_USUAL}.json of `echobeam experiment severity`; it does not"
        )
    usual = curves.pop(_USUAL)
    # What training has at one strength, then what it has over a range.
    return usual, sorted(curves.values(), key=lambda curve: (len(set(curve.trained)), curve.arm))


def _counts(usual: Curve) -> str:
    metrics = usual.points[0].metrics
    return (
        f"Each level: {metrics['view_accuracy'].n} synthetic frames of all views for field of view and view, "
        f"{metrics['lv_dice'].n} of other subjects' four-chamber views for the ventricle and hypertrophy."
    )


def table(usual: Curve, curves: Sequence[Curve], *, hardest_only: bool) -> list[str]:
    """Give a row a level, or a row a curve with the level that costs views most."""
    lines = [
        "| what | level | " + " | ".join(METRICS.values()) + " |",
        "|---|---|" + "---|" * len(METRICS),
        _row(usual.title, "", usual.points[0]),
    ]
    for curve in curves:
        points = list(curve.points)
        if hardest_only:
            points = [min(points, key=lambda point: point.metrics["view_accuracy"].value)]
        lines += [_row(curve.title, f"{point.level:g} {curve.unit}".strip(), point) for point in points]
    return lines


def _row(title: str, level: str, point: Point) -> str:
    cells = []
    for name in METRICS:
        interval = point.metrics[name]
        cell = f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        if name == "lv_dice":
            cell += f", mask alone {interval.control:.2f}"
        cells.append(cell)
    return f"| {title} | {level} | {' | '.join(cells)} |"


def _draw(usual: Point, curves: Sequence[Curve], path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only reports draw

    rows = -(-len(curves) // _PANELS_A_ROW)
    figure = Figure(figsize=(3.1 * _PANELS_A_ROW, 2.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, _PANELS_A_ROW, sharey=True, squeeze=False).ravel()
    for axes, curve in zip(panels, curves, strict=False):
        _draw_curve(axes, usual, curve)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(METRICS), fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_curve(axes: "Axes", usual: Point, curve: Curve) -> None:
    low, high = curve.trained
    points = list(curve.points)
    if low == high:  # one level is training's own: that of the usual scans
        points = sorted([*points, Point(level=low, metrics=usual.metrics)], key=lambda point: point.level)
        axes.axvline(low, color="#888888", linestyle=":", linewidth=1)
    else:
        axes.axvspan(low, high, color="#dddddd", linewidth=0)
    levels = [point.level for point in points]
    for (name, label), colour in zip(METRICS.items(), _COLOURS, strict=True):
        intervals = [point.metrics[name] for point in points]
        values = np.array([(interval.value, interval.low, interval.high) for interval in intervals]).T
        axes.plot(levels, values[0], "o-", color=colour, label=label, markersize=3, linewidth=1.2)
        axes.fill_between(levels, values[1], values[2], color=colour, alpha=0.15, linewidth=0)
    axes.set_title(curve.title, fontsize=9)
    axes.set_xlabel(curve.unit, fontsize=8)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=7)
