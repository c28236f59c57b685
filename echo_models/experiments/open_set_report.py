"""What a view classifier turns away, as a page of Markdown with pictures."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from echo_models.experiments.open_set import ARM, NAME, Outcome
from echo_models.experiments.report import copy_results, provenance
from echo_models.foreign import FOREIGN_KINDS, render_foreign
from echo_models.manifest import Interval

CAPTION: Final = "Synthetic frames; 95 % intervals by bootstrap over subjects, of foreign frames over frames."
_HALF: Final = len(FOREIGN_KINDS) // 2
_TEXT: Final = """\
Known frames are scans of {subjects} phantom subjects in all fifteen views, whom neither training nor
calibration has seen. Foreign frames are {foreign} of each kind that echo_models/foreign.py draws: other
organs and transoesophageal planes scanned by the phantom's own machine, a probe in air, a test object, and
screens without a scan. No foreign frame was used to choose a threshold. All go through the field-of-view
network first, as in the worker. All are synthetic: real frames of other organs differ from these, and from
each other."""


def write_open_set_report(folder: Path, into: Path | None = None, *, command: str) -> Path:
    """Write `open-set.md`, its pictures, and a copy of the result that it tells of.

    Args:
        folder: of the result.
        into: where they go; None for `<folder>/report`.
        command: that made it.

    Returns:
        The page.

    Raises:
        TrainingError: if the folder has no such result.
    """
    outcome = Outcome.read(folder / f"{ARM}.json")
    into = into or folder / "report"
    copy_results(folder, into / NAME)
    curve, kinds = into / f"{NAME}.png", into / f"{NAME}-kinds.png"
    _draw_curve(outcome, curve)
    _draw_kinds(kinds)
    plan = outcome.data["plan"]
    lines = [
        "# What the view classifier does not know",
        "",
        *provenance(outcome, command),
        f"Bundle: `{outcome.bundle}`, whose threshold is to keep {outcome.target:.0%} of known frames.",
        "",
        _TEXT.format(subjects=plan["measured"], foreign=plan["foreign"]),
        "",
        "## Kept and turned away",
        "",
        *_certainty_table(outcome),
        "",
        *_kind_table(outcome),
        "",
        f"![Accuracy of what is kept, and foreign frames turned away, by coverage]({curve.name})",
        "",
        CAPTION,
        "",
        f"![Four frames of each kind]({kinds.name})",
        "",
        f"Four of each foreign kind, synthetic: at the left, from the top, {_list(FOREIGN_KINDS[:_HALF])};",
        f"at the right {_list(FOREIGN_KINDS[_HALF:])}.",
        "",
        "## Which score",
        "",
        f"Each fitted on {plan['fitted']} other subjects, to keep {outcome.target:.0%} of their frames.",
        "",
        *_score_table(outcome),
        "",
    ]
    page = into / f"{NAME}.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def _list(kinds: tuple[str, ...]) -> str:
    return ", ".join(kinds).replace("_", " ")


def _certainty_table(outcome: Outcome) -> list[str]:
    lines = ["| measure | scans as in training | artefacts half as strong again |", "|---|---|---|"]
    for name, title in (
        ("coverage", "known frames kept"),
        ("accuracy", "accuracy of all"),
        ("accuracy_of_known", "accuracy of what is kept"),
        ("calibration_error_uncalibrated", "calibration error, not calibrated"),
        ("calibration_error", "calibration error"),
        ("cross_entropy_uncalibrated", "cross-entropy, not calibrated"),
        ("cross_entropy", "cross-entropy"),
    ):
        cells = [_words(metrics.get(name)) for metrics in (outcome.known, outcome.harder)]
        lines.append(f"| {title} | {cells[0]} | {cells[1]} |")
    return lines


def _kind_table(outcome: Outcome) -> list[str]:
    lines = ["| foreign kind | turned away | the rest is mostly called |", "|---|---|---|"]
    for kind, interval in outcome.rejected.items():
        lines.append(f"| {kind.replace('_', ' ')} | {_words(interval)} | {outcome.named[kind] or '-'} |")
    mean = np.mean([interval.value for interval in outcome.rejected.values()])
    return [*lines, f"| mean of the kinds | {mean:.3f} | |"]


def _score_table(outcome: Outcome) -> list[str]:
    lines = [
        "| score | known frames kept | accuracy of those | turned away, mean of kinds | area under ROC |",
        "|---|---|---|---|---|",
    ]
    for score in outcome.scores:
        away = np.mean([interval.value for interval in score.rejected.values()])
        cells = (
            score.name,
            _words(score.coverage),
            _words(score.accuracy),
            f"{away:.3f}",
            f"{score.area:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _words(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f}, n = {interval.n})"


def _draw_curve(outcome: Outcome, path: Path) -> None:
    figure = _figure(11, 4)
    left, right = figure.subplots(1, 2)
    coverage, accuracy, away = np.array(outcome.curve).T
    left.plot(coverage, accuracy, "o-", color="#4477aa", label="accuracy of known frames that are kept")
    left.plot(coverage, away, "s-", color="#cc3311", label="foreign frames turned away, mean of kinds")
    left.axvline(outcome.target, color="#888888", linestyle=":")
    left.set_xlabel("share of known synthetic frames that are kept")
    left.set_ylim(0, 1.02)
    left.legend(loc="lower left", fontsize=8)
    names = [kind.replace("_", " ") for kind in outcome.rejected]
    values = np.array([[it.value, it.value - it.low, it.high - it.value] for it in outcome.rejected.values()])
    right.barh(np.arange(len(names)), values[:, 0], xerr=values[:, 1:].T.clip(0), color="#cc3311", capsize=3)
    right.set_yticks(np.arange(len(names)), names)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("share of synthetic foreign frames turned away")
    figure.savefig(path, dpi=110)


def _draw_kinds(path: Path) -> None:
    rows = [
        np.hstack([render_foreign(kind, seed=number).frame for number in range(4)]) for kind in FOREIGN_KINDS
    ]
    sheet = np.hstack([np.vstack(rows[:_HALF]), np.vstack(rows[_HALF:])])
    figure = _figure(sheet.shape[1] / 110, sheet.shape[0] / 110)
    figure.figimage(sheet, cmap="gray", vmin=0, vmax=255)
    figure.savefig(path, dpi=110)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only reports draw

    return Figure(figsize=(width, height), layout="constrained")
