"""Everything that one machine is measured by, one after another, as one table.

Each benchmark runs in a process of its own, so that none has another's memory or threads, and prints rows of
one form. The report is written anew after each, since all of them take long. The machine should do nothing
else meanwhile.

    python -m benchmarks.one_machine [--quick] [--json] [--only NAME ...]
    python -m benchmarks.one_machine --report docs/reports/one-machine.md --machine "2 cores, 24 GiB"
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.rounds import HEAD, Row, commit, parser_of, tell

BENCHMARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "pipeline": (),
    "paper_way": (),
    "bfloat16": (),
    "beam_cost": (),
    "backlog": ("--ten-thousand",),
    "latency": (),
    "engines": (),
    "two_workers": (),
    "training_steps": (),
}
"""By name, with what a whole run adds to a quick one."""

_HEAD: Final = """\
# One machine

What a study costs and where the time goes, against the bare limits. Each pair ran in turn, round after round;
a ratio is taken within a round. Studies are synthetic. What each row is, its benchmark tells at its top.

Command: `{command}`; commit {commit}; machine: {machine}.

"""


def run(name: str, *, quick: bool) -> list[Row]:
    """Run one benchmark in a process of its own.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    options = ("--quick",) if quick else BENCHMARKS[name]
    done = subprocess.run(  # noqa: S603 - a benchmark of ours
        [sys.executable, "-m", f"benchmarks.{name}", "--json", *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return rows_in(done.stdout)


def rows_in(printed: str) -> list[Row]:
    """Read what a benchmark printed; what a library said before it is passed over."""
    return [Row.from_json(found) for found in json.loads(printed[printed.index("[\n") :])]


def write_report(path: Path, rows: Sequence[Row], command: str, machine: str) -> None:
    """Write the table as a page."""
    head = _HEAD.format(command=command, commit=commit(), machine=machine)
    path.write_text(head + "\n".join([HEAD, *(row.as_markdown() for row in rows)]) + "\n", encoding="utf-8")


def main() -> None:
    """Run, tell and report."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), help="these alone")
    parser.add_argument("--report", type=Path, help="write the page to this file")
    parser.add_argument("--machine", default="not told", help="what it ran on, in words")
    options = parser.parse_args()
    words = " ".join(sys.argv[1:]).partition(" --machine")[0]
    rows: list[Row] = []
    for name in options.only or BENCHMARKS:
        print(name, file=sys.stderr)
        rows += run(name, quick=options.quick)
        if options.report is not None:
            command = f"python -m benchmarks.one_machine {words}"
            write_report(options.report, rows, command, options.machine)
    tell(rows, options)


if __name__ == "__main__":
    main()
