"""How long from the last instance of a study to a row that an analyst can query.

`echobeam listen` and `echobeam work` run as they are installed, with every setting at its default but the
quiet period, which is short and taken off. A phantom's study is sent over one association; the clock starts
when its last instance is answered. The ledger is looked at all the while, and once it says done the results
are asked in SQL until the study's rows are there. What is told: the whole, how much of it nobody worked at
the study (waiting to be seen as complete, and to be claimed), how long the worker had it, and how long until
the rows were read.

    python -m benchmarks.latency [--quick] [--json]
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import AE
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from beam_jobs.phantom_studies import PhantomStudy
from beam_jobs.query import run_query
from benchmarks.archive import VIEWS_SHOWN
from benchmarks.rounds import Row, Spread, parser_of, quietly, ratios, tell
from benchmarks.services import announced, service, wait_until, write_configuration
from dicom_listener.ledger import Ledger

QUIET_S: Final = 2.0
_LOOK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Passage:
    """When a study passed what, in seconds since its last instance was answered.

    Attributes:
        claimed: by the worker; before that nobody worked at it, but for the quiet period.
        done: its tables are in place.
        read: its rows were read.
    """

    claimed: float
    done: float
    read: float


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    frames_per_clip: int
    rounds: int


QUICK: Final = Size(frames_per_clip=4, rounds=1)
FULL: Final = Size(frames_per_clip=48, rounds=9)


def send(paths: Sequence[Path], port: int) -> float:
    """Send files over one association; give the moment at which the last was answered.

    Raises:
        RuntimeError: if it, or an instance, is refused.
    """
    ae = AE(ae_title="LATENCY")
    ae.add_requested_context(UltrasoundMultiFrameImageStorage, JPEGBaseline8Bit)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    if not assoc.is_established:
        raise RuntimeError("the listener refused the association")
    for path in paths:
        status = int(assoc.send_c_store(dcmread(path)).Status)
        if status:
            raise RuntimeError(f"an instance was answered 0x{status:04X}")
    answered = time.monotonic()
    assoc.release()
    return answered


class Site:
    """Listener and worker over one folder.

    Args:
        root: its folder.
        port: of the listener.
        size: of the studies.
    """

    def __init__(self, root: Path, port: int, size: Size) -> None:
        self._root, self._port, self._size = root, port, size
        self._ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
        self._studies = 0

    def pass_one(self) -> Passage:
        """Send a study nobody has seen, and follow it until its rows are read."""
        study = PhantomStudy(
            seed=self._studies, frames_per_clip=self._size.frames_per_clip, views=VIEWS_SHOWN
        )
        self._studies += 1
        begun = send(list(study.write(self._root / "sent" / f"{self._studies}")), self._port)
        claimed = self._moment("claimed", "done")
        done = self._moment("done")
        rows = self._studies * len(VIEWS_SHOWN) * self._size.frames_per_clip
        wait_until(lambda: self._rows() == rows, "the rows", logs=self._root, look_s=_LOOK_S)
        return Passage(claimed - begun, done - begun, time.monotonic() - begun)

    def close(self) -> None:
        """Let go of the ledger."""
        self._ledger.close()

    def _moment(self, *states: str) -> float:
        """Wait until every study is in one of some states, none of which it leaves for another."""

        def came() -> bool:
            counts = self._ledger.counts_by_state()
            return sum(counts[state] for state in states) == self._studies

        wait_until(came, " or ".join(states), logs=self._root, look_s=_LOOK_S)
        return time.monotonic()

    def _rows(self) -> int:
        answer = run_query("SELECT count(*) FROM frames", self._root / "results")
        return int(answer.rows[0][0])


def measure(size: Size) -> list[Row]:
    """Follow studies, one after another; the first warms up."""
    with TemporaryDirectory(prefix="echobeam-latency-") as folder:
        root = Path(folder)
        write_configuration(root, {"listener": [f"quiet_period_s = {QUIET_S}"]})
        with service("listen", root, "--port", "0"), service("work", root):
            port = int(announced(root, "listener")["dicom_port"])
            announced(root, "worker")
            site = Site(root, port, size)
            passages = [site.pass_one() for _ in range(size.rounds + 1)][1:]
            site.close()
    return rows_of(passages, size)


def rows_of(passages: Sequence[Passage], size: Size) -> list[Row]:
    """Tell the passages."""
    note = f"{len(VIEWS_SHOWN)} clips of {size.frames_per_clip} frames, {len(passages)} rounds"
    whole = [passage.read - QUIET_S for passage in passages]
    worked = [passage.done - passage.claimed for passage in passages]
    parts = {
        "of it nobody at work, until seen as complete and claimed": [
            passage.claimed - QUIET_S for passage in passages
        ],
        "of it the worker's": worked,
        "of it until the rows were read": [passage.read - passage.done for passage in passages],
    }
    return [
        Row("last instance to a row an analyst can query", "", Spread.of(whole), "s", note=note),
        *(Row(name, "", Spread.of(values), "s", note=note) for name, values in parts.items()),
        Row(
            "last instance to a row an analyst can query",
            "the worker's time alone",
            ratios(whole, worked),
            note=note,
        ),
    ]


def main() -> None:
    """Measure and tell."""
    options = parser_of(__doc__).parse_args()
    quietly()
    tell(measure(QUICK if options.quick else FULL), options)


if __name__ == "__main__":
    main()
