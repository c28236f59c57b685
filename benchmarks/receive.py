"""How fast the listener receives, beside DCMTK's storescp and Orthanc.

The same files go to each in turn, by as many `storescu` processes as there are associations, and every
round begins with an empty store. Answered is not the same everywhere: the listener answers Success when
the instance is on disk (fsync of file and folder) and in its ledger, Orthanc when it has written its file
(with fsync, its default) and its database, storescp when it has handed the bytes to the system: it never
calls fsync. `TCP_NODELAY=1` for all DCMTK programs.

CPU time is that of the receiver and its children per MB; peak memory is the sum of the proportional
shares (PSS) of all its processes, looked at ten times a second.

    python -m benchmarks.receive [--quick] [--json] [--rounds N] [--processes N] [--large]
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

_DEADLINE_S: Final = 120.0
_LOOK_S: Final = 0.1
_MB: Final = 1_000_000
_PAUSE: Final = threading.Event()
_AE_TITLE: Final = "ECHOBEAM"
_ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in one round.

    Attributes:
        object_bytes: size of one instance's pixels.
        objects: how many instances.
    """

    object_bytes: int
    objects: int


FULL: Final = (Load(100_000, 4000), Load(7 * _MB, 96), Load(40 * _MB, 16))
QUICK: Final = (Load(100_000, 400), Load(7 * _MB, 16), Load(40 * _MB, 8))
LARGE: Final = Load(400 * _MB, 8)
ASSOCIATIONS: Final = (1, 4, 8)


class Receiver(Protocol):
    """A program that receives."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def command(self, root: Path, port: int) -> list[str]:
        """Prepare an empty folder, and say how the program is started on it."""

    def received(self, root: Path) -> int:
        """Count the instances that are there."""


@dataclass(frozen=True, slots=True)
class Echobeam:
    """The listener, as it is installed, closed to all but this machine."""

    processes: int = 1
    name: str = "echobeam"

    def command(self, root: Path, port: int) -> list[str]:
        """Write the configuration."""
        (root / "echobeam.toml").write_text(f"[listener]\nprocesses = {self.processes}\n", encoding="utf-8")
        listen = ("listen", "--root", str(root), "--port", str(port), "--http-port", "0", "--quiet")
        return [sys.executable, "-c", "from beam_jobs.command import main; main()", *listen]

    def received(self, root: Path) -> int:
        """Count the files of the spool."""
        return sum(1 for _ in root.glob("spool/??/*.dcm"))


@dataclass(frozen=True, slots=True)
class Storescp:
    """DCMTK's receiver: a process for each association, files as they are sent, no fsync."""

    name: str = "storescp"

    def command(self, root: Path, port: int) -> list[str]:
        """Say how it is started."""
        (root / "files").mkdir()
        options = ("--fork", "+B", "+xa", "-pdu", "131072", "-aet", _AE_TITLE)
        return [_find("storescp"), *options, "-od", str(root / "files"), str(port)]

    def received(self, root: Path) -> int:
        """Count the files."""
        return sum(1 for _ in (root / "files").iterdir())


@dataclass(frozen=True, slots=True)
class Orthanc:
    """An archive with an index, as Debian ships it: SQLite, fsync of each file."""

    name: str = "orthanc"

    def command(self, root: Path, port: int) -> list[str]:
        """Write the configuration."""
        configuration = {
            "Name": "benchmark",
            "StorageDirectory": str(root / "files"),
            "IndexDirectory": str(root / "files"),
            "StorageCompression": False,
            "HttpServerEnabled": False,
            "DicomAet": _AE_TITLE,
            "DicomPort": port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "OverwriteInstances": True,
            "SyncStorageArea": True,
            "StableAge": 3600,
        }
        (root / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
        return [_find("Orthanc"), str(root / "orthanc.json")]

    def received(self, root: Path) -> int:
        """Count the DICOM files: of each instance there is one, and its summary beside it."""
        files = (path for path in root.glob("files/??/??/*") if path.is_file())
        return sum(1 for path in files if _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _find(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None:
        raise SystemExit(f"{program} is not installed: this benchmark compares with it")
    return found


# ---------------------------------------------------------------------- files and senders


def write_files(folder: Path, load: Load) -> list[Path]:
    """Write the instances of a load: one study, random pixels."""
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    paths = []
    for number in range(load.objects):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
        ds.StudyDate, ds.Modality, ds.Manufacturer = "20200101", "US", "nobody"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "", "0001"]
        ds.PatientName, ds.PatientID = "Benchmark", "benchmark"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.InstanceNumber = number + 1
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.NumberOfFrames, ds.Rows, ds.Columns = load.object_bytes // 10_000, 100, 100
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.PixelData = os.urandom(10_000) * ds.NumberOfFrames
        path = folder / f"{number:05}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def send(files: Sequence[Path], port: int, associations: int) -> float:
    """Send files over some associations at once; gives the seconds until the last is answered.

    Raises:
        RuntimeError: if a sender was not content.
    """
    storescu = [_find("storescu"), "-xe", "-R", "-aec", _AE_TITLE, "127.0.0.1", str(port)]
    began_at = time.perf_counter()
    senders = [
        subprocess.Popen(  # noqa: S603 - a program found on PATH
            [*storescu, *map(str, files[number::associations])],
            env=_ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(associations)
    ]
    said = [sender.communicate(timeout=_DEADLINE_S)[1] for sender in senders]
    took_s = time.perf_counter() - began_at
    if any(sender.returncode for sender in senders):
        raise RuntimeError("a sender was refused: " + " ".join(said)[:500])
    return took_s


# ---------------------------------------------------------------------- looking at the receiver


class Meter:
    """CPU time and memory of a process and all it has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._began_with_s = self._cpu_s()
        self._thread.start()

    def close(self) -> float:
        """Stop looking; gives the CPU seconds since the start."""
        self._stop.set()
        self._thread.join()
        return self._cpu_s() - self._began_with_s

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, self._tree())))

    def _tree(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        tree = [self._pid]
        for pid in tree:
            tree.extend(children.get(pid, []))
        return tree

    def _cpu_s(self) -> float:
        ticks = 0
        for pid in self._tree():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # own and waited-for children's, user and system
        return ticks / os.sysconf("SC_CLK_TCK")


def _pss_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@contextmanager
def running(receiver: Receiver, root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a receiver on an empty folder for the block; gives it and its port."""
    port = _free_port()
    with subprocess.Popen(  # noqa: S603 - a program found on PATH, or ourselves
        receiver.command(root, port), env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for_port(process, port)
            yield process, port
        finally:
            process.terminate()
            process.wait(_DEADLINE_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        _PAUSE.wait(0.05)
    raise RuntimeError("the receiver does not listen")


# ---------------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of one receiver gave."""

    mb_per_s: float
    cpu_ms_per_mb: float
    peak_mb: float


def measure_round(receiver: Receiver, files: Sequence[Path], associations: int) -> Round:
    """Send all files once to a receiver that has nothing yet.

    Raises:
        RuntimeError: if not all of them are there afterwards.
    """
    size_bytes = sum(path.stat().st_size for path in files)
    with tempfile.TemporaryDirectory() as folder:
        _spread(Path(folder))
        root = Path(folder) / "store"
        root.mkdir()
        with running(receiver, root) as (process, port):
            meter = Meter(process.pid)
            took_s = send(files, port, associations)
            _PAUSE.wait(2 * _LOOK_S)
            cpu_s = meter.close()
            received = receiver.received(root)
        if received != len(files):
            raise RuntimeError(f"{receiver.name} has {received} of {len(files)} instances")
    os.sync()  # what one has left to write must not slow the next
    return Round(size_bytes / _MB / took_s, 1000 * cpu_s / (size_bytes / _MB), meter.peak_bytes / _MB)


def _spread(folder: Path) -> None:
    """Ask ext4 for another place of the disk than that of the last round, which was just deleted.

    Where thousands of files were deleted in the last minutes, making one takes it ten times as long: no
    receiver's store looks like that.
    """
    with suppress(OSError):
        command = ["chattr", "+T", str(folder)]  # absent, or another file system: then without
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # noqa: S603


def measure(
    receivers: Sequence[Receiver], loads: Sequence[Load], rounds: int, associations: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Measure every receiver under every load; gives a row each, medians of all rounds."""
    for load in loads:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(Path(folder) / "files", load)
            for number in associations:
                results: dict[str, list[Round]] = {receiver.name: [] for receiver in receivers}
                for turn in range(rounds):
                    for place in range(len(receivers)):  # another begins each time
                        receiver = receivers[(turn + place) % len(receivers)]
                        results[receiver.name].append(measure_round(receiver, files, number))
                yield from _rows(load, number, results)


def _rows(load: Load, associations: int, results: dict[str, list[Round]]) -> Iterator[dict[str, Any]]:
    ours = statistics.median(each.mb_per_s for each in next(iter(results.values())))
    for name, rounds in results.items():
        speeds = [each.mb_per_s for each in rounds]
        median = statistics.median(speeds)
        yield {
            "object_mb": load.object_bytes / _MB,
            "associations": associations,
            "receiver": name,
            "mb_per_s": median,
            "spread_ratio": (max(speeds) - min(speeds)) / median,
            "ours_to_this_ratio": ours / median,
            "cpu_ms_per_mb": statistics.median(each.cpu_ms_per_mb for each in rounds),
            "peak_mb": max(each.peak_mb for each in rounds),
            "rounds": len(rounds),
            "load": asdict(load),
        }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few instances, one round")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, help="rounds of which the median is told  [default: 5]")
    parser.add_argument("--processes", type=int, default=1, help="processes of the listener  [default: 1]")
    parser.add_argument("--large", action="store_true", help="only: 8 instances of 400 MB to the listener")
    parser.add_argument("--only", help="one of the receivers: echobeam, storescp, orthanc")
    options = parser.parse_args()
    receivers: list[Receiver] = [Echobeam(options.processes), Storescp(), Orthanc()]
    rounds = options.rounds or (1 if options.quick else 5)
    loads: Sequence[Load] = QUICK if options.quick else FULL
    associations: Sequence[int] = ASSOCIATIONS
    if options.large:
        receivers, loads, associations = receivers[:1], (LARGE,), (1, 8)
    if options.only:
        receivers = [receiver for receiver in receivers if receiver.name == options.only]
    rows = []
    if not options.json:
        print(f"{'object':>8}{'assoc.':>8}  {'receiver':10}{'MB/s':>8}{'spread':>8}{'ours/this':>11}", end="")
        print(f"{'CPU ms/MB':>11}{'peak MB':>9}")
    for row in measure(receivers, loads, rounds, associations):
        rows.append(row)
        if not options.json:
            print(
                f"{row['object_mb']:>5g} MB{row['associations']:>8}  {row['receiver']:10}"
                f"{row['mb_per_s']:8.1f}{row['spread_ratio']:8.2f}{row['ours_to_this_ratio']:11.2f}{row['cpu_ms_per_mb']:11.2f}"
                f"{row['peak_mb']:9.0f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
