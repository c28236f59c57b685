"""From claimed studies to committed tables, as one sentence.

`ProcessStudies` is the same whether its claims are a batch or never end: `beam_jobs.worker` feeds it
batches, `beam_jobs.unbounded` claims without end.
"""

import time
from dataclasses import dataclass

import apache_beam as beam
import structlog

from beam_jobs.metrics import process_metrics
from beam_jobs.records import WrittenStudy
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.transforms import (
    ClassifyHypertrophy,
    ClassifyViews,
    CollectStudies,
    DeidentifyInstances,
    FlattenFrames,
    KeepPredictions,
    Networks,
    ReadInstances,
    SegmentFieldOfView,
    SegmentLeftVentricle,
    WriteStudies,
)

_log = structlog.get_logger(__name__)


@dataclass
class ProcessStudies(beam.PTransform):
    """Process claimed studies: read, de-identify, flatten, predict, collect, write.

    Takes a PCollection of `StudyClaim`, spread over the workers by a `beam.Reshuffle`. Gives one of
    `WrittenStudy`, one per claim, each once its tables are in place and the ledger says done. Uses no
    window, trigger, timer or end of input.
    """

    settings: WorkerSettings
    deid: DeidSettings

    def expand(self, claims: beam.PCollection) -> beam.PCollection:
        """Wire the sentence."""
        settings = self.settings
        networks = Networks(settings.models, settings.batch_size, settings.precision)
        fov_frames = settings.fov_frames_per_clip
        pool_frames = settings.pool_frames_per_clip

        instances, unread = claims | ReadInstances(settings.spool)
        clean, unclean = instances | DeidentifyInstances(settings.key_file)
        chunks, undecoded = clean | FlattenFrames(self.deid.ocr)
        predictions = (
            chunks
            | SegmentFieldOfView(networks, None if fov_frames == "all" else fov_frames)
            | ClassifyViews(networks)
            | SegmentLeftVentricle(networks)
            | ClassifyHypertrophy(networks, settings.end_diastole)
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
                end_diastole=settings.end_diastole,
                deid=self.deid,
            )
        )


def report_study(study: WrittenStudy) -> None:
    """Count a study and log its one line, in whichever process it was written."""
    process_metrics().observe_study(study, now=time.time())
    if study.committed and study.quarantined is not None:
        _log.error("study_quarantined", claim=study.claim_token, reason=study.quarantined.value)
        return
    _log.info(
        "study_written" if study.committed else "study_claim_lost",
        claim=study.claim_token,
        revision=study.revision,
        clips=study.clips,
        frames=study.frames,
        views=study.frames_by_view,
        rejections=study.rejections_by_reason,
        models=study.models,
    )
