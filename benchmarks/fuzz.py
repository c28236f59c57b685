"""What the listener makes of mutated requests, PDUs, commands and datasets.

Each input is a DICOM conversation that was spoiled somewhere by a generator of random numbers, so that a
seed and a number name it. It goes over a real connection to a server in this process. Looked for are:
threads that end with an error, an answer of Success without the bytes that were sent in the spool, files
anywhere else or unfinished, memory, threads and open files that grow, and a server that does not answer
the next honest sender.

    python -m benchmarks.fuzz [--cases N | --quick] [--seed S] [--first N] [--json]
"""

import argparse
import gc
import hashlib
import json
import logging
import random
import re
import resource
import socket
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from dicom_listener.association.scp import Reception, handlers, make_application_entity
from dicom_listener.association.server import start_server
from dicom_listener.ledger import Ledger
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.writing import Spool, encode_file_header
from tests.raw_peer import (
    DATA_TF,
    RELEASE_RQ,
    STORAGE_CONTEXT,
    VERIFICATION_CONTEXT,
    RawPeer,
    encode_echo_command,
    encode_pdu,
    encode_pdv,
    encode_request,
    encode_store_command,
)
from tests.unit.dicom_listener.instances import encode, make_dataset

CHECK_EVERY: Final = 500
MAXIMUM_GROWTH_BYTES: Final = 64 * 1024 * 1024
_PER_ASSOCIATION: Final = 20
_LAST: Final = 2
_COMMAND: Final = 1
_CORNERS_8: Final = (0, 1, 2, 3, 4, 0x7F, 0x80, 0xFE, 0xFF)
_CORNERS_32: Final = (0, 1, 2, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_WARM_UP: Final = 200
_SETTLES_WITHIN_S: Final = 30.0
_SPARE_FILES: Final = 8
"""Connections that the ledger keeps open for its next user."""

_PAUSE: Final = threading.Event()
_SPOOLED: Final = re.compile(r"spool/[0-9a-f]{2}/[0-9a-f]{64}\.dcm")
_OUR_FILES: Final = frozenset(
    {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", ".lock", ".receivers"}
)
_FAULTS: Final = frozenset({"connection_failed", "association_failed", "instance_failed"})


class FaultError(Exception):
    """The listener did what it must not."""


# ---------------------------------------------------------------------- spoiling


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes: values, lengths, order, or where it ends."""
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_CHANGES)(spoiled, chance)
    return bytes(spoiled)


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(_CORNERS_8)


def _set_number(data: bytearray, chance: random.Random) -> None:
    if len(data) >= 4:
        place = chance.randrange(len(data) - 3)
        struct.pack_into(chance.choice("<>") + "L", data, place, chance.choice(_CORNERS_32))


def _cut(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 2, 4, 8, 64, len(data)))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 2, 4, 8, 64))]
    data[start:start] = piece * chance.choice((1, 2, 30))


def _insert(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.choice((1, 2, 4, 8, 64)))


def _swap(data: bytearray, chance: random.Random) -> None:
    middle = chance.randrange(len(data) + 1)
    data[:] = data[middle:] + data[:middle]


_CHANGES: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _flip,
    _set,
    _set_number,
    _cut,
    _repeat,
    _insert,
    _swap,
)


def fragments(data: bytes, context_id: int, kind: int, chance: random.Random) -> list[bytes]:
    """Cut a command set or a dataset into PDUs, of one value or of several."""
    step = chance.choice((1, 50, 1000, 16000)) if len(data) < 3000 else chance.choice((1000, 16000))
    pieces = [data[place : place + step] for place in range(0, len(data), step)] or [b""]
    values = [
        encode_pdv(context_id, kind | (_LAST if number == len(pieces) - 1 else 0), piece)
        for number, piece in enumerate(pieces)
    ]
    if chance.random() < 0.3:
        return [encode_pdu(DATA_TF, b"".join(values[n : n + 40])) for n in range(0, len(values), 40)]
    return [encode_pdu(DATA_TF, value) for value in values]


# ---------------------------------------------------------------------- the listener


@dataclass
class Target:
    """A server in this process, watched."""

    port: int
    root: Path
    registry: CollectorRegistry
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    def breaches(self) -> dict[str, int]:
        """Count what the guard has ended, by reason."""
        name = "echobeam_listener_ended_connections_total"
        counts = {breach.value: self.registry.get_sample_value(name, {"reason": breach}) for breach in Breach}
        return {reason: int(count) for reason, count in counts.items() if count}


@contextmanager
def running_target(root: Path) -> Iterator[Target]:
    """Run a server for the block. Each conversation ends with its connection: no time limit is waited for."""
    settings = ListenerSettings(
        root=root,
        port=0,
        http_port=0,
        maximum_object_bytes=1_000_000,
    )
    spool = Spool(settings.spool)
    with spool.receiving():
        ledger = Ledger(settings.ledger_url)
        registry = CollectorRegistry()
        reception = Reception(spool, ledger, ListenerMetrics(registry))
        server = start_server(make_application_entity(settings), settings, handlers(reception))
        target = Target(server.server_address[1], root, registry)
        with _watched(target):
            try:
                yield target
            finally:
                server.shutdown()
                for assoc in server.active_associations:
                    assoc.abort()
                    assoc.join()
                ledger.close()


@contextmanager
def _watched(target: Target) -> Iterator[None]:
    """Note each log line that tells of a fault, and each thread that ends with an error."""

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.get("event") in _FAULTS:
            target.faults.append(f"{event['event']}: {event.get('error')}")
        raise structlog.DropEvent

    def note_thread(args: threading.ExceptHookArgs) -> None:
        target.faults.append(f"a thread ended with {args.exc_type.__name__}")

    before, hook = structlog.get_config(), threading.excepthook
    structlog.configure(processors=[note], cache_logger_on_first_use=False)
    threading.excepthook = note_thread
    try:
        yield
    finally:
        threading.excepthook = hook
        structlog.configure(**before)


# ---------------------------------------------------------------------- inputs


class Fuzzer:
    """Sends spoiled inputs to a target. Input number N of a seed is always the same.

    Args:
        target: the server.
        seed: of all random numbers.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._request = encode_request()
        self._datasets = [
            encode(make_dataset(instance=f"1.2.3.1.{n}", pixel_bytes=size), syntax).getvalue()
            for n, size, syntax in (
                (1, 64, ExplicitVRLittleEndian),
                (2, 64, ImplicitVRLittleEndian),
                (3, 4000, ExplicitVRLittleEndian),
            )
        ]
        self._peer: RawPeer | None = None
        self._sent_over_peer = 0

    def send(self, number: int) -> None:
        """Send one input, and look at the answer.

        Raises:
            FaultError: if Success was answered and the bytes are not in the spool.
        """
        chance = random.Random(f"{self._seed} {number}")
        kind = chance.choices(("request", "pdus", "command", "dataset"), (1, 3, 3, 6))[0]
        getattr(self, f"_send_{kind}")(chance)
        self._target.kinds[kind] += 1

    def close(self) -> None:
        """Hang up."""
        if self._peer is not None:
            self._peer.connection.close()
            self._peer = None

    def _send_request(self, chance: random.Random) -> None:
        with RawPeer(self._target.port) as peer, suppress(OSError):
            peer.send(spoil(self._request, chance))
            peer.connection.shutdown(socket.SHUT_WR)
            peer.is_closed()

    def _send_pdus(self, chance: random.Random) -> None:
        pdus = [
            *fragments(encode_echo_command(), VERIFICATION_CONTEXT, _COMMAND, chance),
            *fragments(encode_store_command(), STORAGE_CONTEXT, _COMMAND, chance),
            *fragments(self._datasets[0], STORAGE_CONTEXT, 0, chance),
            encode_pdu(RELEASE_RQ, b"\0\0\0\0"),
        ]
        if chance.random() < 0.5:
            first, second = chance.randrange(len(pdus)), chance.randrange(len(pdus))
            pdus[first], pdus[second] = pdus[second], pdus[first]
        number = chance.randrange(len(pdus))
        pdus[number] = spoil(pdus[number], chance)
        with RawPeer(self._target.port) as peer, suppress(OSError):
            peer.send(self._request + b"".join(pdus) if chance.random() < 0.1 else self._request)
            peer.read_pdu()
            peer.send(b"".join(pdus))
            peer.connection.shutdown(socket.SHUT_WR)
            peer.is_closed()

    def _send_command(self, chance: random.Random) -> None:
        is_store = chance.random() < 0.8
        command = spoil(encode_store_command() if is_store else encode_echo_command(), chance)
        context_id = STORAGE_CONTEXT if is_store else VERIFICATION_CONTEXT
        pdus = fragments(command, context_id, _COMMAND, chance)
        if is_store:
            pdus += fragments(self._datasets[0], STORAGE_CONTEXT, 0, chance)
        # Nothing may come back, where the command says that more is to follow, so this is the last.
        with RawPeer(self._target.port) as peer, suppress(OSError):
            peer.send(self._request)
            peer.read_pdu()
            peer.send(b"".join(pdus))
            peer.connection.shutdown(socket.SHUT_WR)
            peer.is_closed()

    def _send_dataset(self, chance: random.Random) -> None:
        number = chance.randrange(len(self._datasets))
        dataset = spoil(self._datasets[number], chance) or b"\0"
        pdus = fragments(encode_store_command(f"1.2.3.1.{number + 1}"), STORAGE_CONTEXT, _COMMAND, chance)
        pdus += fragments(dataset, STORAGE_CONTEXT, 0, chance)
        peer = self._dataset_peer()
        peer.send(b"".join(pdus))
        status = peer.read_status()
        self._target.statuses[f"0x{status:04X}"] += 1
        if status == 0:
            self._check_kept(f"1.2.3.1.{number + 1}", dataset)

    def _check_kept(self, instance: str, dataset: bytes) -> None:
        header = encode_file_header(UltrasoundMultiFrameImageStorage, instance, ExplicitVRLittleEndian)
        sha256 = hashlib.sha256(header + dataset).hexdigest()
        path = self._target.root / "spool" / sha256[:2] / f"{sha256}.dcm"
        if not path.exists() or path.read_bytes() != header + dataset:
            raise FaultError("Success was answered, and the bytes are not in the spool")

    def _dataset_peer(self) -> RawPeer:
        """Give an association for well-formed messages; a new one now and then."""
        if self._peer is None or self._sent_over_peer >= _PER_ASSOCIATION:
            self.close()
            self._peer = RawPeer(self._target.port)
            self._peer.associate()
            self._sent_over_peer = 0
        self._sent_over_peer += 1
        return self._peer


# ---------------------------------------------------------------------- looking


class Watch:
    """Looks from outside whether the listener still is as it was.

    Args:
        target: the server.
        outside: a folder that is the process's temporary one and has to stay empty.
    """

    def __init__(self, target: Target, outside: Path) -> None:
        self._target = target
        self._outside = outside
        self._began_with_bytes = resident_bytes()
        self._began_with_files = open_files()
        self._began_with_threads = threading.active_count()
        self.peak_growth_bytes = 0

    def look(self) -> None:
        """Compare with the start.

        Raises:
            FaultError: if anything has gone wrong, or grown.
        """
        with RawPeer(self._target.port) as peer:
            dataset = encode(make_dataset(instance="1.2.3.9.9")).getvalue()
            if peer.associate().store(dataset, "1.2.3.9.9") != 0:
                raise FaultError("an honest sender was refused")
        if self._target.faults:
            raise FaultError("; ".join(self._target.faults))
        deadline = time.monotonic() + _SETTLES_WITHIN_S
        while not self._is_settled():
            if time.monotonic() > deadline:
                raise FaultError(
                    f"{threading.active_count() - self._began_with_threads} threads, "
                    f"{open_files() - self._began_with_files} open files and "
                    f"{len(self._unfinished())} unfinished files are left over"
                )
            _PAUSE.wait(0.05)
        gc.collect()
        self.peak_growth_bytes = max(self.peak_growth_bytes, resident_bytes() - self._began_with_bytes)
        if self.peak_growth_bytes > MAXIMUM_GROWTH_BYTES:
            raise FaultError(f"memory has grown by {self.peak_growth_bytes} bytes")
        self._look_at_files()

    def _is_settled(self) -> bool:
        return (
            threading.active_count() <= self._began_with_threads
            and open_files() <= self._began_with_files + _SPARE_FILES
            and not self._unfinished()
        )

    def _unfinished(self) -> list[Path]:
        return list(self._target.root.glob("spool/tmp/*"))

    def _look_at_files(self) -> None:
        strangers = [
            path
            for path in self._target.root.rglob("*")
            if path.is_file()
            and not _SPOOLED.fullmatch(str(path.relative_to(self._target.root)))
            and path.name not in _OUR_FILES
        ]
        strangers += list(self._outside.iterdir())
        if strangers:
            raise FaultError(f"{len(strangers)} files are where none belongs, as {strangers[0].name}")


def resident_bytes() -> int:
    """Say how much memory this process uses now; its peak where the system tells no more."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_files() -> int:
    """Count this process's open files; 0 where the system does not tell."""
    with suppress(OSError):
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    return 0


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        inputs: how many were sent, by what was spoiled.
        statuses: how often each status was answered to a spoiled dataset.
        breaches: how often the guard ended a connection, by reason.
        growth_bytes: how much more memory than at the start was ever in use between two rounds.
        seconds: how long it took.
    """

    inputs: dict[str, int]
    statuses: dict[str, int]
    breaches: dict[str, int]
    growth_bytes: int
    seconds: float


def run(
    cases: int, seed: int, *, first: int = 0, tell: Callable[[int], None] = lambda _number: None
) -> Outcome:
    """Send inputs number `first` to `first + cases - 1` of a seed.

    Args:
        cases: how many.
        seed: of all random numbers.
        first: the number of the first.
        tell: called with a number now and then.

    Raises:
        FaultError: with the numbers among which the cause is, as soon as the listener did something wrong.
    """
    began_at = time.monotonic()
    in_memory = Path("/dev/shm")  # noqa: S108 - many small files that need no disk
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        root, outside = Path(folder) / "root", Path(folder) / "outside"
        root.mkdir()
        outside.mkdir()
        with _temporary_folder(outside), running_target(root) as target:
            fuzzer = Fuzzer(target, seed)
            # Not looked at for growth: what is imported and cached at first use.
            _send_round(fuzzer, Watch(target, outside), range(_WARM_UP), seed)
            target.kinds.clear()
            target.statuses.clear()
            watch = Watch(target, outside)
            for start in range(first, first + cases, CHECK_EVERY):
                numbers = range(start, min(start + CHECK_EVERY, first + cases))
                _send_round(fuzzer, watch, numbers, seed)
                tell(numbers.stop - first)
            return Outcome(
                inputs=dict(target.kinds),
                statuses=dict(sorted(target.statuses.items())),
                breaches=target.breaches(),
                growth_bytes=watch.peak_growth_bytes,
                seconds=time.monotonic() - began_at,
            )


def _send_round(fuzzer: Fuzzer, watch: Watch, numbers: range, seed: int) -> None:
    try:
        try:
            for number in numbers:
                fuzzer.send(number)
        finally:
            fuzzer.close()
        watch.look()
    except (FaultError, AssertionError, OSError) as error:
        raise FaultError(f"seed {seed}, inputs {numbers.start} to {numbers.stop - 1}: {error!r}") from error


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def main() -> None:
    """Print what was sent and how it was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, help="how many inputs  [default: 100000]")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers  [default: 1]")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat some")
    parser.add_argument("--quick", action="store_true", help="2000 inputs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    cases = 2000 if options.quick else options.cases
    try:
        outcome = run(
            cases,
            options.seed,
            first=options.first,
            tell=lambda number: print(f"\r{number} of {cases}", end="", file=sys.stderr, flush=True),
        )
    except FaultError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    print(file=sys.stderr)
    if options.json:
        print(json.dumps(asdict(outcome), indent=2))
        return
    print(f"seed {options.seed}, inputs {options.first} to {options.first + cases - 1}: no fault")
    print(f"memory: {outcome.growth_bytes / 1e6:.1f} MB more than at the start, at most")
    print(f"time: {outcome.seconds:.0f} s")
    for title, counted in (
        ("spoiled", outcome.inputs),
        ("status of spoiled datasets", outcome.statuses),
        ("ended by the guard", outcome.breaches),
    ):
        print(f"\n{title}")
        for name, count in sorted(counted.items(), key=lambda item: -item[1]):
            print(f"  {name:24}{count:>8}")


if __name__ == "__main__":
    main()
