"""Kill what works on an engine at random moments under load, again and again: is each study done once?

Prism, a pool of worker processes in a folder of its own, and `echobeam work --runner` run as they would in
production, each started again as soon as it is gone, as systemd does. Studies come all the while. In each
round one of four is killed with SIGKILL, drawn from a seed:

* harness   the worker process in which the steps run
* pool      the pool that starts worker processes
* engine    Prism, and with it the pipeline
* driver    `echobeam work`, which submits the pipeline and watches over it

The moment is drawn, too: some seconds after the last kill, or a moment after studies were seen at work. After
each round all files that a reader can see are read: each whole, each row once. At the end, when no more
studies come and nothing is killed, every study must be done, without a hand, with the rows that it has.

    python -m benchmarks.kill [--rounds 100] [--seed 1] [--postgresql] [--quick] [--json]
    python -m benchmarks.kill --rounds 100 --report docs/reports/kill.md --machine "2 cores, 24 GiB"
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow.parquet as pq

from dicom_listener.ledger import Ledger
from tests.bright import BRIGHT, write_bright_registry
from tests.postgres import running_postgres
from tests.prism import Program, end, find_prism, kill, start_pool, start_prism
from tests.studies import clip, receive

VICTIMS: Final = ("harness", "pool", "engine", "driver")
UNDER_LOAD: Final = 0.6
"""Share of the rounds in which studies are at work for certain."""
WAITING: Final = 24
"""Studies that are kept waiting, so that there is always work."""
FRAMES: Final = 4
CLIPS: Final = 2
DEADLINE_S: Final = 1200.0
_LEASE_S: Final = 5
_KILLED: Final = Counter({-signal.SIGKILL.value: 10**9})
_TABLES: Final = ("frames", "clips", "studies")
_ENVIRONMENT: Final = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_ECHOBEAM: Final = (sys.executable, "-c", "from beam_jobs.command import main; main()")


_HEAD: Final = """\
# Killed at random moments, on an engine

Engine: Prism of Beam 2.77, a pool of worker processes in a folder of its own, one driver. Studies are
synthetic, with small models whose answers are known. Command: `python -m benchmarks.kill --seed {seed}
--rounds {rounds_asked} --report docs/reports/kill.md`; commit {commit}; machine: {machine}.

In each round one program was killed with SIGKILL, drawn from the seed, and started again as a service manager
does; nothing else was done by hand. After each round every file that a reader can see was opened, and at the
end every study had to be done once, with exactly its rows. All of it held.
"""

_TAIL: Final = """
Prism ends a pipeline with the first worker process it loses, and the driver submits it again. Another engine
starts only the process again, and then the ledger tells whoever begins a study for the second time.
"""


class KillTestError(Exception):
    """A promise was broken; the message says which."""


class Kept:
    """A program that is started again whenever it is gone, as a service manager does."""

    def __init__(self, start: Callable[[], Program]) -> None:
        self._start = start
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.ends: Counter[int] = Counter()
        self.starts = 1
        self.program = start()
        self._thread.start()

    def kill(self) -> None:
        """Kill the program that runs now, and nothing that it started."""
        with suppress(ProcessLookupError):
            self.program.process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """End the program and what it started, for good."""
        self._over.set()
        self._thread.join()
        end(self.program)

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            code = self.program.process.poll()
            if code is not None:
                self.ends[code] += 1
                self.program = self._start()
                self.starts += 1


class KillTest:
    """The rounds, over one root folder.

    Args:
        folder: an empty one.
        seed: of victims and moments.
        ledger_url: of an empty ledger.
        prism: the program.
        victims: what is killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        ledger_url: str,
        prism: str,
        victims: Sequence[str] = VICTIMS,
    ) -> None:
        self._folder = folder
        self._root = folder / "root"
        self._elsewhere = folder / "elsewhere"
        self._elsewhere.mkdir()
        self._rng = random.Random(seed)
        self._prism = prism
        self._victims = victims
        self._prism_port, self._pool_port = free_port(), free_port()
        self._received = 0
        self.counts: Counter[str] = Counter()
        write_bright_registry(self._root / "models")
        self._ledger = Ledger(ledger_url)
        (self._root / "echobeam.toml").write_text(
            f'[listener]\nledger_url = "{ledger_url}"\n[worker]\nledger_url = "{ledger_url}"\n'
            f"http_port = 0\nlease_s = {_LEASE_S}\npoll_s = 0.1\nmax_attempts = 1000\n"
            'studies_in_flight = 8\n[deid]\nocr = "off"\n',
            encoding="utf-8",
        )

    def run(self, rounds: int) -> dict[str, Any]:
        """Do the rounds, let all be done, and verify.

        Raises:
            KillTestError: as soon as a promise is broken.
        """
        began = time.monotonic()
        with self._running() as kept:
            for number in range(rounds):
                self._round(kept)
                print(f"\r{number + 1} of {rounds} rounds", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            killing_s = time.monotonic() - began
            self._wait("every study is done", lambda: self._count("done") == self._received)
            settling_s = time.monotonic() - began - killing_s
        self._verify_all()
        return {
            "rounds": rounds,
            "killed": {victim: self.counts[victim] for victim in VICTIMS},
            "at_work_when_killed": self.counts["at work"],
            "studies": self._received,
            "frames": self._received * CLIPS * FRAMES,
            "starts": {name: program.starts for name, program in kept.items()},
            "ended_by_themselves": {name: dict(program.ends - _KILLED) for name, program in kept.items()},
            "killing_s": round(killing_s, 1),
            "settling_s": round(settling_s, 1),
        }

    @contextmanager
    def _running(self) -> Iterator[dict[str, Kept]]:
        with ExitStack() as stack:
            kept = {}
            for name, start in (
                ("engine", self._start_engine),
                ("pool", self._start_pool),
                ("driver", self._start_driver),
            ):
                kept[name] = Kept(start)
                stack.callback(kept[name].stop)
            yield kept
        for pid in self._harnesses():
            kill(pid)

    def _start_engine(self) -> Program:
        return start_prism(self._prism, port=self._prism_port, log=self._folder / "prism.log")

    def _start_pool(self) -> Program:
        return start_pool(
            self._elsewhere, port=self._pool_port, log=self._folder / "pool.log", environment=_ENVIRONMENT
        )

    def _start_driver(self) -> Program:
        command = [
            *(*_ECHOBEAM, "work", "--root", str(self._root), "--runner", "PortableRunner", "--"),
            f"--job_endpoint=localhost:{self._prism_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self._pool_port}",
        ]
        with (self._folder / "driver.log").open("a") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=log, stderr=log, env=_ENVIRONMENT, text=True
            )
        return Program("", process)

    def _round(self, kept: dict[str, Kept]) -> None:
        self._receive()
        victim = self._rng.choice(self._victims)
        if self._rng.random() < UNDER_LOAD:
            self._wait("studies are at work", lambda: self._count("claimed") > 0)
            time.sleep(self._rng.uniform(0, 2))
        else:
            time.sleep(self._rng.uniform(0, 8))
        if victim == "harness":
            self._wait("there is a harness", lambda: bool(self._harnesses()))
            at_work = self._count("claimed")
            kill(self._rng.choice(self._harnesses() or [0]))
        else:
            at_work = self._count("claimed")
            kept[victim].kill()
        self.counts[victim] += 1
        self.counts["at work"] += at_work > 0
        self._verify_what_is_seen()

    def _receive(self) -> None:
        """Receive as many studies as keep the queue full."""
        counts = self._ledger.counts_by_state()
        fresh = WAITING - counts["complete"] - counts["claimed"]
        clips = [
            clip(number, instance, frames=FRAMES, grey=BRIGHT)
            for number in range(self._received, self._received + fresh)
            for instance in range(1, CLIPS + 1)
        ]
        receive(self._ledger, self._root / "spool", clips, now=time.time() - 4000)  # complete already
        self._received += max(fresh, 0)

    def _harnesses(self) -> list[int]:
        """List the worker processes of this engine, whoever is their parent by now."""
        wanted = f'SdkHarness("localhost:{self._prism_port}"'.encode()
        found = []
        for place in Path("/proc").iterdir():
            with suppress(OSError):
                if place.name.isdigit() and wanted in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
        return found

    def _count(self, state: str) -> int:
        return self._ledger.counts_by_state()[state]

    def _wait(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_so():
            if time.monotonic() > deadline:
                raise KillTestError(
                    f"in {DEADLINE_S:.0f} s it did not come to be that {what}: {self._folder}"
                )
            time.sleep(0.02)

    def _verify_what_is_seen(self) -> None:
        """Read every file that a reader can see: none may be partial, no row there twice."""
        for table in _TABLES:
            files = list((self._root / "results" / table).rglob("*.parquet"))
            for path in files:
                with suppress(FileNotFoundError):  # replaced meanwhile
                    pq.ParquetFile(path).metadata  # noqa: B018 - raises if the file is cut off
            if len({path.name for path in files}) != len(files):
                raise KillTestError(f"a study has two files in {table}")

    def _verify_all(self) -> None:
        counts = {state: count for state, count in self._ledger.counts_by_state().items() if count}
        if counts != {"done": self._received}:
            raise KillTestError(f"expected {self._received} studies done, received {counts}")
        expected = {"frames": CLIPS * FRAMES, "clips": CLIPS, "studies": 1}
        for table, rows_each in expected.items():
            files = f"{self._root}/results/{table}/**/*.parquet"
            keys = {"frames": "instance_key, frame_index", "clips": "instance_key"}.get(table, "study_key")
            found = duckdb.execute(
                f"SELECT count(*), count(DISTINCT ({keys})), count(DISTINCT study_key) FROM '{files}'"  # noqa: S608
            ).fetchone()
            wanted = (self._received * rows_each, self._received * rows_each, self._received)
            if found != wanted:
                raise KillTestError(f"{table}: expected rows, keys, studies {wanted}, received {found}")


def free_port() -> int:
    """Give a port that is free now, for a program that is to come back where it was."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def run_once(rounds: int, *, seed: int, postgresql: bool) -> dict[str, Any]:
    """Run the rounds over a new folder and a new ledger.

    Raises:
        KillTestError: as soon as a promise is broken, or if there is no Prism.
    """
    prism = find_prism()
    if prism is None:
        raise KillTestError("expected Prism to be installed, received none: see tests/prism.py")
    with tempfile.TemporaryDirectory(prefix="echobeam-kill-") as folder, ExitStack() as stack:
        if postgresql:
            url = stack.enter_context(running_postgres()).make_database()
        else:
            (Path(folder) / "root").mkdir()
            url = f"sqlite:///{folder}/root/ledger.sqlite"
        test = KillTest(Path(folder), seed=seed, ledger_url=url, prism=prism)
        return {"ledger": "PostgreSQL" if postgresql else "SQLite", "seed": seed, **test.run(rounds)}


def write_report(path: Path, results: list[dict[str, Any]], machine: str) -> None:
    """Write what happened as a page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - found on PATH
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    lines = [
        _HEAD.format(
            **results[0],
            rounds_asked=sum(result["rounds"] for result in results),
            commit=commit,
            machine=machine,
        )
    ]
    lines += ["| | " + " | ".join(str(result["ledger"]) for result in results) + " |"]
    lines += ["|---|" + "---|" * len(results)]
    rows: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("rounds", lambda result: result["rounds"]),
        *(
            (f"of them the {victim} killed", lambda result, v=victim: result["killed"][v])
            for victim in VICTIMS
        ),
        ("with studies at work at that moment", lambda result: result["at_work_when_killed"]),
        ("studies received, and done once", lambda result: result["studies"]),
        ("frame rows, each once", lambda result: result["frames"]),
        *(
            (f"times the {name} started", lambda result, n=name: result["starts"][n])
            for name in ("engine", "pool", "driver")
        ),
        ("lost, twice, or partial", lambda _: 0),
        ("seconds of killing", lambda result: result["killing_s"]),
        ("seconds from the last kill until all was done", lambda result: result["settling_s"]),
    ]
    lines += [f"| {name} | " + " | ".join(str(of(result)) for result in results) + " |" for name, of in rows]
    lines += [_TAIL]
    path.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Print what happened, or write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgresql", action="store_true", help="ledger on PostgreSQL")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", type=Path, help="write the page, from SQLite and then PostgreSQL")
    parser.add_argument("--machine", default="unnamed", help="what it ran on, in words")
    options = parser.parse_args()
    rounds = 4 if options.quick else options.rounds
    if options.report is not None:
        runs = [(rounds - rounds // 4, False), (rounds // 4, True)]
    else:
        runs = [(rounds, options.postgresql)]
    results = [run_once(number, seed=options.seed, postgresql=postgresql) for number, postgresql in runs]
    if options.report is not None:
        write_report(options.report, results, options.machine)
    elif options.json:
        print(json.dumps(results, indent=2))
    else:
        for name, value in results[0].items():
            print(f"{name:22}{value}")


if __name__ == "__main__":
    main()
