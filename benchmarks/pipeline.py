"""How fast the worker turns a spool into committed tables, beside the bare networks.

The limit is the same networks fed ready-made batches: every frame is decoded, cleaned, masked and in
memory before the clock starts, and what they predict is dropped. A ratio of 0.9 says that reading,
de-identifying, decoding, Beam, Parquet, fsync and the ledger together take a tenth of the time. Both
are run in turn, on wall clocks, in one process that has loaded and compiled the models before.

    python -m benchmarks.pipeline [--quick] [--json] [--models DIR]
    ECHOBEAM_DEID_OCR=off python -m benchmarks.pipeline
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.ocr import find_ocr
from beam_jobs.deid_settings import DeidSettings
from beam_jobs.inference import (
    a4c_indexes,
    classify_views,
    hypertrophy_indexes,
    segment_field_of_view,
    segment_left_ventricle,
    spread,
)
from beam_jobs.worker import Worker
from benchmarks.archive import AT_ONCE, VIEWS_SHOWN, Archive, shipped_archive
from benchmarks.rounds import Aim, Row, Spread, in_turn, parser_of, quietly, ratios, tell
from echo_models.bundle import Bundle, load_bundle_cached
from echo_models.manifest import TASKS
from echo_models.preprocessing import apply_mask
from echo_models.registry import Registry

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    studies: int
    frames_per_clip: int
    rounds: int


QUICK = Size(studies=4, frames_per_clip=24, rounds=3)
FULL = Size(studies=16, frames_per_clip=48, rounds=7)


def ready_batches(archive: Archive, studies: int) -> list[tuple[Bundle, Frames]]:
    """Give what each network is asked in one round, masked as it wants it."""
    settings = archive.settings
    bundles = {task: load_bundle_cached(Registry(settings.models).resolve(task)) for task in TASKS}
    chunks, size, sampled = archive.chunks(studies), settings.batch_size, 3
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


def measure(archive: Archive, size: Size) -> list[Row]:
    """Run worker and networks in turn."""
    batches = ready_batches(archive, size.studies)
    frames = size.studies * len(VIEWS_SHOWN) * size.frames_per_clip

    def networks() -> None:
        for bundle, given in batches:
            if len(given):
                bundle.predict(given, batch_size=archive.settings.batch_size)

    with Worker(archive.settings, AT_ONCE) as worker:
        times = in_turn(
            {"worker": lambda: worker.run(once=True), "networks": networks},
            size.rounds,
            before=lambda: archive.receive(size.studies),
        )
    archive.require_all_done()
    fast, bare = (Spread.of(frames / run for run in times[name]).median for name in ("worker", "networks"))
    ocr = DeidSettings(root=archive.settings.root).ocr
    reader = f"ocr {ocr}" + (", tesseract is not installed" if ocr == "auto" and not find_ocr(ocr) else "")
    note = (
        f"{frames} frames in {size.studies} studies, {size.rounds} rounds, {reader}; "
        f"{fast:.0f} and {bare:.0f} frames a second"
    )
    return [
        Row(
            "worker, spool to committed Parquet, frames a second",
            "the same networks fed ready-made batches",
            ratios(times["networks"], times["worker"]),
            aim=Aim(0.95),
            note=note,
        )
    ]


def main() -> None:
    """Measure and tell."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", type=Path, help="another registry than the shipped bundles")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    quietly()
    with shipped_archive(
        frames_per_clip=size.frames_per_clip,
        models=options.models,
        studies_per_batch=size.studies,
    ) as archive:
        tell(measure(archive, size), options)


if __name__ == "__main__":
    main()
