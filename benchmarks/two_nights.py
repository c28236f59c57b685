"""Whether a night learns more from an archive that has grown: two whole nights, and what the second owes to.

An archive of synthetic studies is made as the worker leaves it; a night is run on its first part, then one
on all of it, with the same labeled frames, by `beam_jobs.retrain` itself. In production at first is a network
that has learned nothing. A third night, in a root of its own, has the first one's archive and the second
one's number of steps: it tells what came from more frames and what from more training.

    python -m benchmarks.two_nights [--size toy|small] [--seed 0] [--work DIR] [--report FILE]

With --work a run that was killed goes on.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.labeled_sets import CLASSES
from beam_jobs.quiet_beam import quiet_beam
from beam_jobs.result_files import bucket_of
from beam_jobs.retrain import Night, retrain
from beam_jobs.retrain_settings import RetrainSettings
from beam_jobs.schemas import A4C_SCHEMA
from dicom_listener.log import configure_logging
from dicom_listener.settings import load_section
from echo_models.bundle import write_bundle
from echo_models.datasets import LabeledFrames, Plan, render
from echo_models.networks import PRESETS, build_discriminator, build_discriminator_classifier
from echo_models.preprocessing import apply_mask
from echo_models.recipes import code_version
from echo_models.registry import Registry
from echo_models.views import A4C

ARCHIVE_SEED: Final = 77
"""Of the archive's subjects; neither labeled frames nor the fixed set have it."""

BATCH: Final = 32
PRESET: Final = dataclasses.replace(PRESETS["small"], gan_size=56)
"""Frames of 56 x 56 cost a quarter of what those of 110 x 110 do."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    Attributes:
        studies: of the first night, and of the second.
        frames_per_study: that the worker stored.
        epochs: passes over the pool.
    """

    studies: tuple[int, int]
    frames_per_study: int
    epochs: int
    labeled_subjects: int
    test_subjects: int

    def steps(self, night: int) -> int:
        """Give how many steps of training a night makes."""
        return self.epochs * (self.studies[night] * self.frames_per_study // BATCH)


SIZES: Final = {
    "toy": Size((8, 16), frames_per_study=4, epochs=1, labeled_subjects=8, test_subjects=12),
    "small": Size((24, 160), frames_per_study=8, epochs=15, labeled_subjects=120, test_subjects=200),
}

NAMES: Final = ("night 1", "night 2", "night 1's archive, night 2's steps")


def make_archive(frames: LabeledFrames, root: Path, studies: int) -> None:
    """Write the first studies of an archive as `WriteStudies` leaves them; one subject a study."""
    masked = apply_mask(frames.frames, frames.fov_masks)
    for subject in range(studies):
        mine = np.flatnonzero(frames.subjects == subject)
        keys = {name: hashlib.sha256(f"{name} {subject}".encode()).hexdigest()[:32] for name in _KEYS}
        columns: dict[str, Any] = {name: [value] * len(mine) for name, value in keys.items()}
        columns |= {
            "frame_index": list(range(len(mine))),
            "view_confidence": [0.9] * len(mine),
            "fov_area_ratio": frames.fov_masks[mine].mean(axis=(1, 2)).tolist(),
            "lv_area_ratio": frames.lv_masks[mine].mean(axis=(1, 2)).tolist(),
            "frame": [frame.tobytes() for frame in masked[mine]],
        }
        stored = pa.table({name: columns[name] for name in A4C_SCHEMA.names}, schema=A4C_SCHEMA)
        rows = stored.drop_columns(["frame"]).append_column("view", pa.array([A4C] * len(mine)))
        study = pa.table({"study_key": [keys["study_key"]], "manufacturer": pa.nulls(1, pa.string())})
        file = f"bucket={bucket_of(keys['study_key'])}/{keys['study_key']}.parquet"
        for folder, table in (
            ("pool/a4c", stored),
            ("results/frames/study_year=2019", rows),
            ("results/studies/study_year=2019", study),
        ):
            (root / folder / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, root / folder / file)


_KEYS: Final = ("subject_key", "study_key", "instance_key")


def put_to_work_what_knows_nothing(root: Path, seed: int) -> None:
    """Let an untrained network be in production."""
    registry = Registry(root / "models")
    if registry.production("lvh") is not None:
        return
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(
            Path(scratch) / "bundle",
            build_discriminator_classifier(build_discriminator(PRESET, 2)),
            task="lvh",
            version="untrained",
            classes=CLASSES["lvh"],
            mask="fov",
            training={},
            metrics={},
            card="# Knows nothing; synthetic\n",
        )
        registry.publish(bundle)
    registry.promote("lvh", "untrained", reason="to begin with")


def run_nights(size: Size, work: Path, seed: int) -> Iterator[tuple[str, Night]]:
    """Run the three nights, or read what an earlier run has made of them."""
    plan = Plan(ARCHIVE_SEED, size.studies[1], views=(A4C,), frames_per_clip=size.frames_per_study)
    frames = render(plan, cache=work / "cache")
    for number, (name, site, studies, steps) in enumerate(
        zip(
            NAMES,
            ("site", "site", "control"),
            (*size.studies, size.studies[0]),
            (size.steps(0), size.steps(1), size.steps(1)),
            strict=True,
        )
    ):
        root = work / site
        make_archive(frames, root, studies)
        put_to_work_what_knows_nothing(root, seed)
        pool_steps = studies * size.frames_per_study // BATCH
        settings = load_section(
            RetrainSettings,
            "retrain",
            root,
            seed=seed,
            epochs=-(-steps // pool_steps),
            labeled_subjects=size.labeled_subjects,
            test_subjects=size.test_subjects,
            max_unlabeled_frames=size.studies[1] * size.frames_per_study,
            time_budget_s=7200.0,
        )
        yield name, kept(work / f"night-{number}.json", lambda s=settings: retrain(s, preset=PRESET))


def report(size_name: str, seed: int, nights: Mapping[str, Night]) -> str:
    """Say it in words and a table."""
    size = SIZES[size_name]
    first, second, control = nights.values()
    gain = second.verdict.candidate["accuracy"].value - first.verdict.candidate["accuracy"].value
    same_steps = control.verdict.candidate["accuracy"].value - first.verdict.candidate["accuracy"].value
    numbers = second.verdict.decision.numbers
    rows = [
        "| | studies | frames | steps | accuracy | balanced accuracy | F1 | calibration error | outcome |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, night), steps in zip(nights.items(), (0, 1, 1), strict=True):
        measures = night.verdict.candidate
        rows.append(
            f"| {name} | {night.pool.studies} | {night.pool.frames} | {size.steps(steps)} | "
            f"{measures['accuracy']} | {measures['balanced_accuracy']} | {measures['f1']} | "
            f"{night.verdict.decision.numbers['calibration_error']:.3f} | {night.outcome.replace('_', ' ')} |"
        )
    lines = "\n".join(rows)
    reasons = "\n".join(f"* {name}: {night.verdict.decision.reason}." for name, night in nights.items())
    total = sum(night.duration_s for night in nights.values()) / 60
    return f"""# Two nights on an archive that grows

Command: `python -m benchmarks.two_nights --size {size_name} --seed {seed}`, {code_version()}.
Machine: 2 cores, 24 GiB, busy with other work; {total:.0f} minutes of nights.

All frames are synthetic, those of the archive too: phantom apical four-chamber frames, one subject a study,
written as the worker leaves them (no DICOM was read, and no view was named by a network). The fixed set is
the nightly job's own: {size.test_subjects} phantom subjects, two frames each, of whom no night learned. Each
night had the same {2 * size.labeled_subjects} labeled frames and passed {size.epochs} times over its pool.
Accuracies are on the fixed set of synthetic frames, n frames, 95 % intervals by bootstrap over subjects.
One seed: another gives other numbers.

{lines}

From the first night to the second, accuracy changed by {gain:+.3f}. The gate compared the second night's
model, frame by frame, with the one then in production (`{second.production}`; `{first.version}` is the first
night's), and puts the difference of their balanced accuracies between {numbers["difference_low"]:+.3f} and
{numbers["difference_high"]:+.3f}. With the second night's number of steps, but the first night's frames, the
change is {same_steps:+.3f}.

What the gate said:

{reasons}
"""


def kept(path: Path, make: Any) -> Night:
    """Read a night that was run, or run it and keep what it says."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - a detail of this function

    adapter = TypeAdapter(Night)
    if not path.exists():
        path.write_bytes(adapter.dump_json(make(), indent=2))
    return adapter.validate_json(path.read_bytes())


def main() -> None:
    """Run it and print, or write, the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps what was done")
    parser.add_argument("--report", type=Path, help="file to write instead of printing")
    options = parser.parse_args()
    configure_logging(quiet=True)
    quiet_beam()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        nights = dict(run_nights(SIZES[options.size], work, options.seed))
        text = report(options.size, options.seed, nights)
    print(text)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(text, encoding="utf-8")
        facts = {name: night.verdict.decision.numbers for name, night in nights.items()}
        options.report.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
