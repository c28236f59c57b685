"""The page of all that was measured, out of the files that the runs left and the bundles that ship."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from echo_models.experiments.report import CAPTION, TITLES, class_table, provenance, table
from echo_models.experiments.results import Record, Result, files_of, read_results
from echo_models.experiments.severity_report import read_curves
from echo_models.experiments.severity_report import table as severity_table
from echo_models.manifest import Interval, Manifest, read_manifest

_HEAD: Final = """\
# What was measured

Every number of ours on this page comes from a file that a run left in [reports/](reports), or from the
manifest of a bundle that ships. Every frame is synthetic: drawn by the phantom, none of a patient. So the
tables compare networks with each other, and say nothing about how well one does on a patient. The paper's
numbers were measured on its own patients' frames, which are not public; they stand beside ours to compare
the order of the arms, not their height.
"""

# Accuracy in percent, on validation frames in Table 1, on test frames in Tables 2 and 3.
_PAPER: Final = {
    "resolution": {
        "240x320": "87.92 ± 0.06",
        "120x160": "87.82 ± 0.02",
        "60x80": "87.04 ± 0.05",
        "30x40": "82.30 ± 0.01",
    },
    "views": {
        "plain": "92.05 ± 0.72",
        "masked": "93.64 ± 0.61",
        "ensemble": "94.40 ± 0.52",
        "resnet50": "91.36 ± 1.43",
        "vgg16": "83.67 ± 2.68",
    },
    "lvh": {
        "whole_stage1": "84.07 ± 1.23",
        "whole_stage2": "87.91 ± 0.57",
        "segmented_stage1": "81.32 ± 0.98",
        "segmented_stage2": "91.21 ± 0.41",
        "random_stage2": "failed to learn",
    },
}
_SEVERITY: Final = "severity"


def science_page(reports: Path, bundles: Path) -> str:
    """Write the page.

    Args:
        reports: the folder of reports: `<experiment>.md`, and `<experiment>/` with the files of its results.
        bundles: the bundles that ship: `<task>/<version>/`.
    """
    parts = [_HEAD, *_bundle_section(bundles)]
    for experiment in _PAPER:
        if files_of(reports / experiment):
            parts += _section(experiment, read_results(reports / experiment))
    if files_of(reports / _SEVERITY):
        parts += _severity_section(reports / _SEVERITY)
    parts += _others(reports)
    return "\n".join(parts)


def _bundle_section(bundles: Path) -> Iterator[str]:
    """Give what ships, by the manifests."""
    yield "## The models that ship\n"
    yield "| bundle | measured | on synthetic frames | n | what a fixed answer has |"
    yield "|---|---|---|---|---|"
    for folder in sorted(path.parent for path in bundles.glob("*/*/bundle.json")):
        yield from _bundle_rows(read_manifest(folder))
    yield ""
    yield f"{CAPTION} Each bundle's card says more: how it was trained, and where it fails.\n"


def _bundle_rows(manifest: Manifest) -> Iterator[str]:
    for name, interval in manifest.metrics.items():
        if not name.startswith("recall_"):
            control = "" if interval.control is None else f"{interval.control:.3f}"
            what = name.replace("_", " ")
            yield f"| `{manifest.name}` | {what} | {_words(interval)} | {interval.n} | {control} |"


def _words(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _section(experiment: str, results: Sequence[Result]) -> Iterator[str]:
    """Give one of the paper's comparisons, with the paper's accuracies in its last column."""
    yield f"## {TITLES[experiment]}\n"
    yield from provenance(results[0], _command(results[0]))
    yield f"Pictures: [reports/{experiment}.md](reports/{experiment}.md).\n"
    heading, rule, *rows = table(results)
    yield f"{heading} the paper's accuracy, % |"
    yield f"{rule}---|"
    for result, row in zip(results, rows, strict=True):
        yield f"{row} {_PAPER[experiment].get(result.arm, '-')} |"
    yield ""
    yield f"{CAPTION}\n"
    if by_class := class_table(results):
        yield from by_class
        yield ""
        yield f"Share found of each view. {CAPTION}\n"


def _severity_section(folder: Path) -> Iterator[str]:
    usual, curves = read_curves(folder)
    yield "## Harder scans\n"
    yield from provenance(usual, _command(usual))
    yield (
        "Of each curve the level that costs the view most; whole curves: "
        f"[reports/{_SEVERITY}.md](reports/{_SEVERITY}.md).\n"
    )
    yield from severity_table(usual, curves, hardest_only=True)
    yield ""
    yield f"{CAPTION}\n"


def _command(record: Record) -> str:
    return f"echobeam experiment {record.experiment} --size {record.size} --seed {record.seed}"


def _others(reports: Path) -> Iterator[str]:
    """Name the reports of experiments that have no section here."""
    shown = {*_PAPER, _SEVERITY}
    pages = [path for path in sorted(reports.glob("*.md")) if (reports / path.stem).is_dir()]
    pages = [page for page in pages if page.stem not in shown]
    if pages:
        yield "## More experiments\n"
    for page in pages:
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield f"- [{title}](reports/{page.name})"
    if pages:
        yield ""
