"""How fast the worker turns a spool into committed tables, beside the bare networks.

The limit is the same networks fed ready-made batches: every frame is decoded, cleaned, masked and in
memory before the clock starts, and what they predict is dropped. A ratio of 0.9 says that reading,
de-identifying, decoding, Beam, Parquet, fsync and the ledger together take a tenth of the time. Both
are run in turn, on wall clocks, in one process that has loaded and compiled the models before.

    python -m benchmarks.pipeline [--quick] [--json] [--models DIR]
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
import structlog
from pydicom.uid import JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import (
    a4c_indexes,
    classify_views,
    hypertrophy_indexes,
    segment_field_of_view,
    segment_left_ventricle,
    spread,
)
from beam_jobs.phantom_studies import PhantomStudy
from beam_jobs.quiet_beam import quiet_beam
from beam_jobs.records import Chunk, Placement
from beam_jobs.settings import WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.ledger.completion import CompletionRule
from echo_models.bundle import Bundle, load_bundle_cached
from echo_models.manifest import TASKS
from echo_models.preprocessing import apply_mask
from echo_models.registry import Registry

Frames = npt.NDArray[np.uint8]
VIEWS_SHOWN = ("plax", "psax_mid", "a2c", "a4c", "a4c", "cw")
"""Clips of one study: about the mix of an archive, in which four-chamber clips are common."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    studies: int
    frames_per_clip: int
    rounds: int


QUICK = Size(studies=4, frames_per_clip=24, rounds=3)
FULL = Size(studies=16, frames_per_clip=48, rounds=7)


class Archive:
    """A spool with one phantom study, and a ledger in which it may be received as many studies.

    Args:
        root: an empty folder.
        models: folder of a registry; None installs the bundles that ship with the package.
        size: how much is measured.
    """

    def __init__(self, root: Path, models: Path | None, size: Size) -> None:
        self._size = size
        self._received = 0
        self.settings = WorkerSettings(
            root=root,
            http_port=0,
            studies_per_batch=size.studies,
            models=models.absolute() if models else Path("models"),
        )
        Registry(self.settings.models).install_shipped()
        self.ledger = Ledger(self.settings.ledger_url)
        self._instances = list(self._spool())
        self.bundles = {
            task: load_bundle_cached(Registry(self.settings.models).resolve(task)) for task in TASKS
        }

    def _spool(self) -> Iterator[SpooledInstance]:
        study = PhantomStudy(seed=7, frames_per_clip=self._size.frames_per_clip, views=VIEWS_SHOWN)
        for number, path in enumerate(study.write(self.settings.spool)):
            content = path.read_bytes()
            yield SpooledInstance(
                sop_instance_uid=f"1.2.{number}",
                series_instance_uid="1.2",
                sop_class_uid=UltrasoundMultiFrameImageStorage,
                transfer_syntax_uid=JPEGBaseline8Bit,
                path=path.name,
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
            )

    def receive(self) -> int:
        """Receive the studies of one round; gives how many frames they have."""
        now = time.time() - 1
        for _ in range(self._size.studies):
            self._received += 1
            for instance in self._instances:
                received = ReceivedInstance(f"1.2.3.{self._received}", "phantom", instance)
                self.ledger.record_instance(received, association="a", hold_until=now, now=now)
        self.ledger.release_holds("a")
        return self._size.studies * len(self._instances) * self._size.frames_per_clip

    def chunks(self) -> list[Chunk]:
        """Decode and clean the frames of one round."""
        pseudonymizer = Pseudonymizer.from_key_file(self.settings.key_file)
        placement = Placement("", "s", pseudonymizer.subject_key("phantom", ""), 1, 1, "", "")
        decoded = [
            chunk
            for instance in self._instances
            for chunk in flatten_frames(
                deidentify_instance(
                    read_instance(self.settings.spool / instance.path), placement, pseudonymizer
                )
            )
        ]
        return decoded * self._size.studies


def ready_batches(archive: Archive) -> list[tuple[Bundle, Frames]]:
    """Give what each network is asked in one round, masked as it wants it."""
    settings, bundles = archive.settings, archive.bundles
    chunks, size = archive.chunks(), settings.batch_size
    sampled = 3
    segmented = segment_field_of_view(chunks, bundles["fov"], frames_per_clip=sampled, batch_size=size)
    classified = classify_views(segmented, bundles["view"], batch_size=size)
    outlined = segment_left_ventricle(classified, bundles["lv"], batch_size=size)
    masked = [apply_mask(chunk.frames, chunk.fov_masks[0]) for chunk in segmented]

    def stacked(indexes: Sequence[npt.NDArray[np.int64]], frames: Sequence[Frames]) -> Frames:
        return np.concatenate([part[index] for part, index in zip(frames, indexes, strict=True)])

    plain = [chunk.frames for chunk in chunks]
    return [
        (bundles["fov"], stacked([spread(len(part), sampled) for part in plain], plain)),
        (bundles["view"], np.concatenate(masked)),
        (
            bundles["lv"],
            stacked(
                [a4c_indexes(chunk.view_probabilities, chunk.view_known) for chunk in classified], masked
            ),
        ),
        (bundles["lvh"], stacked([hypertrophy_indexes(chunk) for chunk in outlined], masked)),
    ]


def seconds(work: Callable[[], None]) -> float:
    """Time one piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(archive: Archive, rounds: int) -> list[dict[str, float | str]]:
    """Run worker and networks in turn; gives a row each."""
    batches = ready_batches(archive)
    rule = CompletionRule(quiet_period_s=0, max_age_s=1)
    frames = 0

    def networks() -> None:
        for bundle, given in batches:
            if len(given):
                bundle.predict(given, batch_size=archive.settings.batch_size)

    times: dict[str, list[float]] = {"worker": [], "networks": []}
    with Worker(archive.settings, rule) as worker:
        for number in range(rounds + 1):
            frames = archive.receive()
            worker_s, networks_s = seconds(lambda: worker.run(once=True)), seconds(networks)
            if number:  # the first round warms up
                times["worker"].append(worker_s)
                times["networks"].append(networks_s)
    counts = archive.ledger.counts_by_state()
    if counts["done"] != sum(counts.values()):
        raise RuntimeError(f"every study must be done for the times to mean anything; states: {counts}")
    ratio = statistics.median(times["networks"]) / statistics.median(times["worker"])
    return [
        {
            "what": name,
            "frames_per_s": frames / statistics.median(runs),
            "spread_ratio": (max(runs) - min(runs)) / statistics.median(runs),
            "ratio_to_networks": ratio if name == "worker" else 1.0,
            "frames": frames,
            "rounds": rounds,
        }
        for name, runs in times.items()
    ]


@contextmanager
def archive_of(size: Size, models: Path | None) -> Iterator[Archive]:
    """Make an archive in a temporary folder for the block."""
    with tempfile.TemporaryDirectory() as root:
        archive = Archive(Path(root), models, size)
        try:
            yield archive
        finally:
            archive.ledger.close()


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few frames and rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--models", type=Path, help="another registry than the shipped bundles")
    options = parser.parse_args()
    quiet_beam()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    size = QUICK if options.quick else FULL
    with archive_of(size, options.models) as archive:
        rows = measure(archive, size.rounds)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{rows[0]['frames']} frames a round, {rows[0]['rounds']} rounds, medians")
    print(f"{'':10}{'frames/s':>12}{'spread':>10}{'ratio':>10}")
    for row in rows:
        print(
            f"{row['what']:10}{row['frames_per_s']:12.1f}{row['spread_ratio']:10.2f}{row['ratio_to_networks']:10.3f}"
        )


if __name__ == "__main__":
    main()
