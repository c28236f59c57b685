"""What the benchmarks of one machine share: rounds in turn, ratios with their spread, and how they are told.

Whatever is compared runs in turn, round after round, in an order that is turned around every other round, so
that a machine that slows down, or is busy for a while, slows all of it. A ratio is taken within each round;
what is told is the median of the rounds, with the least and the most.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeVar

import structlog

from beam_jobs.quiet_beam import quiet_beam

Value = TypeVar("Value")

HEAD: Final = "| measured | against | median | least to most | aim | met | |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Spread:
    """What a number was over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Tell the median and the ends of some values.

        Raises:
            ValueError: if there is none.
        """
        found = list(values)
        if not found:
            raise ValueError("a spread needs at least one value; received none")
        return cls(statistics.median(found), min(found), max(found))


@dataclass(frozen=True, slots=True)
class Aim:
    """What is hoped of a number: at least this, or at most."""

    value: float
    is_least: bool = True

    def is_met(self, value: float) -> bool:
        """Say whether a number is as hoped."""
        return value >= self.value if self.is_least else value <= self.value


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured.

    Attributes:
        measured: what.
        against: beside what.
        value: None if it cannot be measured here; then `note` says why.
        unit: empty for a ratio.
        note: sizes, and what else a reader must know.
    """

    measured: str
    against: str
    value: Spread | None
    unit: str = ""
    aim: Aim | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median is as hoped; None if nothing is hoped for, or nothing was measured."""
        return None if self.aim is None or self.value is None else self.aim.is_met(self.value.median)

    def as_markdown(self) -> str:
        """Show it as a row of a table."""
        value = "not measured" if self.value is None else _number(self.value.median, self.unit)
        ends = "" if self.value is None else f"{_number(self.value.least)} to {_number(self.value.most)}"
        aim = "" if self.aim is None else f"{'≥' if self.aim.is_least else '≤'} {_number(self.aim.value)}"
        met = {None: "", True: "yes", False: "no"}[self.is_met]
        return f"| {self.measured} | {self.against} | {value} | {ends} | {aim} | {met} | {self.note} |"

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read what `--json` prints."""
        spread, aim = found["value"], found["aim"]
        return cls(
            measured=found["measured"],
            against=found["against"],
            value=Spread(**spread) if spread else None,
            unit=found["unit"],
            aim=Aim(**aim) if aim else None,
            note=found["note"],
        )


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    before: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each way once a round, after one that warms up and is not told.

    Args:
        ways: by name.
        rounds: how many are told.
        before: what a round begins with, not timed.
        clock: gives seconds.

    Returns:
        the seconds of each way, by round.
    """

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            begun = clock()
            work()
            return clock() - begun

        return run

    return values_in_turn({name: timed(way) for name, way in ways.items()}, rounds, before=before)


def values_in_turn(
    ways: Mapping[str, Callable[[], Value]],
    rounds: int,
    *,
    before: Callable[[], object] = lambda: None,
    warms_up: bool = True,
) -> dict[str, list[Value]]:
    """Ask each way once a round for what it measured itself; like `in_turn` else.

    Args:
        ways: by name.
        rounds: how many are told.
        before: what a round begins with.
        warms_up: whether there is one more round, before the others.
    """
    values: dict[str, list[Value]] = {name: [] for name in ways}
    names, first = list(ways), 0 if warms_up else 1
    for number in range(first, rounds + 1):
        before()
        for name in names if number % 2 else reversed(names):
            value = ways[name]()
            if number:
                values[name].append(value)
        print(f"\r{number} of {rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return values


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Divide round by round.

    Raises:
        ValueError: if there are not as many of either, or none.
    """
    return Spread.of(above / below for above, below in zip(over, under, strict=True))


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and few rounds: shows that it works")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def tell(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the table, or JSON."""
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print("\n".join([HEAD, *(row.as_markdown() for row in rows)]))


def quietly() -> None:
    """Keep Beam and the worker from saying more than warnings."""
    quiet_beam()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def commit() -> str:
    """Name the commit that is checked out; "unknown" where there is none."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - found on PATH
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


def _number(value: float, unit: str = "") -> str:
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()
