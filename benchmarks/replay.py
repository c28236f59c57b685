"""Replay a day of arrivals, faster, against a real listener, ledger and worker with toy models.

`echobeam listen` and `echobeam work` run as they are installed. Studies are sent to the listener at the
moments at which a department's exams end, mostly from 8 to 17 o'clock, all moments drawn from a seed and
divided by the speed; the quiet period and the pauses between looks are divided by it too. A study is one
association with small clips. The networks are toys, so what is measured is everything but decoding and
inference: queue, latency, and what the ledger has to do.

Latency is from the last instance on disk to the tables in place, in seconds of the clock, not of the day.
A ledger's transactions are those that write: on SQLite the counter of commits in the index of its log, on
PostgreSQL the transaction numbers given out.

    python -m benchmarks.replay [--studies 100] [--speed 100] [--seed 1] [--quick] [--json] [--report PATH]
"""

import argparse
import json
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from benchmarks.rounds import commit
from benchmarks.services import announced, service, wait_until, write_configuration
from dicom_listener.ledger import Ledger
from tests.bright import BRIGHT, write_bright_registry
from tests.postgres import find_programs, running_postgres
from tests.studies import clip_dataset

DAY_S: Final = 86_400.0
HOURLY: Final = (0,) * 6 + (1, 4, 9, 11, 12, 11, 7, 9, 11, 10, 8, 4, 1, 1, 0, 0, 0, 1)
"""Exams that end in each hour, as weights."""

INSTANCES: Final = 20
FRAMES: Final = 8
QUIET_S: Final = 60.0
SENDERS: Final = 8
_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay on one database was like.

    Attributes:
        span_s: from the first instance on disk to the last study's tables.
        latency_s: median, 95th percentile and most, from the last instance on disk to the tables in place.
        waiting_s: the same, of the part between complete and done.
        queue: mean and most studies that were complete or claimed.
        late_s: how much later than planned the last association began: above a second or two the
            machine could not keep up with sending.
        transactions: of the ledger that wrote, in all.
        busiest_per_s: of them, most in any second, averaged over five.
    """

    database: str
    studies: int
    instances: int
    span_s: float
    latency_s: tuple[float, float, float]
    waiting_s: tuple[float, float, float]
    queue: tuple[float, int]
    late_s: float
    transactions: int
    busiest_per_s: float


def arrivals(studies: int, seed: int) -> list[float]:
    """Draw the seconds of the day at which exams end, in order."""
    random = np.random.default_rng(seed)
    weights = np.array(HOURLY) / sum(HOURLY)
    hours = random.choice(len(HOURLY), size=studies, p=weights)
    return sorted(float(second) for second in (hours + random.uniform(size=studies)) * DAY_S / len(HOURLY))


def counter_of(url: str) -> Callable[[], int]:
    """Give a function that counts the ledger's writing transactions so far."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        index = Path(f"{parsed.database}-shm")
        # Of WalIndexHdr: two words, then the counter (SQLite, "WAL-mode file format", 2.1).
        return lambda: int(struct.unpack_from("=I", index.read_bytes(), 8)[0])
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def count() -> int:
        with engine.connect() as connection:
            asked = connection.exec_driver_sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
            return int(asked.scalar_one())

    return count


class Watch:
    """Looks at queue and counter until told to stop."""

    def __init__(self, ledger: Ledger, count: Callable[[], int]) -> None:
        self._ledger, self._count = ledger, count
        self._over = threading.Event()
        self.looks: list[tuple[float, int, int]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            counts = self._ledger.counts_by_state()
            self.looks.append((time.monotonic(), counts["complete"] + counts["claimed"], self._count()))

    def queue(self) -> tuple[float, int]:
        """Give the mean and the longest queue."""
        waiting = [studies for _, studies, _ in self.looks]
        return float(np.mean(waiting)), max(waiting)

    def transactions(self) -> tuple[int, float]:
        """Give all transactions, and those of the busiest five seconds, a second."""
        times, _, counts = (np.array(column) for column in zip(*self.looks, strict=True))
        later = np.searchsorted(times, times + 5)
        whole = later < len(times)
        rates = (counts[later[whole]] - counts[whole]) / (times[later[whole]] - times[whole])
        return int(counts[-1] - counts[0]), float(rates.max(initial=0))


def datasets(study: int) -> list[Dataset]:
    """Make the clips of a study."""
    made = [clip_dataset(study, number, frames=FRAMES, grey=BRIGHT) for number in range(1, INSTANCES + 1)]
    for ds in made:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def send(study: int, port: int) -> None:
    """Send a study over one association.

    Raises:
        RuntimeError: if it is refused.
    """
    ae = AE(ae_title="REPLAY")
    ae.add_requested_context(UltrasoundMultiFrameImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    if not assoc.is_established:
        raise RuntimeError("the listener refused the association")
    for ds in datasets(study):
        status = int(assoc.send_c_store(ds).Status)
        if status:
            raise RuntimeError(f"an instance was answered 0x{status:04X}")
    assoc.release()


@contextmanager
def running(root: Path, url: str, speed: float) -> Iterator[int]:
    """Run listener and worker on a folder; give the listener's port when both are ready."""
    write_configuration(
        root,
        {
            "listener": (
                f"quiet_period_s = {QUIET_S / speed}",
                f"housekeeping_s = {max(0.1, 5 / speed)}",
                "maximum_associations = 50",
                "maximum_associations_per_peer = 50",
                f'ledger_url = "{url}"',
            ),
            "worker": ("poll_s = 0.1", f'ledger_url = "{url}"'),
            "deid": ('ocr = "off"',),
        },
    )
    write_bright_registry(root / "models")
    with service("listen", root, "--port", "0"), service("work", root):
        announced(root, "worker")
        yield int(announced(root, "listener")["dicom_port"])


def replay(database: str, url: str, root: Path, *, studies: int, speed: float, seed: int) -> Outcome:
    """Send a day's studies to a listener, wait until all are in the tables, and say how it went.

    Raises:
        RuntimeError: if a study was refused or did not arrive in the tables.
    """
    moments = [moment / speed for moment in arrivals(studies, seed)]
    with running(root, url, speed) as port, ThreadPoolExecutor(SENDERS) as senders:
        ledger = Ledger(url)
        watch = Watch(ledger, counter_of(url))
        began, late_s = time.monotonic(), 0.0
        pause = threading.Event()

        def send_at(number: int, due: float) -> float:
            late = time.monotonic() - due
            send(number, port)
            return late

        sent = []
        for number, moment in enumerate(moments):
            due = began + moment - moments[0]
            pause.wait(max(0.0, due - time.monotonic()))
            sent.append(senders.submit(send_at, number, due))
        late_s = max(future.result() for future in sent)
        wait_until(
            lambda: ledger.counts_by_state()["done"] == studies, "every study", logs=root, look_s=_LOOK_S
        )
        watch.close()
        records = ledger.list_studies(limit=studies)
        ledger.close()
    transactions, busiest = watch.transactions()
    done = [float(record.done_at or 0) for record in records]
    return Outcome(
        database=database,
        studies=studies,
        instances=sum(record.instances for record in records),
        span_s=max(done) - min(record.first_received_at for record in records),
        latency_s=_spread([end - record.last_received_at for end, record in zip(done, records, strict=True)]),
        waiting_s=_spread(
            [end - float(record.completed_at or 0) for end, record in zip(done, records, strict=True)]
        ),
        queue=watch.queue(),
        late_s=late_s,
        transactions=transactions,
        busiest_per_s=busiest,
    )


def _spread(values: list[float]) -> tuple[float, float, float]:
    return float(np.median(values)), float(np.percentile(values, 95)), max(values)


def measure(*, studies: int, speed: float, seed: int) -> list[Outcome]:
    """Replay the same day on SQLite and, where it is installed, on PostgreSQL."""
    outcomes = []
    folder = Path(tempfile.mkdtemp(prefix="echobeam-replay-"))
    try:
        with ExitStack() as stack:
            urls = {"SQLite": f"sqlite:///{folder}/SQLite/ledger.sqlite"}
            if find_programs() is not None:
                server = stack.enter_context(running_postgres(options=(), below=None))
                urls["PostgreSQL"] = server.make_database()
            for database, url in urls.items():
                (folder / database).mkdir()
                outcomes.append(
                    replay(database, url, folder / database, studies=studies, speed=speed, seed=seed)
                )
    finally:
        shutil.rmtree(folder)
    return outcomes


def lines(outcomes: list[Outcome]) -> Iterator[str]:
    """Write the outcomes as Markdown."""
    yield "| | " + " | ".join(outcome.database for outcome in outcomes) + " |"
    yield "|---" * (len(outcomes) + 1) + "|"
    rows: dict[str, Callable[[Outcome], str]] = {
        "studies, instances": lambda it: f"{it.studies:,}, {it.instances:,}",
        "seconds from first instance to last table": lambda it: f"{it.span_s:.0f}",
        "seconds from last instance to tables: median, 95 %, most": lambda it: _told(it.latency_s),
        "of these from complete to tables: median, 95 %, most": lambda it: _told(it.waiting_s),
        "studies that wait or are worked on: mean, most": lambda it: f"{it.queue[0]:.1f}, {it.queue[1]}",
        "seconds by which the latest sender was late": lambda it: f"{it.late_s:.1f}",
        "writing transactions a study": lambda it: f"{it.transactions / it.studies:.1f}",
        "writing transactions a second: mean, busiest five seconds": lambda it: (
            f"{it.transactions / it.span_s:.1f}, {it.busiest_per_s:.1f}"
        ),
    }
    for name, value in rows.items():
        yield f"| {name} | " + " | ".join(value(outcome) for outcome in outcomes) + " |"


def _told(spread: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.1f}" for value in spread)


def write_report(path: Path, command: str, machine: str, outcomes: list[Outcome]) -> None:
    """Write the report."""
    what = (__doc__ or "").partition("\n\n    python")[0].strip()
    head = (
        f"# Replay of a day\n\n{what}\n\nCommand: `{command}`\n\nCommit: {commit()}. Machine: {machine}. "
        f"Senders, listener, worker and database share it. Synthetic studies of {INSTANCES} clips of "
        f"{FRAMES} frames, 60 x 80 pixels.\n\n"
    )
    path.write_text(head + "\n".join(lines(outcomes)) + "\n", encoding="utf-8")


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=100, help="of the day")
    parser.add_argument("--speed", type=float, default=100, help="how much faster than the day")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--quick", action="store_true", help="few studies, fast: shows that it works")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", type=Path, help="write a report in Markdown")
    parser.add_argument("--machine", default="not told", help="the machine in words, for the report")
    options = parser.parse_args()
    studies, speed = (4, 20_000.0) if options.quick else (options.studies, options.speed)
    outcomes = measure(studies=studies, speed=speed, seed=options.seed)
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        print("\n".join(lines(outcomes)))
    if options.report is not None:
        words = f"--studies {studies} --speed {speed:g} --seed {options.seed} --report {options.report}"
        write_report(options.report, f"python -m benchmarks.replay {words}", options.machine, outcomes)


if __name__ == "__main__":
    main()
