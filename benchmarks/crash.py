"""Kill the listener at random moments under load, again and again: is anything lost that was promised?

A real `echobeam listen` receives from four senders and is killed with SIGKILL, all its processes, at a
moment drawn from a seed: mostly under load, now and then while it starts. Where it has several processes,
one of those that receive is killed alone before, and the others go on. Then the listener is started again,
and the senders send again what they got no Success for. After each round it is verified that

* each instance that was answered with Success is in the ledger and in the spool, byte for byte as sent;
* no instance has two rows at work;
* after the start no file is without a row, no row without its file, nothing unfinished is left, and the
  reconciliation found nothing missing, damaged or unreadable.

At the end everything is sent to its end, the listener drains and stops, and all of it is verified again by
`echobeam studies verify --all`.

    python -m benchmarks.crash [--rounds 200] [--seed 1] [--processes 1] [--postgresql] [--quick] [--json]
    python -m benchmarks.crash --rounds 200 --report docs/reports/crash.md --machine "2 cores, 24 GiB"

With `--report` it runs three times: all rounds with one process on SQLite, an eighth of them with three
processes on SQLite, and an eighth with three processes on PostgreSQL.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage

from dicom_listener.ledger import Ledger
from dicom_listener.operations.runfile import read_run_file
from dicom_listener.spool.files import FOLDER_GROUPS, list_folders
from dicom_listener.spool.writing import encode_file_header
from tests.postgres import running_postgres
from tests.unit.dicom_listener.instances import encode

SENDERS: Final = 4
KILLED_WHILE_STARTING: Final = 0.1
"""Share of the rounds."""
LOAD_S: Final = (0.02, 1.2)
START_S: Final = (0.1, 1.0)
SENT_AGAIN: Final = 0.1
CHANGED: Final = 0.05
DEADLINE_S: Final = 120.0

_ECHOBEAM: Final = (sys.executable, "-c", "from beam_jobs.command import main; main()")


class CrashTestError(Exception):
    """A promise was broken; the message says which."""


@dataclass(slots=True)
class Counts:
    """What happened in all rounds."""

    rounds: int = 0
    killed_under_load: int = 0
    killed_while_starting: int = 0
    killed_receivers: int = 0
    acknowledged: int = 0
    acknowledged_bytes: int = 0
    sent_again: int = 0
    changed: int = 0
    unanswered: int = 0
    adopted: int = 0
    unfinished_left_by_kills: int = 0
    orphans_left_by_kills: int = 0
    instances: int = 0


@dataclass(slots=True)
class Promises:
    """What was answered with Success: the digests of each instance's contents. Thread-safe."""

    digests: dict[str, set[str]] = field(default_factory=dict)
    fresh: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, uid: str, digest: str) -> None:
        """Note a Success."""
        with self.lock:
            self.digests.setdefault(uid, set()).add(digest)
            self.fresh.append((uid, digest))

    def take_fresh(self) -> list[tuple[str, str]]:
        """Give what was promised since it was last asked."""
        with self.lock:
            fresh, self.fresh = self.fresh, []
            return fresh


class Door:
    """Where the listener is reached now, for those who wait for it to come back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._port: int | None = None
        self._times_opened = 0
        self._is_over = False

    def open(self, port: int) -> None:
        """Say that the listener is there."""
        with self._changed:
            self._port, self._times_opened = port, self._times_opened + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Say that it was killed."""
        with self._changed:
            self._port = None

    def end(self) -> None:
        """Say that nothing more is to be sent than what is under way."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._is_over

    def wait(self, times_opened: int) -> tuple[int | None, int]:
        """Wait until it is opened once more than so often; give its port, None at the end, and how often."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over or (self._port is not None and self._times_opened > times_opened)
            )
            return self._port, self._times_opened


def make_dataset(uid: str, study: str, rng: random.Random) -> Dataset:
    """Make an instance whose bytes are drawn."""
    ds = Dataset()
    ds.SOPClassUID = UltrasoundMultiFrameImageStorage
    ds.SOPInstanceUID = UID(uid)
    ds.PatientID = "CRASH"
    ds.StudyInstanceUID = UID(study)
    ds.SeriesInstanceUID = UID(f"{study}.1")
    ds.add_new("PixelData", "OB", rng.randbytes(2 * rng.randint(500, 60_000)))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def digest_as_kept(ds: Dataset) -> str:
    """Give the digest of the file that the listener must make of a dataset."""
    header = encode_file_header(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian)
    return hashlib.sha256(header + encode(ds).getvalue()).hexdigest()


class Sender(threading.Thread):
    """Sends one instance after the other, and what got no Success again once the listener is back."""

    def __init__(self, number: int, door: Door, promises: Promises, counts: Counts, seed: int) -> None:
        super().__init__(name=f"sender {number}", daemon=True)
        self._number = number
        self._door = door
        self._promises = promises
        self._counts = counts
        self._rng = random.Random(f"{seed} {number}")
        self._sent: list[tuple[str, str]] = []
        self._pending: Dataset | None = None
        self._ae = AE(ae_title=f"SENDER{number}")
        self._ae.add_requested_context(UltrasoundMultiFrameImageStorage, ExplicitVRLittleEndian)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = 20
        self.error: Exception | None = None

    def run(self) -> None:
        """Send until the door says that it is over and nothing is pending."""
        times_opened = 0
        try:
            while not (self._door.is_over and self._pending is None):
                port, times_opened = self._door.wait(times_opened)
                if port is not None:
                    self._send_to(port)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            self.error = error

    def _send_to(self, port: int) -> None:
        assoc = self._ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
        try:
            while assoc.is_established and not (self._door.is_over and self._pending is None):
                self._pending = ds = self._pending or self._next()
                if not self._store(assoc, ds):
                    return
                self._pending = None
        finally:
            if assoc.is_established:
                assoc.release()

    def _store(self, assoc: Any, ds: Dataset) -> bool:
        try:
            status = assoc.send_c_store(ds)
        except RuntimeError:  # the association ended just before
            return False
        if "Status" not in status:
            self._counts.unanswered += 1
            return False
        if status.Status != 0x0000:
            raise CrashTestError(f"the listener answered 0x{status.Status:04X} to a good instance")
        self._promises.add(ds.SOPInstanceUID, digest_as_kept(ds))
        self._counts.acknowledged += 1
        self._counts.acknowledged_bytes += len(ds.PixelData)
        return True

    def _next(self) -> Dataset:
        drawn = self._rng.random()
        if self._sent and drawn < SENT_AGAIN + CHANGED:
            uid, study = self._rng.choice(self._sent)
            if drawn < SENT_AGAIN:
                self._counts.sent_again += 1
                return make_dataset(uid, study, random.Random(uid))
            self._counts.changed += 1
            return make_dataset(uid, study, self._rng)
        study = f"1.2.826.0.1.3680043.8.498.{self._number}.{len(self._sent) // 20}"
        uid = f"{study}.1.{len(self._sent)}"
        self._sent.append((uid, study))
        return make_dataset(uid, study, random.Random(uid))


class CrashTest:
    """The rounds, over one root folder."""

    def __init__(self, root: Path, *, seed: int, processes: int, ledger_url: str) -> None:
        self.counts = Counts()
        self._root = root
        self._spool = root / "spool"
        self._log = root.parent / "listener.log"
        self._ledger_url = ledger_url
        self._rng = random.Random(seed)
        self._door = Door()
        self._promises = Promises()
        self._senders = [
            Sender(number, self._door, self._promises, self.counts, seed) for number in range(SENDERS)
        ]
        (root / "echobeam.toml").write_text(
            f"[listener]\nport = 0\nhttp_port = 0\nprocesses = {processes}\nminimum_free_bytes = 0\n"
            f'ledger_url = "{ledger_url}"\n',
            encoding="utf-8",
        )

    def run(self, rounds: int) -> Counts:
        """Do the rounds, and the verification at the end.

        Raises:
            CrashTestError: as soon as a promise is broken.
        """
        for sender in self._senders:
            sender.start()
        for number in range(rounds):
            self._round()
            self.counts.rounds += 1
            print(f"\r{number + 1} of {rounds} rounds", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        self._finish()
        return self.counts

    def _round(self) -> None:
        if self._rng.random() < KILLED_WHILE_STARTING:
            with self._listener() as listener:
                _wait(self._rng.uniform(*START_S))
                _kill(listener)
            self.counts.killed_while_starting += 1
        with self._listener() as listener:
            port = self._wait_until_ready(listener)
            self._verify_that_both_agree()
            self._door.open(port)
            children = _children(listener.pid)
            if children:
                _wait(self._rng.uniform(*LOAD_S))
                os.kill(self._rng.choice(children), signal.SIGKILL)
                self.counts.killed_receivers += 1
            _wait(self._rng.uniform(*LOAD_S))
            _kill(listener)
            self._door.close()
        self.counts.killed_under_load += 1
        self._verify_promises(self._promises.take_fresh())
        self._count_what_is_left()

    def _finish(self) -> None:
        with self._listener() as listener:
            port = self._wait_until_ready(listener)
            self._verify_that_both_agree()
            self._door.open(port)
            self._door.end()
            for sender in self._senders:
                sender.join(DEADLINE_S)
                if sender.error is not None:
                    raise sender.error
                if sender.is_alive():
                    raise CrashTestError(f"{sender.name} does not come to its end")
            listener.terminate()
            if listener.wait(DEADLINE_S) != 0:
                raise CrashTestError(f"the listener ended with {listener.returncode}")
        self._verify_promises(
            [(uid, digest) for uid, digests in self._promises.digests.items() for digest in digests]
        )
        self._verify_that_both_agree()
        with self._ledger() as ledger:
            self.counts.instances = sum(study.instances for study in ledger.list_studies(limit=10**6))
        if self.counts.instances != len(self._promises.digests):
            raise CrashTestError(
                f"{len(self._promises.digests)} instances were acknowledged and {self.counts.instances} are "
                "at work"
            )
        verified = subprocess.run(  # noqa: S603 - our own program
            [*_ECHOBEAM, "studies", "verify", "--all", "--json", "--root", self._root],
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode != 0:
            raise CrashTestError(f"`echobeam studies verify` found:\n{verified.stdout}{verified.stderr}")

    @contextmanager
    def _listener(self) -> "Iterator[subprocess.Popen[bytes]]":
        """Start the listener for the block; leave none of it behind."""
        with (
            self._log.open("wb") as log,
            subprocess.Popen(  # noqa: S603 - our own program
                [*_ECHOBEAM, "listen", "--root", self._root], stderr=log, stdout=log
            ) as listener,
        ):
            try:
                yield listener
            finally:
                if listener.poll() is None:
                    _kill(listener)

    def _wait_until_ready(self, listener: "subprocess.Popen[bytes]") -> int:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            announced = read_run_file(self._root / "run" / "listener.json", pid=listener.pid)
            if announced is not None:
                self._read_reconciliation()
                return int(announced["dicom_port"])
            if listener.poll() is not None:
                break
            _wait(0.01)
        raise CrashTestError(f"the listener does not start:\n{self._log.read_text(encoding='utf-8')}")

    def _read_reconciliation(self) -> None:
        lines = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
        [report] = [line for line in lines if line["event"] == "reconciled"]
        self.counts.adopted += report["adopted"]
        for what in ("missing", "damaged", "quarantined", "restored"):
            if report[what]:
                raise CrashTestError(f"the reconciliation found {report[what]} files {what}")

    def _verify_that_both_agree(self) -> None:
        """Verify, while nothing is sent, that every file has a row and every row its file."""
        if any((self._spool / "tmp").iterdir()):
            raise CrashTestError("unfinished files were left in the spool")
        with self._ledger() as ledger:
            for folders in FOLDER_GROUPS:
                files = list_folders(self._spool, folders)
                rows = {content.path: content.size_bytes for content in ledger.contents_in_folders(folders)}
                if files != rows:
                    raise CrashTestError(
                        f"{len(files.keys() - rows.keys())} files without a row, "
                        f"{len(rows.keys() - files.keys())} rows without a file"
                    )

    def _verify_promises(self, promised: list[tuple[str, str]]) -> None:
        """Verify that what was acknowledged is kept, in one row at work or beside it, byte for byte."""
        wanted = set(promised)
        studies = {uid.rpartition(".1.")[0] for uid, _ in wanted}
        with self._ledger() as ledger:
            contents = [content for study in studies for content in ledger.list_contents(study)]
        at_work = [content.sop_instance_uid for content in contents if content.is_at_work]
        if len(at_work) != len(set(at_work)):
            raise CrashTestError("an instance has two rows at work")
        paths = {(content.sop_instance_uid, content.sha256): content.path for content in contents}
        for key in sorted(wanted):
            if key not in paths:
                raise CrashTestError(f"{key[0]} was acknowledged and is not in the ledger")
            file = self._spool / paths[key]
            if not file.exists():
                raise CrashTestError(f"{key[0]} was acknowledged and its file is gone")
            if hashlib.sha256(file.read_bytes()).hexdigest() != key[1]:
                raise CrashTestError(f"{key[0]} was acknowledged and its file is altered")

    def _count_what_is_left(self) -> None:
        """Count what the kill left for the next start to clean up."""
        self.counts.unfinished_left_by_kills += sum(1 for _ in (self._spool / "tmp").iterdir())
        with self._ledger() as ledger:
            for folders in FOLDER_GROUPS:
                rows = {content.path for content in ledger.contents_in_folders(folders)}
                self.counts.orphans_left_by_kills += len(list_folders(self._spool, folders).keys() - rows)

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        ledger = Ledger(self._ledger_url)
        try:
            yield ledger
        finally:
            ledger.close()


def _children(pid: int) -> list[int]:
    """Give the processes that a process started and that still are (Linux)."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except FileNotFoundError:
        return []


def _kill(listener: "subprocess.Popen[bytes]") -> None:
    """Kill the listener and what it started."""
    os.kill(listener.pid, signal.SIGSTOP)  # so that it starts nothing more
    children = _children(listener.pid)
    listener.kill()
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    listener.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{child}").exists() for child in children):
        if time.monotonic() > deadline:
            raise CrashTestError("a process outlives SIGKILL")
        _wait(0.001)


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def crash(*, rounds: int, seed: int, processes: int, postgresql: bool) -> Counts:
    """Run the crash test in a temporary folder of its own.

    Raises:
        CrashTestError: as soon as a promise is broken; the folder is then left to be looked at.
    """
    below = Path(tempfile.mkdtemp(prefix="echobeam-crash-"))
    root = below / "root"
    root.mkdir(mode=0o700)
    with ExitStack() as stack:
        url = f"sqlite:///{root}/ledger.sqlite"
        if postgresql:
            url = stack.enter_context(running_postgres(options=(), below=None)).make_database()
        try:
            counts = CrashTest(root, seed=seed, processes=processes, ledger_url=url).run(rounds)
        except BaseException:
            print(f"\nleft to be looked at: {below}", file=sys.stderr)
            raise
    shutil.rmtree(below)
    return counts


NAMES: Final = {
    "rounds": "rounds",
    "killed_under_load": "killed under load",
    "killed_while_starting": "killed while starting",
    "killed_receivers": "receiving processes killed alone",
    "acknowledged": "instances answered with Success",
    "acknowledged_bytes": "their pixel bytes",
    "sent_again": "drawn to be sent again as they were",
    "changed": "drawn to be sent again with another content",
    "unanswered": "sent and never answered, then sent again",
    "unfinished_left_by_kills": "unfinished files that kills left",
    "orphans_left_by_kills": "files without a row that kills left",
    "adopted": "files adopted by the reconciliation",
    "instances": "different instances in the end",
}
ZEROS: Final = (
    "acknowledged instances lost",
    "acknowledged instances altered",
    "instances with two rows at work",
    "files without a row after a start",
    "rows without a file after a start",
    "unfinished files after a start",
)
INTRODUCTION: Final = """# Crash test

A real `echobeam listen` under load from four senders is killed with SIGKILL, all its processes, at random
moments, and started again; of several processes one that receives is killed alone before. What is verified
after each round and at the end is told in [benchmarks/crash.py](../../benchmarks/crash.py). A run stops at
the first promise that is broken, so that the zeros below are what every round and the final
`echobeam studies verify --all` found. SIGKILL leaves the system running: what a power cut would do to a disk
is the business of the fsyncs, and is not tested here.
"""


def write_report(path: Path, command: str, machine: str, runs: dict[str, Counts]) -> None:
    """Write the report: the command, the commit, the machine, and a column of counts for each run."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - wherever git is
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rows = [["", *runs], ["---"] * (len(runs) + 1)]
    rows += [
        [words, *(f"{getattr(counts, name):,}" for counts in runs.values())] for name, words in NAMES.items()
    ]
    rows += [[f"**{words}**", *["**0**"] * len(runs)] for words in ZEROS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    told = f"Command: `{command}`\n\nCommit: {commit}. Machine: {machine}."
    path.write_text(f"{INTRODUCTION}\n{told}\n\n{table}\n", encoding="utf-8")


def main() -> None:
    """Run, print the counts, and write the report where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="receiving processes of the listener")
    parser.add_argument("--postgresql", action="store_true", help="keep the ledger in a PostgreSQL")
    parser.add_argument("--quick", action="store_true", help="three rounds: shows that it works")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--report", type=Path, help="run three times and write a report in Markdown")
    parser.add_argument("--machine", default="not told", help="the machine in words, for the report")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    plan = {"as asked": (rounds, options.processes, options.postgresql)}
    if options.report is not None:
        fewer = max(1, rounds // 8)
        plan = {
            "1 process, SQLite": (rounds, 1, False),
            "3 processes, SQLite": (fewer, 3, False),
            "3 processes, PostgreSQL": (fewer, 3, True),
        }
    runs: dict[str, Counts] = {}
    for name, (rounds_of_run, processes, postgresql) in plan.items():
        counts = crash(rounds=rounds_of_run, seed=options.seed, processes=processes, postgresql=postgresql)
        runs[name] = counts
        if options.json:
            print(json.dumps({name: asdict(counts)}))
        else:
            print(f"{name}:")
            for count in Counts.__slots__:
                print(f"  {count:26}{getattr(counts, count):>14,}")
        if options.report is not None:
            words = f"--rounds {rounds} --seed {options.seed} --report {options.report}"
            write_report(options.report, f"python -m benchmarks.crash {words}", options.machine, runs)


if __name__ == "__main__":
    main()
