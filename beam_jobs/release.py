"""Between written and released: every file of a study is read again and searched before anybody sees it.

It fails closed: whatever goes wrong in here keeps the study back, like a finding does. Its audit is
released in either case; it holds no value of a header, and is searched like all other files.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.deid.archive import ArchivedInstance, StagedArchive
from beam_jobs.deid.audit import PROFILE
from beam_jobs.deid.ocr import find_ocr
from beam_jobs.deid.screen_text import TextFinder
from beam_jobs.deid.search import Search
from beam_jobs.deid.verifier import (
    HARMLESS_WORDS,
    TEXT,
    UNEXPECTED,
    Expected,
    Finding,
    fixed_text,
    verify_dicom,
    verify_file_name,
    verify_table,
    verify_words,
)
from beam_jobs.deid.words import ULTRASOUND_WORDS
from beam_jobs.deid_settings import DeidSettings
from beam_jobs.examined import Instances, placements_of
from beam_jobs.frames import colour_frames, grey_frames
from beam_jobs.pool_dataset import frames_of
from beam_jobs.records import (
    CHUNK_FRAMES,
    FRAME_COLUMNS,
    FRAME_ROWS,
    CollectedStudy,
    Placement,
    QuarantineReason,
)
from beam_jobs.schemas import AUDIT_SCHEMA
from beam_jobs.staging import ARCHIVE, StagedFile, StagedStudy
from dicom_listener.log import describe_error
from echo_models.views import A4C

AUDIT: Final = "audit"

_EVERYWHERE: Final = np.ones((FRAME_ROWS, FRAME_COLUMNS), np.bool_)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a study may be released.

    Attributes:
        reason: None if it may.
        findings: what the verifier found.
        error: what went wrong in the verifier itself, without a value of a header.
    """

    reason: QuarantineReason | None
    findings: tuple[Finding, ...] = ()
    error: str | None = None

    def describe(self) -> str:
        """Say for the ledger why the study is kept back, without a value of a header."""
        if self.error is not None:
            return f"quarantined: {self.reason}: {self.error}"
        counts = Counter(self.findings)
        places = ", ".join(f"{kind} in {place}" for kind, place in sorted(counts))
        return f"quarantined: {self.reason}: {places}"


class ReleaseCheck:
    """Examines staged studies.

    Args:
        spool: folder of the received instances.
        pseudonymizer: gives the days that may be written.
        deid: section `[deid]`.

    Raises:
        OcrError: if the program for reading text is required and not installed.
    """

    def __init__(self, spool: Path, pseudonymizer: Pseudonymizer, deid: DeidSettings) -> None:
        self._spool = spool
        self._pseudonymizer = pseudonymizer
        self._deid = deid
        ocr = find_ocr(deid.ocr)
        self._text_finder = None if ocr is None else TextFinder(ocr)

    def examine(
        self, study: CollectedStudy, files: StagedStudy, archive: StagedArchive | None = None
    ) -> Verdict:
        """Search the files of a study, and add its audit to them."""
        instances = Instances(study, self._spool)
        try:
            search, expected = self._prepare(study, instances)
            findings = [finding for file in files.files for finding in _verify(file, search, expected)]
            findings += self._in_pool_frames(files, search)
            if archive is not None:
                findings += self._in_archive(archive, search)
                instances.note_archive(archive)
            verdict = self._review(study, _verdict(findings))
            in_audit = _verify(files.add(AUDIT, self._audit(study, instances, verdict)), search, expected)
            if not in_audit:
                return verdict
            # Its list of elements is what came from the headers: without it the audit can stand.
            verdict = _verdict([*verdict.findings, *in_audit])
        except Exception as error:  # noqa: BLE001 - whatever it was, the study is not checked
            verdict = Verdict(QuarantineReason.VERIFIER_FAILED, error=describe_error(error))
        files.add(AUDIT, self._audit(study, None, verdict))
        return verdict

    def _prepare(self, study: CollectedStudy, instances: Instances) -> tuple[Search, Expected]:
        instances.read_headers()
        originals = instances.originals()
        shift = timedelta(self._pseudonymizer.day_shift(study.subject_key))
        days = frozenset(_shifted(originals.dates, shift))
        # In the archive a day may move by one more, where its time moves along.
        next_days = frozenset(_shifted(days, timedelta(1))) if self._deid.archive else frozenset()
        search = Search(
            originals,
            expected_days=days | next_days,
            harmless=HARMLESS_WORDS | ULTRASOUND_WORDS,
            fixed_text=fixed_text(),
        )
        return search, Expected.of(placements_of(study), days)

    def _in_pool_frames(self, files: StagedStudy, search: Search) -> Iterator[Finding]:
        stored = next(file for file in files.files if file.name == A4C)
        if self._text_finder is None or stored.waiting is None:
            return
        table = pq.read_table(stored.waiting, columns=["instance_key", "frame"], partitioning=None)
        for key in table["instance_key"].unique():
            mine = table.filter(pc.equal(table["instance_key"], key))["frame"].combine_chunks()
            frames = frames_of(mine)
            words = self._text_finder.read(frames, _EVERYWHERE, partial(_in_colour, frames))
            yield from verify_words(words, f"{A4C}.frame", search)

    def _in_archive(self, archive: StagedArchive, search: Search) -> Iterator[Finding]:
        for instance in archive.instances:
            place = instance.placement
            name = Path(place.study_key, place.series_key, f"{place.instance_key}.dcm")
            yield from verify_file_name(name, ARCHIVE, search)
            yield from verify_dicom(instance.path, ARCHIVE, search)
            if self._text_finder is not None:
                yield from self._in_archived_frames(instance, self._text_finder, search)

    def _in_archived_frames(
        self, instance: ArchivedInstance, finder: TextFinder, search: Search
    ) -> Iterator[Finding]:
        ds = read_instance(instance.path)
        if "Rows" not in ds:
            return
        clean = deidentify_instance(ds, instance.placement, self._pseudonymizer)
        # Of a long clip as many frames as are in memory at once anyway, spread over it.
        step = -(-clean.header.number_of_frames // CHUNK_FRAMES)
        frames = np.stack(list(islice(grey_frames(clean), 0, None, step)))

        def decode(places: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
            return colour_frames(clean, (place * step for place in places))

        words = finder.read(frames, _EVERYWHERE, decode)
        yield from verify_words(words, f"{ARCHIVE}.PixelData", search)

    def _review(self, study: CollectedStudy, verdict: Verdict) -> Verdict:
        wanted = self._deid.review == "quarantine" and any(c.header.needs_review for c in study.chunks)
        return Verdict(QuarantineReason.NEEDS_REVIEW) if wanted and verdict.reason is None else verdict

    def _audit(self, study: CollectedStudy, instances: Instances | None, verdict: Verdict) -> pa.Table:
        findings = [
            {"kind": kind, "place": place, "count": count}
            for (kind, place), count in sorted(Counter(verdict.findings).items())
        ]
        is_ocr_missing = self._text_finder is None and self._deid.ocr != "off"
        same = {
            "revision": study.revision,
            "outcome": "released" if verdict.reason is None else "quarantined",
            "reason": None if verdict.reason is None else verdict.reason.value,
            "findings": findings,
            "profile": PROFILE,
            "code_version": version("echobeam"),
            "key_id": self._pseudonymizer.key_id,
            "ocr": "not_installed" if is_ocr_missing else "off" if self._text_finder is None else "done",
        }
        rows = [
            {**_keys(placement), **same, **_columns(placement, study, instances)}
            for placement in placements_of(study)
        ]
        return pa.Table.from_pylist(rows, AUDIT_SCHEMA)


def _keys(placement: Placement) -> dict[str, str]:
    names = ("subject_key", "study_key", "series_key", "instance_key")
    return {name: getattr(placement, name) for name in names}


def _columns(placement: Placement, study: CollectedStudy, instances: Instances | None) -> dict[str, Any]:
    mine = [chunk for chunk in study.chunks if chunk.placement.instance_key == placement.instance_key]
    frames = sum(len(chunk.view_probabilities) for chunk in mine)
    header = mine[-1].header if mine else None  # the last knows of the text in all
    actions = () if instances is None else instances.actions(placement.instance_key, frames=frames)
    reencoded = None if instances is None else instances.is_reencoded(placement.instance_key)
    return {
        "actions": [action._asdict() for action in actions],
        "number_of_frames": frames,
        "is_reencoded": reencoded,
        "needs_review": None if header is None else header.needs_review,
        "text_boxes": None if header is None or header.text_boxes is None else len(header.text_boxes),
    }


def _in_colour(frames: npt.NDArray[np.uint8], places: Sequence[int]) -> npt.NDArray[np.uint8]:
    return np.repeat(frames[list(places), ..., None], 3, axis=3)


def _verify(file: StagedFile, search: Search, expected: Expected) -> list[Finding]:
    findings = verify_file_name(file.released_as, file.name, search)
    if file.waiting is not None:
        findings += verify_table(file.waiting, file.name, file.schema, search, expected)
    return findings


def _verdict(findings: list[Finding]) -> Verdict:
    if not findings:
        return Verdict(None)
    kinds = {finding.kind for finding in findings}
    if kinds - {UNEXPECTED, TEXT}:
        return Verdict(QuarantineReason.ORIGINAL_FOUND, tuple(findings))
    reason = QuarantineReason.TEXT_IN_PIXELS if TEXT in kinds else QuarantineReason.UNEXPECTED_VALUE
    return Verdict(reason, tuple(findings))


def _shifted(days: Iterable[date], shift: timedelta) -> Iterator[date]:
    for day in days:
        with suppress(OverflowError):
            yield day + shift
