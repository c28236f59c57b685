"""What Beam itself costs a frame: the pipeline, beside the same functions in a plain loop.

The loop calls the very steps that the pipeline is wired of, one after another, with the threads that decode
ahead; nothing is shuffled, encoded or bundled. Clips are tiny and the models nearly free, so that what is
left over stands out; a frame is as large as ever once it is decoded. Beam's cost is the difference of the
two within a round: on the wall clock, and in processor time of the whole process, which other programs on
the machine disturb less.

    python -m benchmarks.beam_cost [--quick] [--json]
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from apache_beam.ml.inference.base import ModelHandler
from apache_beam.pvalue import TaggedOutput

from beam_jobs.batches import BatchPipeline
from beam_jobs.claims import pseudonymize_claim
from beam_jobs.deid import Pseudonymizer
from beam_jobs.deid_settings import DeidSettings
from beam_jobs.inference import keep_predictions
from beam_jobs.model_handlers import (
    FieldOfViewModelHandler,
    HypertrophyModelHandler,
    LeftVentricleModelHandler,
    ViewModelHandler,
)
from beam_jobs.pipeline import report_study
from beam_jobs.records import Chunk, PredictedChunk, StudyClaim
from beam_jobs.transforms import (
    WriteStudies,
    _DeidentifyInstancesFn,
    _FlattenFramesFn,
    _ReadInstancesFn,
    _WriteStudiesFn,
    collect,
)
from benchmarks.archive import Archive, toy_archive
from benchmarks.rounds import Aim, Row, Spread, in_turn, parser_of, quietly, tell

MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: a batch of studies as the worker takes it."""

    studies: int
    clips: int
    frames_per_clip: int
    rounds: int

    @property
    def frames(self) -> int:
        """Frames of a batch."""
        return self.studies * self.clips * self.frames_per_clip


QUICK: Final = Size(studies=2, clips=4, frames_per_clip=12, rounds=2)
FULL: Final = Size(studies=8, clips=20, frames_per_clip=83, rounds=9)
"""A third of the clips of a real study, of its length (docs/scale.md)."""


class PlainLoop:
    """The steps of `ProcessStudies`, one after another.

    Args:
        archive: whose settings they get.
    """

    def __init__(self, archive: Archive) -> None:
        settings, deid = archive.settings, DeidSettings(root=archive.settings.root)
        self._pool_frames = settings.pool_frames_per_clip
        self._read = _ReadInstancesFn(str(settings.spool))
        self._deidentify = _DeidentifyInstancesFn(str(settings.key_file))
        self._flatten = _FlattenFramesFn(deid.ocr)
        self._write = _WriteStudiesFn(
            WriteStudies(
                spool=settings.spool,
                results=settings.results,
                pool=settings.pool,
                key_file=settings.key_file,
                ledger_url=settings.ledger_url,
                pool_frames_per_clip=settings.pool_frames_per_clip,
                deid=deid,
            )
        )
        for step in (self._deidentify, self._flatten, self._write):
            step.setup()
        sampled = settings.fov_frames_per_clip
        handlers: list[ModelHandler] = [
            FieldOfViewModelHandler(
                settings.models,
                frames_per_clip=None if sampled == "all" else sampled,
                batch_size=settings.batch_size,
            ),
            ViewModelHandler(settings.models, batch_size=settings.batch_size),
            LeftVentricleModelHandler(settings.models, batch_size=settings.batch_size),
            HypertrophyModelHandler(settings.models, batch_size=settings.batch_size),
        ]
        self._models = [(handler, handler.load_model()) for handler in handlers]

    def __call__(self, claims: Sequence[StudyClaim]) -> None:
        """Process claimed studies."""
        by_claim: dict[str, list[PredictedChunk]] = {claim.claim_token: [] for claim in claims}
        chunks: Iterator[Any] = self._chunks(claims)
        for handler, model in self._models:
            chunks = _predicted(chunks, handler, model)
        for chunk in chunks:
            kept = keep_predictions(chunk, pool_frames_per_clip=self._pool_frames)
            by_claim[kept.placement.claim_token].append(kept)
        for records in by_claim.values():
            for study in self._write.process(collect(records)):
                report_study(study)

    def close(self) -> None:
        """Let go of what the steps hold."""
        self._flatten.teardown()
        self._write.teardown()

    def _chunks(self, claims: Sequence[StudyClaim]) -> Iterator[Chunk]:
        self._flatten.start_bundle()
        for claim in claims:
            for placed in self._read.process(claim):
                for clean in self._deidentify.process(_accepted(placed)):
                    yield from map(_accepted, self._flatten.process(_accepted(clean)))
        for windowed in self._flatten.finish_bundle():
            yield _accepted(windowed).value


def _predicted(chunks: Iterator[Any], handler: ModelHandler, model: Any) -> Iterator[Any]:
    """Ask a model about chunks, gathered as Beam gathers them for it."""
    rule = handler.batch_elements_kwargs()
    size_of, most = rule["element_size_fn"], rule["max_batch_size"]
    gathered: list[Any] = []
    size = 0
    for chunk in chunks:
        if gathered and size + size_of(chunk) > most:
            yield from handler.run_inference(gathered, model)
            gathered, size = [], 0
        gathered.append(chunk)
        size += size_of(chunk)
        if size >= most:
            yield from handler.run_inference(gathered, model)
            gathered, size = [], 0
    if gathered:
        yield from handler.run_inference(gathered, model)


def _accepted(record: Any) -> Any:
    if isinstance(record, TaggedOutput):
        raise TypeError(f"no instance of a benchmark is rejected; received {record.value}")
    return record


def costs(archive: Archive, size: Size, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Run pipeline and loop in turn; give the difference of each round, and the loop's, in seconds."""
    settings, deid = archive.settings, DeidSettings(root=archive.settings.root)
    pseudonymizer = Pseudonymizer.from_key_file(settings.key_file)
    loop, pipeline = PlainLoop(archive), BatchPipeline(settings, deid)

    def claim() -> list[StudyClaim]:
        claimed = archive.ledger.claim_studies(
            worker="benchmark", limit=size.studies, lease_s=3600, max_attempts=1, now=time.time()
        )
        return [pseudonymize_claim(study, pseudonymizer) for study in claimed]

    times = in_turn(
        {"pipeline": lambda: pipeline.run(claim()), "loop": lambda: loop(claim())},
        size.rounds,
        before=lambda: archive.receive(2 * size.studies),
        clock=clock,
    )
    loop.close()
    archive.require_all_done()
    return [a - b for a, b in zip(times["pipeline"], times["loop"], strict=True)], times["loop"]


def measure(size: Size) -> Iterator[Row]:
    """Measure a batch as it is, by two clocks, and one of a single frame."""
    with toy_archive(clips=size.clips, frames_per_clip=size.frames_per_clip) as archive:
        for name, clock, aim in (
            ("wall clock", time.perf_counter, Aim(25, is_least=False)),
            ("processor time", time.process_time, None),
        ):
            beam, loop = costs(archive, size, clock)
            loop_us = Spread.of(MICROSECONDS * run / size.frames for run in loop).median
            yield Row(
                f"Beam's own cost a frame, {name}",
                "the same functions in a plain loop",
                Spread.of(MICROSECONDS * cost / size.frames for cost in beam),
                "µs",
                aim,
                f"{size.frames} frames in {size.studies} studies, {size.rounds} rounds; "
                f"the loop itself {loop_us:.0f} µs a frame with nearly free models",
            )
    least = Size(studies=1, clips=1, frames_per_clip=1, rounds=4 * size.rounds)
    with toy_archive(clips=1, frames_per_clip=1) as archive:
        beam, _ = costs(archive, least, time.perf_counter)
        yield Row(
            "Beam's own cost a pipeline, of one frame",
            "the same functions in a plain loop",
            Spread.of(1000 * cost for cost in beam),
            "ms",
            note=f"{least.rounds} rounds",
        )


def main() -> None:
    """Measure and tell."""
    options = parser_of(__doc__).parse_args()
    quietly()
    tell(list(measure(QUICK if options.quick else FULL)), options)


if __name__ == "__main__":
    main()
