"""From claimed studies to committed tables, as one sentence.

`ProcessStudies` is the same whether its claims are a batch or never end: see
`beam_jobs.worker` for what feeds it.
"""

from dataclasses import dataclass

import apache_beam as beam

from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.transforms import (
    ClassifyHypertrophy,
    ClassifyViews,
    CollectStudies,
    DeidentifyInstances,
    FlattenFrames,
    KeepPredictions,
    ReadInstances,
    SegmentFieldOfView,
    SegmentLeftVentricle,
    WriteStudies,
)


@dataclass
class ProcessStudies(beam.PTransform):
    """Process claimed studies: read, de-identify, flatten, predict, collect, write.

    Takes a PCollection of `StudyClaim`. Gives one of `WrittenStudy`, one per claim, each once its
    tables are in place and the ledger says done. Uses no window, trigger, timer or end of input.
    """

    settings: WorkerSettings
    deid: DeidSettings

    def expand(self, claims: beam.PCollection) -> beam.PCollection:
        """Wire the sentence."""
        settings = self.settings
        models, size = settings.models, settings.batch_size
        fov_frames = settings.fov_frames_per_clip
        pool_frames = settings.pool_frames_per_clip

        instances, unread = claims | beam.Reshuffle() | ReadInstances(settings.spool)
        clean, unclean = instances | DeidentifyInstances(settings.key_file)
        chunks, undecoded = clean | FlattenFrames(self.deid.ocr)
        predictions = (
            chunks
            | SegmentFieldOfView(models, None if fov_frames == "all" else fov_frames, size)
            | ClassifyViews(models, size)
            | SegmentLeftVentricle(models, size)
            | ClassifyHypertrophy(models, size)
            | KeepPredictions(pool_frames)
        )
        return (
            (predictions, unread, unclean, undecoded)
            | CollectStudies()
            | WriteStudies(
                spool=settings.spool,
                results=settings.results,
                pool=settings.pool,
                key_file=settings.key_file,
                ledger_url=settings.ledger_url,
                pool_frames_per_clip=pool_frames,
                deid=self.deid,
            )
        )
