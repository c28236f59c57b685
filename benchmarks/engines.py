"""Frames a second on an engine, unbounded, beside the in-process driver.

Both run as programs that stay up, each on a folder of its own: `echobeam work`, and `echobeam work --runner`
with Prism and a pool of one worker process. In each round the same studies become complete in the one ledger
and then in the other; what is told is how long until the last was done. The other meanwhile only looks
whether there is work. Both look at the ledger ten times a second.

Prism must be on PATH: see tests/prism.py.

    python -m benchmarks.engines [--quick] [--json]
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.archive import VIEWS_SHOWN, Archive
from benchmarks.live import live_archive, seconds_for, working
from benchmarks.rounds import Aim, Row, parser_of, quietly, ratios, tell, values_in_turn
from benchmarks.services import ENVIRONMENT
from tests.prism import MODULE, find_prism, running, start_pool, start_prism

MEASURED: Final = "unbounded on Prism, frames a second"
AGAINST: Final = "the in-process driver"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    studies: int
    frames_per_clip: int
    rounds: int
    is_toy: bool = False


QUICK: Final = Size(studies=2, frames_per_clip=4, rounds=1, is_toy=True)
FULL: Final = Size(studies=8, frames_per_clip=48, rounds=5)


@contextmanager
def on_prism(archive: Archive, prism: str) -> Iterator[None]:
    """Run Prism, a pool and the driver for the block."""
    root = archive.settings.root
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    with ExitStack() as stack:
        engine = start_prism(prism, log=root / "prism.log")
        stack.enter_context(running(engine))
        pool = start_pool(elsewhere, log=root / "pool.log", environment=ENVIRONMENT)
        stack.enter_context(running(pool))
        options = (
            *("--runner", "PortableRunner", "--", f"--job_endpoint={engine.endpoint}"),
            *("--environment_type=EXTERNAL", f"--environment_config={pool.endpoint}"),
        )
        stack.enter_context(working(archive, *options, name="driver"))
        yield


def measure(size: Size) -> Row:
    """Run both, in turn."""
    prism = find_prism()
    if prism is None:
        return Row(MEASURED, AGAINST, None, aim=Aim(0.95), note=f"Prism is not on PATH: go install {MODULE}")
    with ExitStack() as stack:
        ours, engine = (
            stack.enter_context(live_archive(is_toy=size.is_toy, frames_per_clip=size.frames_per_clip))
            for _ in range(2)
        )
        stack.enter_context(working(ours))
        stack.enter_context(on_prism(engine, prism))
        times = values_in_turn(
            {
                "ours": lambda: seconds_for(ours, size.studies),
                "engine": lambda: seconds_for(engine, size.studies),
            },
            size.rounds,
        )
        for archive in (ours, engine):
            archive.require_all_done()
    frames = size.studies * len(VIEWS_SHOWN) * size.frames_per_clip
    what = "tiny clips and nearly free models" if size.is_toy else f"{frames} frames"
    note = f"{size.studies} studies, {what}, {size.rounds} rounds"
    return Row(MEASURED, AGAINST, ratios(times["ours"], times["engine"]), aim=Aim(0.95), note=note)


def main() -> None:
    """Measure and tell."""
    options = parser_of(__doc__).parse_args()
    quietly()
    tell([measure(QUICK if options.quick else FULL)], options)


if __name__ == "__main__":
    main()
