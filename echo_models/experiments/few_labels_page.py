"""Parts that pages of experiments with few labels are made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from echo_models.errors import TrainingError
from echo_models.experiments.few_labels import THERE
from echo_models.experiments.methods import METHODS
from echo_models.experiments.report import copy_results, provenance
from echo_models.experiments.results import Result, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = dict(zip(METHODS, ("#222222", "#228833", "#4477aa", "#cc3311", "#ee8866"), strict=True))
"""Of each method, in pictures."""

_FAIR: Final = """\
Every method has the same network, frames in the same order, augmentation, batch size, optimizer and number of
steps, and is measured with the same moving average of its weights. Nothing was chosen by a test frame, and
training ends where its schedule does."""
_CAPTION: Final = "Synthetic frames of the phantom; 95 % intervals by bootstrap over test subjects."
_LIMITS: Final = """\
Intervals are those of the test subjects alone: another draw of labels or of first weights (`--seed`) moves
the numbers too. Nothing here says how well it does on a patient."""


def opened(folder: Path, into: Path | None) -> tuple[list[Result], Path]:
    """Read the results of a folder, and copy them to where their page goes.

    Raises:
        TrainingError: if there is none.
    """
    results = read_results(folder)
    if not results:
        raise TrainingError(f"{folder} must hold results of `echobeam experiment`; it has none")
    into = into or folder / "report"
    copy_results(folder, into / results[0].experiment)
    return results, into


def write_page(
    into: Path, title: str, results: Sequence[Result], command: str, blocks: Sequence[str]
) -> Path:
    """Write a page: title, where the numbers come from, what they do not say, then the blocks."""
    first = results[0]
    page = into / f"{first.experiment}.md"
    head = [f"# {title}", "", *provenance(first, command), *_frames_of(results), "", _FAIR, "", _LIMITS, ""]
    page.write_text("\n".join([*head, *blocks]).rstrip() + "\n", encoding="utf-8")
    return page


def _frames_of(results: Sequence[Result]) -> list[str]:
    """Say whose frames were used; the sites of several archives are in the table."""
    data = results[0].data
    frames, plan = data["frames"], data["plan"]
    sites = dict.fromkeys(f"`{result.data['plan']['archive_site']}`" for result in results)
    return [
        (
            f"Data: synthetic frames of phantom subjects, nobody in two sets: {frames['labeled']} frames of "
            f"{plan['labeled']} subjects of the site `{plan['site']}` have labels to draw from, "
            f"{frames['archive']} of {plan['archive']} subjects of {' or '.join(sites)} "
            f"have none, and {frames['home']} of {plan['test']} others are the test, scanned at either site. "
            f"Network: {_network_of(results[0])}."
        )
    ]


def _network_of(result: Result) -> str:
    """Say how large the network is and how long it learned."""
    members = max((int(entry.get("member", 1)) for entry in result.log), default=1)
    epochs = result.epochs // members
    each = f"{members} members of " if members > 1 else ""
    return f"{each}{result.parameters // members:,} parameters, {epochs} epochs each"


def exams_of(result: Result) -> tuple[tuple[str, str], tuple[str, str]]:
    """Give the prefix and the words of each exam."""
    plan = result.data["plan"]
    home, there = f"the labeled site (`{plan['site']}`)", f"the archive's site (`{plan['archive_site']}`)"
    return ("", home), (THERE, there)


def best_of(results: Sequence[Result | None], prefix: str) -> float:
    """Give the best accuracy of an exam among these arms."""
    return max(result.metrics[f"{prefix}accuracy"].value for result in results if result is not None)


def cell(result: Result | None, name: str, best: float | None = None) -> str:
    """Give a value with its interval, in bold if it is the best."""
    if result is None or name not in result.metrics:
        return "-"
    interval = result.metrics[name]
    value = f"{interval.value:.2f}"
    value = f"**{value}**" if interval.value == best else value
    return f"{value} ({interval.low:.2f} to {interval.high:.2f})"


def heads_of(names: Sequence[str]) -> list[str]:
    """Begin a table."""
    return [row_of([name.replace("_", " ") for name in names]), "|" + "---|" * len(names)]


def row_of(cells: Sequence[str]) -> str:
    """Give a row of a table."""
    return "| " + " | ".join(cells) + " |"


def picture_of(path: Path, what: str) -> str:
    """Show a picture with its caption."""
    return f"![{what}]({path.name})\n\n{what}. {_CAPTION}\n"


def errors_of(results: Sequence[Result], name: str) -> tuple[Any, Any]:
    """Give values [N] and the distances [2, N] to the ends of their intervals."""
    intervals = [result.metrics[name] for result in results]
    values = np.array([interval.value for interval in intervals])
    ends = np.array([[interval.low for interval in intervals], [interval.high for interval in intervals]])
    return values, np.clip([values - ends[0], ends[1] - values], 0, None)


def figure_of(width: float, height: float) -> "Figure":
    """Begin a picture; inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only reports draw

    return Figure(figsize=(width, height), layout="constrained")
