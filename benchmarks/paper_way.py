"""A whole study our way, beside the networks of the paper's way alone.

Ours is everything: `echobeam work` from spool to committed Parquet, with the bundles that ship. The paper's
is less than the paper did: frames are decoded, cleaned and in memory, and each goes through a U-Net of 64
base filters, is masked, and goes through an ensemble of three full CNNs; no file, no left ventricle, no
hypertrophy. Once one frame at a time, as the authors' script does, and once in batches. Its networks have
random weights, since only their time is asked for.

Then, with the weights that ship on both sides: in which share of the frames is the view the same whether the
field of view is found once for a clip, from three frames, or in every frame for itself? "Unknown" counts as
a view.

    python -m benchmarks.paper_way [--quick] [--json]
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
import pytest

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import MASK_PROBABILITY, classify_views, segment_field_of_view
from beam_jobs.phantom_studies import PhantomStudy
from beam_jobs.records import Chunk, ClassifiedChunk, Placement
from beam_jobs.worker import Worker
from benchmarks.archive import AT_ONCE, shipped_archive
from benchmarks.rounds import Aim, Row, Spread, in_turn, parser_of, quietly, ratios, tell
from echo_models.bundle import Bundle, load_bundle_cached
from echo_models.networks import PRESETS, build_ensemble, build_unet, build_view_classifier
from echo_models.preprocessing import apply_mask, to_input
from echo_models.registry import Registry
from tests.real_files import real_file

Frames = npt.NDArray[np.uint8]
BATCH = 16
MEMBERS = 3
SAMPLED = 3
REAL_CLIPS = ("apical", "apical_half", "parasternal")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        frames_per_clip: of a study our way.
        paper_frames: what the paper's way is timed on; it costs the same for every frame.
        subjects: of the comparison of views, each with a clip of every view.
    """

    frames_per_clip: int
    paper_frames: int
    rounds: int
    subjects: int
    compared_frames_per_clip: int


QUICK = Size(frames_per_clip=8, paper_frames=8, rounds=1, subjects=1, compared_frames_per_clip=4)
FULL = Size(frames_per_clip=48, paper_frames=32, rounds=5, subjects=12, compared_frames_per_clip=24)


def paper_way() -> Callable[[Frames, int], None]:
    """Build the paper's networks; give a function that takes frames [N, 120, 160] and a batch size."""
    unet = build_unet(PRESETS["paper"])
    members = [
        build_view_classifier(PRESETS["paper"], "average", name=f"member_{number}")
        for number in range(MEMBERS)
    ]
    ensemble = build_ensemble(members)

    def process(frames: Frames, batch_size: int) -> None:
        for start in range(0, len(frames), batch_size):
            part = frames[start : start + batch_size]
            inside = np.asarray(unet.predict_on_batch(to_input(part)))[..., 1]
            ensemble.predict_on_batch(to_input(apply_mask(part, inside >= MASK_PROBABILITY)))

    return process


def speed_rows(size: Size) -> list[Row]:
    """Run our way, and the paper's in its two forms, in turn."""
    process = paper_way()
    with (
        shipped_archive(frames_per_clip=size.frames_per_clip) as archive,
        Worker(archive.settings, AT_ONCE) as worker,
    ):
        drawn = np.concatenate([chunk.frames for chunk in archive.chunks()])
        frames = drawn[:: max(len(drawn) // size.paper_frames, 1)][: size.paper_frames]
        times = in_turn(
            {
                "ours": lambda: worker.run(once=True),
                "one by one": lambda: process(frames, 1),
                "in batches": lambda: process(frames, BATCH),
            },
            size.rounds,
            before=lambda: archive.receive(1),
        )
        archive.require_all_done()
    ours = [run / len(drawn) for run in times["ours"]]
    note = f"a study of {len(drawn)} frames; the paper's way timed on {len(frames)}, {size.rounds} rounds"
    return [
        Row(
            "whole study, ours, spool to committed Parquet, speed a frame",
            f"networks of the paper's way, {how}",
            ratios([run / len(frames) for run in times[how]], ours),
            aim=Aim(25) if how == "one by one" else None,
            note=note,
        )
        for how in ("one by one", "in batches")
    ]


def decode(paths: Sequence[Path], key_file: Path) -> list[Chunk]:
    """Decode and clean the frames of files."""
    pseudonymizer = Pseudonymizer.from_key_file(key_file)
    placement = Placement("", "s", pseudonymizer.subject_key("phantom", ""), 1, 1, "", "")
    return [
        chunk
        for path in paths
        for chunk in flatten_frames(deidentify_instance(read_instance(path), placement, pseudonymizer))
    ]


def views_of(chunks: Sequence[ClassifiedChunk]) -> npt.NDArray[np.int64]:
    """Name the view of every frame: [N], an index into the views, or -1 for unknown."""
    return np.concatenate(
        [np.where(chunk.view_known, chunk.view_probabilities.argmax(axis=1), -1) for chunk in chunks]
    )


def same_views(chunks: Sequence[Chunk], fov: Bundle, view: Bundle) -> npt.NDArray[np.bool_]:
    """Say of every frame whether its view is the same with one field of view a clip, and with its own."""
    once, each = (
        views_of(
            classify_views(
                segment_field_of_view(chunks, fov, frames_per_clip=sampled, batch_size=BATCH),
                view,
                batch_size=BATCH,
            )
        )
        for sampled in (SAMPLED, None)
    )
    same: npt.NDArray[np.bool_] = once == each
    return same


def view_rows(size: Size) -> Iterator[Row]:
    """Compare the views of phantom clips, and of the real ones that are installed."""
    with TemporaryDirectory(prefix="echobeam-paper-") as folder:
        root = Path(folder)
        registry = Registry(root / "models")
        registry.install_shipped()
        fov, view = (load_bundle_cached(registry.resolve(task)) for task in ("fov", "view"))
        by_subject = []
        for subject in range(size.subjects):
            study = PhantomStudy(seed=1000 + subject, frames_per_clip=size.compared_frames_per_clip)
            paths = list(study.write(root / f"{subject}"))
            by_subject.append(same_views(decode(paths, root / "secret.key"), fov, view))
        yield _share("synthetic frames", by_subject, f"{size.subjects} subjects, each with all views")
        real = []
        for name in REAL_CLIPS:
            with suppress(pytest.skip.Exception):  # its package is not installed
                real.append(same_views(decode([real_file(name)], root / "secret.key"), fov, view))
        if real:
            yield _share("real frames", real, f"{len(real)} public clips")


def _share(which: str, parts: Sequence[npt.NDArray[np.bool_]], whose: str) -> Row:
    """Tell the share over all frames; its ends are those of the parts."""
    shares = [float(part.mean()) for part in parts]
    return Row(
        f"share of {which} with the same view, field of view once a clip",
        "field of view of every frame, the same weights",
        Spread(float(np.concatenate(parts).mean()), min(shares), max(shares)),
        aim=Aim(0.995),
        note=f"of {sum(map(len, parts))} frames of {whose}; least and most of these",
    )


def main() -> None:
    """Measure and tell."""
    options = parser_of(__doc__).parse_args()
    size = QUICK if options.quick else FULL
    quietly()
    tell([*speed_rows(size), *view_rows(size)], options)


if __name__ == "__main__":
    main()
