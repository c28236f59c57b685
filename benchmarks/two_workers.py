"""Frames a second of two `echobeam work` processes on one ledger, one core each, beside one of them.

Three programs stay up: one alone on a ledger of its own, and two that share another. Each may use one core
and one thread; the lone one has the first core. In each round the lone one gets so many studies, the two
twice as many, in turn; who has no studies only looks whether there are any. What is told is the studies done
a second, two over one.

    python -m benchmarks.two_workers [--quick] [--json]
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.live import live_archive, seconds_for, working
from benchmarks.rounds import Aim, Row, parser_of, quietly, ratios, tell, values_in_turn

MEASURED: Final = "two `echobeam work` on one ledger, one core each, frames a second"
AGAINST: Final = "one, on one core"
SETTINGS: Final = ("threads = 1", "batch_size = 16", "studies_per_batch = 2")
"""Nothing is left to be tried out at the start. Small batches: the two end at nearly the same time."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        studies: of a round of the one; the two get twice as many.
    """

    studies: int
    frames_per_clip: int
    rounds: int
    is_toy: bool = False


QUICK: Final = Size(studies=2, frames_per_clip=4, rounds=1, is_toy=True)
FULL: Final = Size(studies=16, frames_per_clip=24, rounds=5)


def measure(size: Size) -> Row:
    """Run the one and the two, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Row(MEASURED, AGAINST, None, aim=Aim(1.8), note="not available: this process may use one core")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                live_archive(is_toy=size.is_toy, frames_per_clip=size.frames_per_clip, settings=SETTINGS)
            )
            for _ in range(2)
        )
        stack.enter_context(working(one, core=cores[0]))
        for core in cores[:2]:
            stack.enter_context(working(two, core=core, name=f"work-{core}"))
        rates = values_in_turn(
            {
                "one": lambda: size.studies / seconds_for(one, size.studies),
                "two": lambda: 2 * size.studies / seconds_for(two, 2 * size.studies),
            },
            size.rounds,
        )
        one.require_all_done()
        two.require_all_done()
    note = f"{size.studies} and {2 * size.studies} studies, {size.rounds} rounds"
    return Row(MEASURED, AGAINST, ratios(rates["two"], rates["one"]), aim=Aim(1.8), note=note)


def main() -> None:
    """Measure and tell."""
    options = parser_of(__doc__).parse_args()
    quietly()
    tell([measure(QUICK if options.quick else FULL)], options)


if __name__ == "__main__":
    main()
