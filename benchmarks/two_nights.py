"""Whether a night learns more from an archive that has grown: two whole nights, and what the second owes to.

Studies of the phantom, as DICOM files, go through the worker, which keeps an archive of what it has
de-identified. When some are done a night learns to name views, with unlabeled frames from that archive; when
many more are done, another does, with the same labeled frames. In production at first is a network that has
learned nothing. A third night, in a root of its own, has the first one's archive and the second one's number
of steps: it tells what came from more frames and what from more training.

    python -m benchmarks.two_nights [--size toy|small] [--seed 0] [--work DIR] [--report FILE]

With --work a run that was killed goes on.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from pydantic import TypeAdapter
from pydicom import dcmread

from beam_jobs.labeled_sets import CLASSES
from beam_jobs.phantom_studies import PhantomStudy
from beam_jobs.quiet_beam import quiet_beam
from beam_jobs.retrain import Night, retrain
from beam_jobs.retrain_settings import RetrainSettings
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from benchmarks.archive import AT_ONCE
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.log import configure_logging
from dicom_listener.settings import load_section
from echo_models.bundle import write_bundle
from echo_models.experiments.few_labels import QUICK as PRESET
from echo_models.networks import build_discriminator, build_discriminator_classifier
from echo_models.recipes import code_version
from echo_models.registry import Registry

FIRST_SEED: Final = 7_000
"""Of the archive's subjects; neither labeled frames nor the fixed set have it."""

FRAMES_PER_CLIP: Final = 2
"""As many as a night takes of one."""


GATE: Final = {"gate_floor": 0.1, "gate_class_floor": 0.0, "gate_max_calibration_error": 0.5}
"""Below the defaults, which no network of a few minutes passes: what decides is the rival in production."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    Attributes:
        studies: of the archive in the first night, and in the second.
        epochs: passes over the pool.
        labeled_subjects: whose labels a night has; a frame of each view.
        test_subjects: of the fixed set; a frame of each view.
    """

    studies: tuple[int, int]
    epochs: int
    labeled_subjects: int
    test_subjects: int


SIZES: Final = {
    "toy": Size((2, 3), epochs=1, labeled_subjects=4, test_subjects=10),
    "small": Size((8, 48), epochs=25, labeled_subjects=20, test_subjects=60),
}

NAMES: Final = ("night 1", "night 2", "night 1's archive, night 2's steps")


def process(root: Path, studies: int) -> None:
    """Let the worker process the archive's first studies, as far as it has not.

    It names views with the bundles that ship: those that the nights make have a registry of their own.

    Raises:
        RuntimeError: if a study is not done in the end.
    """
    settings = WorkerSettings(root=root, http_port=0, models=root / "shipped", tune=False)
    ledger = Ledger(settings.ledger_url)
    for number in range(sum(ledger.counts_by_state().values()), studies):
        study = PhantomStudy(FIRST_SEED + number, frames_per_clip=FRAMES_PER_CLIP)
        for path in study.write(settings.spool / f"{number}"):
            received = ReceivedInstance(
                study.study_instance_uid, f"PHANTOM-{number}", spooled(path, settings.spool)
            )
            ledger.record_instance(
                received, association="a", hold_until=time.time() + 3600, now=time.time() - 2
            )
        ledger.release_holds("a")
    deid = DeidSettings(root=root, archive=True, ocr="off")
    with Worker(settings, AT_ONCE, deid=deid) as worker:
        worker.run(once=True)
    done = ledger.counts_by_state()["done"]
    ledger.close()
    if done != studies:
        raise RuntimeError(f"every study must be done; {done} of {studies} are")


def spooled(path: Path, spool: Path) -> SpooledInstance:
    """Say of a file in the spool what the listener would."""
    ds = dcmread(path, stop_before_pixels=True)
    content = path.read_bytes()
    return SpooledInstance(
        sop_instance_uid=ds.SOPInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        path=path.relative_to(spool).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def put_to_work_what_knows_nothing(root: Path, seed: int) -> None:
    """Let an untrained network name views, beside the other bundles that ship."""
    registry = Registry(root / "models")
    registry.install_shipped()
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = write_bundle(
            Path(scratch) / "bundle",
            build_discriminator_classifier(build_discriminator(PRESET, len(CLASSES["view"]))),
            task="view",
            version="untrained",
            classes=CLASSES["view"],
            mask="fov",
            training={},
            metrics={},
            card="# Knows nothing; synthetic\n",
        )
        registry.publish(bundle)
    registry.promote("view", "untrained", reason="to begin with")


def run_nights(size: Size, work: Path, seed: int) -> Iterator[tuple[str, Night]]:
    """Run the three nights, or read what an earlier run has made of them."""
    site, control = work / "site", work / "control"
    first, second, third = (work / f"night-{number}.json" for number in range(3))
    if not first.exists():
        process(site, size.studies[0])
        shutil.rmtree(site / "models", ignore_errors=True)
        put_to_work_what_knows_nothing(site, seed)
        shutil.rmtree(control, ignore_errors=True)
        shutil.copytree(site, control)
    night_1 = kept(first, site, size, seed, epochs=size.epochs)
    yield NAMES[0], night_1
    if not second.exists():
        process(site, size.studies[1])
    night_2 = kept(second, site, size, seed, epochs=size.epochs)
    yield NAMES[1], night_2
    yield NAMES[2], kept(third, control, size, seed, epochs=-(-steps(night_2) // steps_an_epoch(night_1)))


def kept(path: Path, root: Path, size: Size, seed: int, *, epochs: int) -> Night:
    """Read a night that was run, or run it and keep what it says."""
    adapter = TypeAdapter(Night)
    if not path.exists():
        settings = load_section(
            RetrainSettings,
            "retrain",
            root,
            task="view",
            seed=seed,
            epochs=epochs,
            **GATE,
            labeled_subjects=size.labeled_subjects,
            test_subjects=size.test_subjects,
            max_unlabeled_frames=size.studies[1] * len(CLASSES["view"]) * FRAMES_PER_CLIP,
            time_budget_s=7200.0,
        )
        path.write_bytes(adapter.dump_json(retrain(settings, preset=PRESET), indent=2))
    return adapter.validate_json(path.read_bytes())


def steps_an_epoch(night: Night) -> int:
    """Count the steps of a pass over a night's pool."""
    return max(1, night.pool.frames // 32)


def steps(night: Night) -> int:
    """Count the steps that a night has made."""
    return night.epochs * steps_an_epoch(night)


def report(size_name: str, seed: int, nights: Mapping[str, Night]) -> str:
    """Say it in words and a table."""
    size = SIZES[size_name]
    first, second, _ = nights.values()
    before, after, same_steps = (night.verdict.candidate["accuracy"].value for night in nights.values())
    labels = size.labeled_subjects * len(CLASSES["view"])
    floors = ", ".join(f"`{name} = {value}`" for name, value in GATE.items())
    numbers = second.verdict.decision.numbers
    rows = [
        "| | studies | frames | steps | accuracy | balanced accuracy | calibration error | outcome |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, night in nights.items():
        measures = night.verdict.candidate
        rows.append(
            f"| {name} | {night.pool.studies} | {night.pool.frames} | {steps(night)} | "
            f"{measures['accuracy']} | {measures['balanced_accuracy']} | "
            f"{night.verdict.decision.numbers['calibration_error']:.3f} | {night.outcome.replace('_', ' ')} |"
        )
    lines = "\n".join(rows)
    reasons = "\n".join(f"* {name}: {night.verdict.decision.reason}." for name, night in nights.items())
    total = sum(night.duration_s for night in nights.values()) / 60
    return f"""# Two nights on an archive that grows

Command: `python -m benchmarks.two_nights --size {size_name} --seed {seed}`, {code_version()}.
Machine: 2 cores, 24 GiB, busy with other work; {total:.0f} minutes of nights.

All frames are synthetic, those of the archive too. Studies of the phantom went through the worker as DICOM
files, a clip of each view; the nights (`retrain --task view`) took their unlabeled frames from the archive of
what it had de-identified. The fixed set is the nightly job's own: {size.test_subjects} phantom subjects, a
frame of each view, of whom no night learned. Each night had the same {labels} labeled frames. Nights 1 and 2
passed {size.epochs} times over their pools, at 28 x 28 pixels, so that nights take minutes. Accuracies are on
the fixed set, n frames, 95 % intervals by bootstrap over subjects. One seed: another gives other numbers.

{lines}

From the first night to the second, accuracy changed by {after - before:+.3f}. The gate compared the second
night's model, frame by frame, with the one then in production (`{second.production}`; `{first.version}` is
the first night's), and puts the difference of their balanced accuracies between
{numbers["difference_low"]:+.3f} and {numbers["difference_high"]:+.3f}. With the second night's number of
steps, but the first night's frames, the change is {same_steps - before:+.3f}.

What the gate said; its floors were lowered for networks as small and as briefly trained as these
({floors}), so that the comparison with production decides:

{reasons}
"""


def main() -> None:
    """Run it and print, or write, the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps what was done")
    parser.add_argument("--report", type=Path, help="file to write instead of printing")
    options = parser.parse_args()
    configure_logging(quiet=True)
    quiet_beam()
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        nights = dict(run_nights(SIZES[options.size], work, options.seed))
        text = report(options.size, options.seed, nights)
    print(text)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(text, encoding="utf-8")
        facts: dict[str, Any] = {name: dict(night.verdict.decision.numbers) for name, night in nights.items()}
        options.report.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
