"""The steps from claimed studies to committed tables: Beam wiring around plain functions.

No step needs a window, a trigger, a timer or the end of its input: every record says how many its
study has. From `ReadInstances` to the last model everything fuses into one stage; only references go
into it through a shuffle, and only predictions and a few stored frames come out.

Whatever rejects an instance is a second output of its step and joins again at `CollectStudies`.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindows
from pydicom import Dataset

from beam_jobs.ahead import Ahead
from beam_jobs.deid import (
    CleanInstance,
    Pseudonymizer,
    RejectedError,
    deidentify_instance,
    read_instance,
)
from beam_jobs.deid.archive import ArchiveSource, StagedArchive, remove_study, staged_archive, study_folder
from beam_jobs.deid.ocr import OcrMode, find_ocr
from beam_jobs.deid.redaction import RedactedPixels, redact
from beam_jobs.deid.regions import Box
from beam_jobs.deid.screen_text import TextFinder
from beam_jobs.deid_settings import DeidSettings
from beam_jobs.examined import placements_of
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import keep_predictions
from beam_jobs.model_handlers import (
    FieldOfViewModelHandler,
    HypertrophyModelHandler,
    LeftVentricleModelHandler,
    ViewModelHandler,
)
from beam_jobs.quiet_beam import telling_no_values
from beam_jobs.records import (
    CHUNK_FRAMES,
    CollectedStudy,
    EndDiastole,
    InstanceReference,
    Placement,
    Precision,
    PredictedChunk,
    Reason,
    Rejection,
    StudyClaim,
    WrittenStudy,
)
from beam_jobs.release import AUDIT, ReleaseCheck
from beam_jobs.result_files import Results
from beam_jobs.staging import UNFINISHED, settle_folder, staged
from beam_jobs.tables import build_tables, summarize
from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.quarantine import quarantining

_MAIN: Final = "main"
_REJECTIONS: Final = "rejections"

FRAMES_AHEAD: Final = 1024
"""Frames that are decoded, or being decoded, while the networks have others: some 20 MB."""

_LIGHTEST: Final = 16
"""A still counts as so many frames: its header and a thread's share of a frame at full size count, too."""

_MOST_DECODING_THREADS: Final = 4
"""Each decodes some thousand frames a second, and has a few frames at full size in memory."""

Record = PredictedChunk | Rejection
"""What is collected of a study."""


class PlacedDataset(NamedTuple):
    """The header of an instance as it was read, before it goes through the door."""

    placement: Placement
    ds: Dataset


# ---------------------------------------------------------------------- reading


@dataclass
class ReadInstances(beam.PTransform):
    """Read the header of every instance of the claimed studies from the spool.

    Takes a PCollection of `StudyClaim`. Gives one of `PlacedDataset`, one per instance, and
    rejections: a file that is missing, altered or unreadable.
    """

    spool: Path

    def expand(self, claims: beam.PCollection) -> Any:
        """Wire the step."""
        return claims | beam.ParDo(_ReadInstancesFn(str(self.spool))).with_outputs(_REJECTIONS, main=_MAIN)


@telling_no_values
class _ReadInstancesFn(beam.DoFn):
    def __init__(self, spool: str) -> None:
        self._spool = spool

    def process(self, claim: StudyClaim) -> Iterator[Any]:
        for reference in claim.instances:
            placement = Placement(
                claim_token=claim.claim_token,
                study_key=claim.study_key,
                subject_key=claim.subject_key,
                revision=claim.revision,
                instances_in_study=len(claim.instances),
                series_key=reference.series_key,
                instance_key=reference.instance_key,
                path=reference.path,
            )
            try:
                yield PlacedDataset(placement, self._read(reference))
            except RejectedError as error:
                yield _rejected(placement, ReadInstances, error)

    def _read(self, reference: InstanceReference) -> Dataset:
        path = Path(self._spool) / reference.path
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise RejectedError(Reason.MISSING_FILE) from None
        if digest != reference.sha256:
            raise RejectedError(Reason.DIGEST_MISMATCH)
        return read_instance(path)


@dataclass
class DeidentifyInstances(beam.PTransform):
    """Take the patient out of every instance.

    Takes a PCollection of `PlacedDataset`. Gives one of `CleanInstance`, at most one per element, and
    rejections: what has no pixels, is not ultrasound, or cannot be decoded.
    """

    key_file: Path

    def expand(self, instances: beam.PCollection) -> Any:
        """Wire the step."""
        return instances | beam.ParDo(_DeidentifyInstancesFn(str(self.key_file))).with_outputs(
            _REJECTIONS, main=_MAIN
        )


@telling_no_values
class _DeidentifyInstancesFn(beam.DoFn):
    def __init__(self, key_file: str) -> None:
        self._key_file = key_file  # the path and not the key: a DoFn is pickled

    def setup(self) -> None:
        self._pseudonymizer = Pseudonymizer.from_key_file(Path(self._key_file))

    def process(self, instance: PlacedDataset) -> Iterator[Any]:
        try:
            yield deidentify_instance(instance.ds, instance.placement, self._pseudonymizer)
        except RejectedError as error:
            yield _rejected(instance.placement, DeidentifyInstances, error)


@dataclass
class FlattenFrames(beam.PTransform):
    """Decode every frame to grey, 120 x 160, clean.

    Takes a PCollection of `CleanInstance`. Gives one of `Chunk`, at least one per instance that can
    be decoded, and rejections: an instance, or the rest of one, that cannot. They are given in order, but
    up to `FRAMES_AHEAD` frames later: threads decode them while the networks are busy with those before.

    Attributes:
        ocr: whether text within the image is looked for.
    """

    ocr: OcrMode

    def expand(self, instances: beam.PCollection) -> Any:
        """Wire the step."""
        return instances | beam.ParDo(_FlattenFramesFn(self.ocr)).with_outputs(_REJECTIONS, main=_MAIN)


@telling_no_values
class _FlattenFramesFn(beam.DoFn):
    def __init__(self, ocr: OcrMode) -> None:
        self._ocr = ocr

    def setup(self) -> None:
        ocr = find_ocr(self._ocr)
        self._text_finder = None if ocr is None else TextFinder(ocr)
        self._ahead: Ahead[Any] = Ahead(threads=decoding_threads(), most=FRAMES_AHEAD)

    def start_bundle(self) -> None:
        self._ahead.drop()  # of a bundle that failed

    def process(self, instance: CleanInstance) -> Iterator[Any]:
        weight = min(max(instance.header.number_of_frames, _LIGHTEST), CHUNK_FRAMES)
        yield from self._ahead.add(self._flattened(instance), weight=weight)

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(_at_end, self._ahead.rest())

    def teardown(self) -> None:
        self._ahead.close()

    def _flattened(self, instance: CleanInstance) -> Iterator[Any]:
        try:
            yield from flatten_frames(instance, self._text_finder)
        except RejectedError as error:
            yield _rejected(instance.placement, FlattenFrames, error)


def decoding_threads() -> int:
    """Say how many instances are decoded at once."""
    return min(_MOST_DECODING_THREADS, os.cpu_count() or 1)


def _at_end(output: Any) -> Any:
    """Place an output at the end of the one window that there is, as `finish_bundle` must."""
    if isinstance(output, TaggedOutput):
        return TaggedOutput(output.tag, _at_end(output.value))
    return GlobalWindows.windowed_value_at_end_of_window(output)


@dataclass(frozen=True, slots=True)
class _Redact:
    """Redacts the pixels of a study's instances, and the text that was found in them before.

    Attributes:
        hide: boxes by the path of the instance.
    """

    hide: Mapping[Path, tuple[Box, ...]]

    def __call__(self, ds: Dataset, path: Path) -> RedactedPixels:
        return redact(ds, path, hide=self.hide.get(path, ()))


def _rejected(placement: Placement, stage: type[beam.PTransform], error: RejectedError) -> Any:
    rejection = Rejection(placement, stage.__name__, error.reason, error.frames_kept, error.parts)
    return TaggedOutput(_REJECTIONS, rejection)


# ---------------------------------------------------------------------- models


@dataclass(frozen=True)
class Networks:
    """The four networks of a pipeline.

    Attributes:
        models: folder of the registry.
        batch_size: frames in one call of a network.
        precision: what they compute in.
    """

    models: Path
    batch_size: int
    precision: Precision


@dataclass
class SegmentFieldOfView(beam.PTransform):
    """Find the field of view of every chunk.

    Takes a PCollection of `Chunk`. Gives one of `SegmentedChunk`, one per element.

    Attributes:
        networks: which, and how they are asked.
        frames_per_clip: frames of a chunk to segment; None for all.
    """

    networks: Networks
    frames_per_clip: int | None

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return chunks | RunInference(
            FieldOfViewModelHandler(frames_per_clip=self.frames_per_clip, **vars(self.networks))
        )


@dataclass
class ClassifyViews(beam.PTransform):
    """Name the view of every frame.

    Takes a PCollection of `SegmentedChunk`. Gives one of `ClassifiedChunk`, one per element.
    """

    networks: Networks

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return chunks | RunInference(ViewModelHandler(**vars(self.networks)))


@dataclass
class SegmentLeftVentricle(beam.PTransform):
    """Outline the left ventricle in apical four-chamber frames; other frames pass through.

    Takes a PCollection of `ClassifiedChunk`. Gives one of `OutlinedChunk`, one per element.
    """

    networks: Networks

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return chunks | RunInference(LeftVentricleModelHandler(**vars(self.networks)))


@dataclass
class ClassifyHypertrophy(beam.PTransform):
    """Estimate hypertrophy from the end-diastolic frames of apical four-chamber clips; others pass through.

    Takes a PCollection of `OutlinedChunk`. Gives one of `AssessedChunk`, one per element.

    Attributes:
        networks: which, and how they are asked.
        end_diastole: which frames of a clip are assessed.
    """

    networks: Networks
    end_diastole: EndDiastole = "first_frames"

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return chunks | RunInference(
            HypertrophyModelHandler(end_diastole=self.end_diastole, **vars(self.networks))
        )


@dataclass
class KeepPredictions(beam.PTransform):
    """Let go of all frames but those that may be stored for the pool.

    Takes a PCollection of `AssessedChunk`. Gives one of `PredictedChunk`, one per element.
    """

    pool_frames_per_clip: int

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return chunks | beam.Map(partial(keep_predictions, pool_frames_per_clip=self.pool_frames_per_clip))


# ---------------------------------------------------------------------- collecting


@dataclass
class CollectStudies(beam.PTransform):
    """Bring together the records of each claim, and let the study go once all have come.

    Takes a PCollection of `PredictedChunk` and `Rejection`. Gives one of `CollectedStudy`, one per
    claim, as soon as every instance is closed and all its parts are there, in whatever order.
    """

    def expand(self, records: Any) -> beam.PCollection:
        """Wire the step.

        Each of the collections is keyed by itself, so that what is flattened is small already.
        """
        keyed = [
            collection | f"Key[{number}]" >> beam.Map(_by_claim).with_output_types(tuple[str, Any])
            for number, collection in enumerate(records)
        ]
        return keyed | beam.Flatten() | beam.ParDo(_CollectStudiesFn())


def _by_claim(record: Record) -> tuple[str, Record]:
    return record.placement.claim_token, record


class StudyProgress:
    """Which records of a study have come; small, while the records may be many."""

    def __init__(self) -> None:
        self._came: dict[str, set[int]] = {}
        self._parts: dict[str, int] = {}

    def note(self, record: Record) -> bool:
        """Note a record.

        Returns:
            False if it had come before, as a runner that repeats a bundle may bring it again.
        """
        key = record.placement.instance_key
        place = record.first_frame_index if isinstance(record, PredictedChunk) else -1
        came = self._came.setdefault(key, set())
        if place in came:
            return False
        came.add(place)
        if record.parts:
            self._parts[key] = record.parts
        return True

    def is_complete(self, instances_in_study: int) -> bool:
        """Say whether every instance is closed and all its parts have come."""
        return len(self._parts) == instances_in_study and all(
            len(self._came[key]) == parts for key, parts in self._parts.items()
        )


class _CollectStudiesFn(beam.DoFn):
    RECORDS = BagStateSpec("records", FastPrimitivesCoder())
    PROGRESS = ReadModifyWriteStateSpec("progress", FastPrimitivesCoder())

    def process(
        self,
        keyed: tuple[str, Record],
        records: Any = beam.DoFn.StateParam(RECORDS),  # noqa: B008 - how Beam names a DoFn's state
        progress: Any = beam.DoFn.StateParam(PROGRESS),  # noqa: B008
    ) -> Iterator[CollectedStudy]:
        _, record = keyed
        noted = progress.read() or StudyProgress()
        if not noted.note(record):
            return
        if not noted.is_complete(record.placement.instances_in_study):
            records.add(record)
            progress.write(noted)
            return
        study = collect([*records.read(), record])
        records.clear()
        progress.clear()
        yield study


def collect(records: Iterable[Record]) -> CollectedStudy:
    """Put all the records of one study in an order that does not depend on their arrival."""
    chunks, rejections = [], []
    for record in records:
        if isinstance(record, PredictedChunk):
            chunks.append(record)
        else:
            rejections.append(record)
    chunks.sort(key=lambda chunk: (*_place_of(chunk), chunk.first_frame_index))
    rejections.sort(key=_place_of)
    placement = (chunks or rejections)[0].placement
    return CollectedStudy(
        claim_token=placement.claim_token,
        study_key=placement.study_key,
        subject_key=placement.subject_key,
        revision=placement.revision,
        chunks=tuple(chunks),
        rejections=tuple(rejections),
    )


def _place_of(record: Record) -> tuple[str, str]:
    return record.placement.series_key, record.placement.instance_key


# ---------------------------------------------------------------------- writing


@dataclass
class WriteStudies(beam.PTransform):
    """Write the tables of each study, check them and, in the same moment, tell the ledger that it is done.

    Takes a PCollection of `CollectedStudy`. Gives one of `WrittenStudy`, one per element; a study
    whose claim was lost meanwhile is not written, because somebody else has it. A study in whose files
    something is found that must not be there is quarantined: what an older revision released of it is
    withdrawn, its audit takes its place, and the ledger says that it failed.

    Attributes:
        end_diastole: which frames of a clip were assessed, for the name of the rule.
        clock: gives the time in seconds since the epoch; only the ledger sees it.
    """

    spool: Path
    results: Results
    pool: Path
    key_file: Path
    ledger_url: str = field(repr=False)
    pool_frames_per_clip: int
    deid: DeidSettings
    end_diastole: EndDiastole = "first_frames"
    clock: Callable[[], float] = time.time

    def expand(self, studies: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return studies | beam.ParDo(_WriteStudiesFn(self))


@telling_no_values
class _WriteStudiesFn(beam.DoFn):
    def __init__(self, step: WriteStudies) -> None:
        self._spool, self._results, self._pool = step.spool, step.results, step.pool
        self._key_file = step.key_file
        self._ledger_url = step.ledger_url
        self._pool_frames_per_clip = step.pool_frames_per_clip
        self._end_diastole = step.end_diastole
        self._deid = step.deid
        self._clock = step.clock

    def setup(self) -> None:
        self._ledger = Ledger(self._ledger_url)
        self._pseudonymizer = Pseudonymizer.from_key_file(self._key_file)
        self._check = ReleaseCheck(self._spool, self._pseudonymizer, self._deid)

    def process(self, study: CollectedStudy) -> Iterator[WrittenStudy]:
        tables = build_tables(
            study, pool_frames_per_clip=self._pool_frames_per_clip, end_diastole=self._end_diastole
        )
        committed = True
        with staged(tables, self._results, self._pool) as files, self._archived(study) as archive:
            verdict = self._check.examine(study, files, archive)
            try:
                if verdict.reason is None:
                    with self._ledger.committing(study.claim_token, now=self._clock()):
                        files.put_in_place()
                        self._put_in_archive(study, archive)
                else:
                    why = verdict.describe()
                    with quarantining(self._ledger, study.claim_token, reason=why, now=self._clock()):
                        files.withdraw(keep=(AUDIT,))
                        self._put_in_archive(study, None)
            except ClaimLostError:
                committed = False
        yield summarize(study, tables, committed=committed, quarantined=verdict.reason)

    @contextmanager
    def _archived(self, study: CollectedStudy) -> Iterator[StagedArchive | None]:
        """Write the study's DICOM files where they wait, if the site wants an archive."""
        if not self._deid.archive:
            yield None
            return
        unread = {
            rejection.placement.path
            for rejection in study.rejections
            if rejection.reason is Reason.UNREAD_TEXT
        }
        sources = (
            ArchiveSource(place, self._spool / place.path)
            for place in placements_of(study)
            if place.path not in unread
        )
        hide = {
            self._spool / chunk.placement.path: tuple(Box(*box) for box in chunk.header.text_boxes or ())
            for chunk in study.chunks  # the last of a clip knows of the text in all of it
        }
        with staged_archive(
            sources,
            self._deid.archive_folder,
            options=self._deid.options(),
            pseudonymizer=self._pseudonymizer,
            redact=_Redact(hide),
        ) as archive:
            yield archive
        settle_folder(self._deid.archive_folder / UNFINISHED, self._deid.archive_folder)

    def _put_in_archive(self, study: CollectedStudy, archive: StagedArchive | None) -> None:
        """Make the archive's files of a study these, or none."""
        folder = self._deid.archive_folder
        if archive is not None:
            archive.put_in_place()
        else:
            remove_study(folder, study.study_key)
        settle_folder(study_folder(folder, study.study_key).parent, folder)

    def teardown(self) -> None:
        self._ledger.close()
