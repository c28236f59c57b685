"""How many instances a second the ledger makes durable, one transaction each, and in groups.

`alone` is one transaction, and one wait for the disk, for each instance; `grouped` lets what several
associations bring at once share a transaction. Each thread stands for an association with a study of its
own. Both use the same code but for the group, on the same disk, in turn. PostgreSQL runs beside, with its
durable defaults, over a socket. The listener groups on SQLite, whose writers wait for each other anyway, and
does not on PostgreSQL, whose writers of different studies do not.

    python -m benchmarks.ledger [--quick] [--json]
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicom_listener.ledger import Ledger, ReceivedInstance, RecordOutcome, SpooledInstance
from dicom_listener.ledger.arrivals import Arrival
from dicom_listener.ledger.grouping import GroupCommit
from tests.postgres import find_programs, running_postgres

THREADS = (1, 4, 8)
Record = Callable[[ReceivedInstance, str], None]


@contextmanager
def ledgers() -> Iterator[dict[str, Callable[[], str]]]:
    """Give, for each database that is here, a function that makes an empty ledger and gives its URL."""
    folder = Path(tempfile.mkdtemp(prefix="echobeam-ledger-"))
    numbers = iter(range(10**6))
    makers: dict[str, Callable[[], str]] = {"SQLite": lambda: f"sqlite:///{folder}/{next(numbers)}.sqlite"}
    try:
        if find_programs() is None:
            print("PostgreSQL is not installed: SQLite only")
            yield makers
        else:
            with running_postgres(options=(), below=None) as server:
                yield makers | {"PostgreSQL": server.make_database}
    finally:
        shutil.rmtree(folder)


def arrival(study: int, number: int) -> ReceivedInstance:
    """Make a received instance without a file."""
    uid = f"1.2.826.0.1.3680043.8.498.{study}.{number}"
    path = f"{number % 256:02x}/{study:032x}{number:032x}.dcm"
    spooled = SpooledInstance(
        uid, f"1.2.826.{study}", "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.1.2.1", path, path[3:67], 10**6
    )
    return ReceivedInstance(f"1.2.826.0.1.3680043.8.498.{study}", "P", spooled)


def alone(ledger: Ledger) -> Record:
    """Give a function that enters an instance in a transaction of its own."""
    return lambda instance, association: _enter(ledger, [Arrival(instance, association, 1, 1)])


def grouped(ledger: Ledger) -> Record:
    """Give a function that enters an instance together with those that others bring meanwhile."""
    group = GroupCommit[Arrival, RecordOutcome](ledger._commit)  # noqa: SLF001 - whatever the ledger itself does
    return lambda instance, association: _discard(group.submit(Arrival(instance, association, 1, 1)))


def _enter(ledger: Ledger, arrivals: list[Arrival]) -> None:
    ledger._commit(arrivals)  # noqa: SLF001 - what a group would commit


def _discard(_outcome: RecordOutcome) -> None:
    return None


def rate(make_url: Callable[[], str], how: Callable[[Ledger], Record], threads: int, instances: int) -> float:
    """Let threads enter instances at once; give how many a second became durable."""
    ledger = Ledger(make_url())
    record = how(ledger)
    begin = threading.Barrier(threads + 1)

    def receive(study: int) -> None:
        record(arrival(study, 0), f"a{study}")  # opens the connection
        begin.wait()
        for number in range(1, instances + 1):
            record(arrival(study, number), f"a{study}")

    running = [threading.Thread(target=receive, args=(study,)) for study in range(threads)]
    for thread in running:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    for thread in running:
        thread.join()
    duration_s = time.perf_counter() - began
    ledger.close()
    return threads * instances / duration_s


def measure(*, instances: int, repetitions: int) -> list[dict[str, Any]]:
    """Measure every database, way and number of threads, the ways in turn; give the medians."""
    rows = []
    with ledgers() as makers:
        for database, make_url in makers.items():
            for threads in THREADS:
                rates: dict[str, list[float]] = {"alone": [], "grouped": []}
                for _ in range(repetitions):
                    for name, how in (("alone", alone), ("grouped", grouped)):
                        rates[name].append(rate(make_url, how, threads, instances))
                medians = {name: statistics.median(values) for name, values in rates.items()}
                rows.append({"database": database, "threads": threads, **medians})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few instances, once: shows that it works")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = measure(instances=30, repetitions=1) if options.quick else measure(instances=400, repetitions=5)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    one = {row["database"]: row["alone"] for row in rows if row["threads"] == 1}
    print("| database | threads | grouped / alone | alone / 1 thread alone | grouped / 1 thread alone |")
    print("|---|---|---|---|---|")
    for row in rows:
        base = one[row["database"]]
        print(
            f"| {row['database']} | {row['threads']} | {row['grouped'] / row['alone']:.2f} "
            f"| {row['alone'] / base:.2f} | {row['grouped'] / base:.2f} |"
        )


if __name__ == "__main__":
    main()
