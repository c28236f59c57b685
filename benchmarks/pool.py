"""What the pool job costs in time and memory, on synthetic archives of growing size.

`whole` runs the job on an archive on disk: stored frames of the phantom, each made different, and tables
with three frames of other views for each of them. A dataset may have 200,000 frames, as by default.
`choice` leaves the disk out: references are made up and go through every step that chooses, so that sizes
can be tried for which there is no disk. Each size has a process of its own; memory is what its peak grew by
over that of a job on a small archive, so that libraries and fixed buffers are not in it.

    python -m benchmarks.pool [--quick] [--json] [--report FILE --machine WORDS]
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.engine import new_pipeline
from beam_jobs.pool import build_pool
from beam_jobs.pooling.references import DTYPE, FRAME_BYTES, References
from beam_jobs.pooling.rules import PoolRules
from beam_jobs.pooling.steps import FindLimits, KeepDistinct, KeepUnderCaps, KeepWithinLimits
from beam_jobs.quiet_beam import quiet_beam
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import A4C_SCHEMA
from echo_models.datasets import Plan, render
from echo_models.preprocessing import apply_mask
from echo_models.views import A4C

WHOLE: Final = (100_000, 1_000_000)
CHOICE: Final = (1_000_000, 10_000_000)
QUICK: Final = ((2_000,), (100_000,))
SMALL: Final = 2_000
FRAMES_A_STUDY: Final = 128
FRAMES_A_CLIP: Final = 32
MAKERS: Final = (("Philips", 0.7), ("GE", 0.95), ("Siemens", 1.0))
BUCKETS: Final = 256
MIB: Final = 2**20


# --- made-up archives -------------------------------------------------------------------------------


def key(name: str) -> str:
    """Make up a key."""
    return sha256(name.encode()).hexdigest()[:32]


def maker_of(study: int) -> str:
    """Say who made the scanner of a study; one maker has most of them."""
    drawn = int(key(f"maker-{study}")[:8], 16) / 2**32
    return next(name for name, up_to in MAKERS if drawn < up_to)


def write_archive(root: Path, frames: int) -> None:
    """Write stored frames and tables; one frame in 50 is stored twice."""
    bank = phantom_frames()
    for study in range(-(-frames // FRAMES_A_STUDY)):
        count = min(FRAMES_A_STUDY, frames - study * FRAMES_A_STUDY)
        write_study(root, study, count, bank)


def phantom_frames() -> npt.NDArray[np.uint8]:
    """Render frames to copy from: [N, 19200], uint8, masked by their field of view."""
    rendered = render(Plan(seed=1, subjects=FRAMES_A_STUDY // 2, views=(A4C,)), cache=None)
    return apply_mask(rendered.frames, rendered.fov_masks).reshape(-1, FRAME_BYTES)


def write_study(root: Path, study: int, count: int, bank: npt.NDArray[np.uint8]) -> None:
    """Write one study's files as the worker would."""
    random = np.random.default_rng(study)
    name, subject = key(f"study-{study}"), key(f"subject-{study * 2 // 3}")
    frames = bank[random.permutation(len(bank))[:count]]
    frames[:, :8] = np.frombuffer(random.bytes(8 * count), np.uint8).reshape(count, 8)
    repeats = np.arange(count) % 50 == 49
    frames[repeats] = frames[np.flatnonzero(repeats) - 1]
    instances = [key(f"clip-{study}-{number // FRAMES_A_CLIP}") for number in range(count)]
    indexes = np.arange(count, dtype=np.int32) % FRAMES_A_CLIP
    stored = pa.table(
        {
            "subject_key": [subject] * count,
            "study_key": [name] * count,
            "instance_key": instances,
            "frame_index": indexes,
            "view_confidence": random.uniform(0.5, 1, count).astype(np.float32),
            "fov_area_ratio": np.full(count, 0.5, np.float32),
            "lv_area_ratio": np.full(count, 0.1, np.float32),
            "frame": [frame.tobytes() for frame in frames],
        },
        schema=A4C_SCHEMA,
    )
    others = 3 * count
    rows = pa.table(
        {
            "study_key": [name] * (count + others),
            "instance_key": instances + [key(f"other-{study}")] * others,
            "frame_index": np.concatenate([indexes, np.arange(others, dtype=np.int32)]),
            "view": [A4C] * count + ["plax"] * others,
            "is_known": np.concatenate([random.random(count) < 0.98, np.ones(others, bool)]),
        }
    )
    makers = pa.table({"study_key": [name], "manufacturer": [maker_of(study)]})
    for folder, table in (
        ("pool/a4c", stored),
        ("results/frames/study_year=0", rows),
        ("results/studies/study_year=0", makers),
    ):
        path = root / folder / f"bucket={bucket_of(name)}" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")


def made_up_references(bucket: int, count: int) -> References:
    """Make up the references of a bucket; one frame in 50 is a duplicate."""
    random = np.random.default_rng(bucket)
    rows = np.empty(count, DTYPE)
    study = np.arange(count) // FRAMES_A_STUDY
    clip = np.arange(count) // FRAMES_A_CLIP
    for name, which in (("subject_key", study * 2 // 3), ("study_key", study), ("instance_key", clip)):
        rows[name] = random_keys(random, int(which.max()) + 1)[which]
    rows["frame_index"] = np.arange(count) % FRAMES_A_CLIP
    rows["pixel_digest"] = random_keys(random, count)
    rows["machine"] = np.array([maker_of(number) for number in range(int(study.max()) + 1)], "S24")[study]
    rows["pixel_digest"][::50] = rows["pixel_digest"][1::50][: len(rows[::50])]
    return References(rows)


def random_keys(random: np.random.Generator, count: int) -> npt.NDArray[np.bytes_]:
    """Make up packed keys: [N], S16."""
    return np.frombuffer(random.bytes(16 * count), "S16")


# --- measuring --------------------------------------------------------------------------------------


def run_whole(folder: Path) -> dict[str, int]:
    """Build the pool of an archive on disk."""
    manifest = build_pool(folder / "pool", folder / "results", PoolRules()).manifest
    return {"frames": manifest.candidates, "kept": manifest.frames, **manifest.machines}


def run_choice(frames: int) -> dict[str, int]:
    """Choose among made-up references."""
    rules = PoolRules()
    told = Path(tempfile.mkdtemp(prefix="echobeam-pool-")) / "kept"
    with new_pipeline(()) as pipeline:
        read = (
            pipeline
            | beam.Create(range(BUCKETS))
            | beam.Reshuffle()
            | beam.Map(made_up_references, frames // BUCKETS)
        )
        capped = (read | KeepDistinct()).frames | KeepUnderCaps(rules)
        within = capped.frames | KeepWithinLimits(capped.frames | FindLimits(rules))
        kept = within.frames | "Count" >> beam.Map(len) | beam.CombineGlobally(sum)
        _ = kept | "Tell" >> beam.Map(lambda count, path: path.write_text(str(count)), told)
    found = {"frames": frames // BUCKETS * BUCKETS, "kept": int(told.read_text())}
    shutil.rmtree(told.parent)
    return found


def peak_bytes() -> int:
    """Give the most memory that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_here(what: str, small: str, large: str) -> dict[str, Any]:
    """Run one size in this process, after a small one."""
    quiet_beam()

    def run(size: str) -> dict[str, int]:
        return run_whole(Path(size)) if what == "whole" else run_choice(int(size))

    run(small)
    before, begun = peak_bytes(), time.process_time()
    found = run(large)
    return {**found, "growth_bytes": peak_bytes() - before, "cpu_seconds": time.process_time() - begun}


def measure(what: str, small: str, large: str) -> dict[str, Any]:
    """Run one size in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this very file
        [sys.executable, "-m", "benchmarks.pool", "--measure", what, small, large],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"what": what, **found}


def measurements(*, quick: bool) -> Iterator[dict[str, Any]]:
    """Measure every size, what needs no disk first."""
    whole, choice = QUICK if quick else (WHOLE, CHOICE)
    for size in choice:
        yield measure("choice", str(BUCKETS * FRAMES_A_STUDY), str(size))
    folder = Path(tempfile.mkdtemp(prefix="echobeam-pool-"))
    try:
        write_archive(folder / "small", SMALL)
        for size in whole:
            write_archive(folder / "large", size)
            found = measure("whole", str(folder / "small"), str(folder / "large"))
            stored = sum(path.stat().st_size for path in (folder / "large/pool/a4c").rglob("*.parquet"))
            yield {**found, "stored_bytes": stored}
            shutil.rmtree(folder / "large")
    finally:
        shutil.rmtree(folder)


# --- telling ----------------------------------------------------------------------------------------

_HEAD: Final = (
    "| | frames | of them chosen | memory, MiB | the pixels, MiB | bytes of memory a frame | seconds of CPU "
    "| frames a second of CPU |\n|---|---|---|---|---|---|---|---|"
)


def row(found: dict[str, Any]) -> str:
    """Show one measurement as a row of a table."""
    frames = found["frames"]
    return (
        f"| {found['what']} | {frames:,} | {found['kept']:,} | {found['growth_bytes'] / MIB:,.0f} "
        f"| {frames * FRAME_BYTES / MIB:,.0f} | {found['growth_bytes'] / frames:,.0f} "
        f"| {found['cpu_seconds']:,.0f} | {frames / found['cpu_seconds']:,.0f} |"
    )


def write_report(path: Path, found: list[dict[str, Any]], command: str, machine: str) -> None:
    """Write the report: what was measured, the command, the commit, the machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git is on PATH
        capture_output=True,
        text=True,
        check=True,
    )
    table = "\n".join([_HEAD, *map(row, found)])
    path.write_text(
        "# Pool job\n\n"
        "Time and memory of the job that builds the unlabeled pool, on synthetic archives: frames of the\n"
        "phantom, made-up keys. What `whole` and `choice` are, and how memory is measured, is told in\n"
        "[benchmarks/pool.py](../../benchmarks/pool.py).\n\n"
        f"Command: `{command}`\n\n"
        f"Commit: {commit.stdout.strip()}. Machine: {machine}. Seeds: the numbers of study and bucket.\n\n"
        f"{table}\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small archive")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", type=Path, help="write the report to this file")
    parser.add_argument("--machine", default="not told", help="the machine in words, for the report")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "SMALL", "LARGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_here(*options.measure)))
        return
    found = []
    print(_HEAD)
    for measured in measurements(quick=options.quick):
        found.append(measured)
        print(row(measured), flush=True)
        if options.report:  # anew after each, as the last take long
            words = " ".join(sys.argv[1:]).partition(" --machine")[0]
            write_report(options.report, found, f"python -m benchmarks.pool {words}", options.machine)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
