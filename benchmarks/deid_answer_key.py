"""Score the de-identification on planted patients, and write the report.

Public ultrasound files get made-up patients in every corner (see `tests/answer_key.py`), go through spool,
worker and archive like anything a PACS sends, and every planted thing is looked up in what comes out.

    python -m benchmarks.deid_answer_key [--quick] [--subjects N] [--frames N] [--seed N] [--report FILE]
"""

import argparse
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import structlog

from beam_jobs.deid.ocr import find_ocr
from beam_jobs.quiet_beam import quiet_beam
from tests.answer_key import Rule, planted_studies
from tests.answer_key_score import Score, run, score

BASES = ("made", "apical", "parasternal")
REPORT = Path(__file__).parents[1] / "docs" / "reports" / "deid-answer-key.md"

INTRODUCTION = """\
Made-up patients planted into public ultrasound and one made file, sent through spool, worker and
de-identified archive; every planted thing looked up in what came out. The ten actions are those of the
MIDI-B challenge; the files, the plants and the scorer are this project's own, so the number cannot be
compared with the challenge's."""


def report(result: Score, counts: dict[str, int], command: str) -> str:
    """Write the result as a page."""
    asked, passed = sum(result.asked.values()), sum(result.passed.values())
    lines = [
        "# De-identification by the answer key",
        "",
        f"<!-- Written by `{command}`. -->",
        "",
        INTRODUCTION,
        "",
        (
            f"**{passed} of {asked} answers met: {result.ratio:.2%}**, over {result.instances} instances "
            f"({', '.join(f'{count} studies {state}' for state, count in counts.items())}). "
            f"OCR: {'tesseract' if find_ocr('auto') else 'not installed, so none was used'}."
        ),
        "",
        "| action | asked | met | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{rule}` | {result.asked[rule]} | {result.passed[rule]} "
        f"| {result.passed[rule] / max(result.asked[rule], 1):.2%} |"
        for rule in Rule
    ]
    lines += ["", "Text burned into frames:", "", "| where | hidden | seen |", "|---|---|---|"]
    for where in sorted({where for where, _ in result.by_where}):
        lines.append(f"| {where} | {result.by_where[where, True]} | {result.by_where[where, False]} |")
    lines += ["", "## Misses", ""]
    misses = Counter(result.misses)
    lines += [
        f"- {count} times {miss.base}, `{miss.rule}`, {miss.place}: {miss.why}"
        for miss, count in sorted(misses.items())
    ] or ["None."]
    lines += [
        "",
        "## How it was made",
        "",
        f"`{command}` at commit `{_commit()}`, on 2 cores with 24 GiB. Bases: {', '.join(BASES)}.",
        "",
    ]
    return "\n".join(lines)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one subject, few frames, and no report written")
    parser.add_argument("--subjects", type=int, default=7, help="subjects, of two studies each")
    parser.add_argument("--frames", type=int, default=12, help="most frames of a clip")
    parser.add_argument("--seed", type=int, default=1, help="seed of the made-up patients")
    parser.add_argument("--report", type=Path, default=REPORT, help="file of the report")
    options = parser.parse_args()
    subjects, frames = (1, 4) if options.quick else (options.subjects, options.frames)
    quiet_beam()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder:
        planted = planted_studies(BASES, subjects=subjects, most_frames=frames, seed=options.seed)
        studies, counts = run(planted, Path(folder))
        result = score(studies, Path(folder) / "deid_archive")
    command = (
        f"python -m benchmarks.deid_answer_key --subjects {subjects} --frames {frames} --seed {options.seed}"
    )
    page = report(result, counts, command)
    print(page)
    if not options.quick:
        options.report.parent.mkdir(exist_ok=True)
        options.report.write_text(page)


if __name__ == "__main__":
    main()
