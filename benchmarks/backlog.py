"""Whether a study costs the same however many wait, and a frame however long its clip; and the memory.

Backlogs: so many studies wait in the ledger, and a worker takes them batch after batch until none is left;
the small backlogs are filled again until as many studies were done as a hundred. Clips are tiny and the
models nearly free: what could grow with a backlog is ledger, claims and files. Each backlog has a ledger and
a folder of its own. A study's cost is the worker's time over the studies done.

Clips: studies of the same number of frames in many short clips, or in one long one, of the size that
machines send, with the bundles that ship. A frame's cost is the worker's time over the frames.

Memory is the most that was resident during a size, over that of the smallest, in the same process.

    python -m benchmarks.backlog [--quick] [--json] [--ten-thousand]
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from time import perf_counter

from beam_jobs.worker import Worker
from benchmarks.archive import AT_ONCE, Archive, looped_archive, toy_archive
from benchmarks.rounds import Aim, Row, parser_of, quietly, ratios, tell, values_in_turn

AT_LEAST: Final = 100
"""Studies that the cost of each backlog is told from."""

STUDIES_PER_BATCH: Final = 10
WITHIN: Final = Aim(1.10, is_least=False)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        backlogs: studies that wait.
        clips: number and length of the clips of a study, the shortest first.
    """

    backlogs: tuple[int, ...]
    at_least: int
    clips: tuple[tuple[int, int], ...]
    rounds: int


QUICK: Final = Size(backlogs=(10, 20), at_least=20, clips=((4, 10), (1, 40)), rounds=1)
FULL: Final = Size(
    backlogs=(10, 100, 1000), at_least=AT_LEAST, clips=((100, 10), (10, 100), (1, 1000)), rounds=5
)
TEN_THOUSAND: Final = 10_000


class Cost(NamedTuple):
    """What a size cost in one round: seconds a study or a frame, and the most resident memory."""

    seconds: float
    peak_bytes: float


def peak_of(work: Callable[[], object]) -> float:
    """Give the most memory that was resident while something ran.

    Linux forgets an earlier peak on request (proc(5), clear_refs).
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    work()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError("expected Linux to tell the peak of resident memory as VmHWM; it does not")


def cost_of_backlog(waiting: int, at_least: int) -> Cost:
    """Let a worker do a backlog in a new archive, again and again until enough studies are done."""
    with (
        toy_archive(clips=2, frames_per_clip=4, studies_per_batch=STUDIES_PER_BATCH) as archive,
        Worker(archive.settings, AT_ONCE) as worker,
    ):
        archive.receive(STUDIES_PER_BATCH)
        worker.run(once=True)  # warms up
        spent = 0.0

        def work() -> None:
            nonlocal spent
            while archive.received < STUDIES_PER_BATCH + max(waiting, at_least):
                archive.receive(waiting)
                begun = perf_counter()
                worker.run(once=True)
                spent += perf_counter() - begun

        peak = peak_of(work)
        archive.require_all_done()
        return Cost(spent / (archive.received - STUDIES_PER_BATCH), peak)


def backlog_rows(size: Size) -> Iterator[Row]:
    """Compare the larger backlogs with the smallest."""
    costs = values_in_turn(
        {f"{waiting:,}": partial(cost_of_backlog, waiting, size.at_least) for waiting in size.backlogs},
        size.rounds,
        warms_up=False,
    )
    least, *others = costs
    for waiting in others:
        yield from _rows(
            f"a study, {waiting} waiting", f"{least} waiting", costs[waiting], costs[least], size.rounds
        )


def clip_rows(size: Size) -> Iterator[Row]:
    """Compare the longer clips with the shortest."""
    with ExitStack() as stack:

        def way(clips: int, length: int) -> tuple[Archive, Callable[[], Cost]]:
            archive = stack.enter_context(looped_archive(clips=clips, frames_per_clip=length))
            worker = stack.enter_context(Worker(archive.settings, AT_ONCE))

            def cost() -> Cost:
                begun = perf_counter()
                peak = peak_of(lambda: worker.run(once=True))
                return Cost((perf_counter() - begun) / (clips * length), peak)

            return archive, cost

        ways = {f"{length:,}": way(clips, length) for clips, length in size.clips}
        archives = [archive for archive, _ in ways.values()]

        def receive() -> None:
            for archive in archives:
                archive.receive(1)

        costs = values_in_turn(
            {length: cost for length, (_, cost) in ways.items()},
            size.rounds,
            before=receive,
        )
        for archive in archives:
            archive.require_all_done()
    shortest, *others = costs
    for length in others:
        yield from _rows(
            f"a frame, clips of {length}",
            f"clips of {shortest}",
            costs[length],
            costs[shortest],
            size.rounds,
        )


def _rows(
    measured: str, against: str, costs: Sequence[Cost], first: Sequence[Cost], rounds: int
) -> Iterator[Row]:
    for what, over, under in (
        ("cost of", [cost.seconds for cost in costs], [cost.seconds for cost in first]),
        ("resident memory of", [cost.peak_bytes for cost in costs], [cost.peak_bytes for cost in first]),
    ):
        yield Row(f"{what} {measured}", against, ratios(over, under), aim=WITHIN, note=f"{rounds} rounds")


def main() -> None:
    """Measure and tell."""
    parser = parser_of(__doc__)
    parser.add_argument("--ten-thousand", action="store_true", help="one round with a backlog of 10,000 too")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    quietly()
    rows = [*backlog_rows(size), *clip_rows(size)]
    if options.ten_thousand:
        rows += backlog_rows(Size((10, TEN_THOUSAND), AT_LEAST, (), rounds=1))
    tell(rows, options)


if __name__ == "__main__":
    main()
