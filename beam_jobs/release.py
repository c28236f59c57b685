"""Between written and released: every file of a study is read again and searched before anybody sees it.

It fails closed: whatever goes wrong in here keeps the study back, like a finding does. Its audit is
released in either case; it holds no value of a header, and is searched like all other files.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from beam_jobs.deid import Pseudonymizer
from beam_jobs.deid.audit import PROFILE, table_actions
from beam_jobs.deid.originals import Originals, SourceHeader, read_source_header
from beam_jobs.deid.search import Search
from beam_jobs.deid.verifier import (
    HARMLESS_WORDS,
    UNEXPECTED,
    Expected,
    Finding,
    verify_file_name,
    verify_table,
)
from beam_jobs.deid.words import ULTRASOUND_WORDS
from beam_jobs.records import CollectedStudy, Placement, PredictedChunk, QuarantineReason
from beam_jobs.schemas import AUDIT_SCHEMA
from beam_jobs.staging import StagedFile, StagedStudy
from dicom_listener.log import describe_error

AUDIT: Final = "audit"


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
    """

    def __init__(self, spool: Path, pseudonymizer: Pseudonymizer) -> None:
        self._spool = spool
        self._pseudonymizer = pseudonymizer

    def examine(self, study: CollectedStudy, files: StagedStudy) -> Verdict:
        """Search the files of a study, and add its audit to them."""
        headers: Mapping[str, SourceHeader] = {}
        try:
            headers = dict(self._read_headers(study))
            search, expected = self._prepare(study, headers)
            verdict = _verdict(
                [finding for file in files.files for finding in _verify(file, search, expected)]
            )
            in_audit = _verify(files.add(AUDIT, self._audit(study, headers, verdict)), search, expected)
            if not in_audit:
                return verdict
            # Its list of elements is what came from the headers: without it the audit can stand.
            verdict = _verdict([*verdict.findings, *in_audit])
        except Exception as error:  # noqa: BLE001 - whatever it was, the study is not checked
            verdict = Verdict(QuarantineReason.VERIFIER_FAILED, error=describe_error(error))
        files.add(AUDIT, self._audit(study, {}, verdict))
        return verdict

    def _read_headers(self, study: CollectedStudy) -> Iterator[tuple[str, SourceHeader]]:
        released = {chunk.placement.instance_key for chunk in study.chunks}
        for placement in _placements(study):
            try:
                yield placement.instance_key, read_source_header(self._spool / placement.path)
            except OSError:
                # Of what was rejected unread nothing was written that could be searched.
                if placement.instance_key in released:
                    raise

    def _prepare(self, study: CollectedStudy, headers: Mapping[str, SourceHeader]) -> tuple[Search, Expected]:
        originals = Originals()
        for header in headers.values():
            originals |= header.originals
        shift = timedelta(self._pseudonymizer.day_shift(study.subject_key))
        days = frozenset(_shifted(originals.dates, shift))
        search = Search(originals, expected_days=days, harmless=HARMLESS_WORDS | ULTRASOUND_WORDS)
        return search, Expected.of(_placements(study), days)

    def _audit(
        self, study: CollectedStudy, headers: Mapping[str, SourceHeader], verdict: Verdict
    ) -> pa.Table:
        chunks: dict[str, list[PredictedChunk]] = {}
        for chunk in study.chunks:
            chunks.setdefault(chunk.placement.instance_key, []).append(chunk)
        findings = [
            {"kind": kind, "place": place, "count": count}
            for (kind, place), count in sorted(Counter(verdict.findings).items())
        ]
        rows = [
            {
                "subject_key": placement.subject_key,
                "study_key": placement.study_key,
                "series_key": placement.series_key,
                "instance_key": placement.instance_key,
                "revision": study.revision,
                "outcome": "released" if verdict.reason is None else "quarantined",
                "reason": None if verdict.reason is None else verdict.reason.value,
                "findings": findings,
                "profile": PROFILE,
                "code_version": version("echobeam"),
                "key_id": self._pseudonymizer.key_id,
                **_instance_columns(
                    headers.get(placement.instance_key), chunks.get(placement.instance_key, [])
                ),
            }
            for placement in _placements(study)
        ]
        return pa.Table.from_pylist(rows, AUDIT_SCHEMA)


def _instance_columns(header: SourceHeader | None, chunks: list[PredictedChunk]) -> dict[str, Any]:
    frames = sum(len(chunk.view_probabilities) for chunk in chunks)
    actions = () if header is None else table_actions(header.elements, frames=frames)
    return {
        "actions": [action._asdict() for action in actions],
        "number_of_frames": frames,
        "frames_reencoded": None,
        "needs_review": chunks[0].header.needs_review if chunks else None,
        "ocr": "off",
        "text_boxes": None,
    }


def _placements(study: CollectedStudy) -> list[Placement]:
    """List the instances of a study, each once, in order."""
    placements = {record.placement.instance_key: record.placement for record in study.chunks}
    placements |= {record.placement.instance_key: record.placement for record in study.rejections}
    return sorted(placements.values(), key=lambda placement: (placement.series_key, placement.instance_key))


def _verify(file: StagedFile, search: Search, expected: Expected) -> list[Finding]:
    findings = verify_file_name(file.released_as, file.name, search)
    if file.waiting is not None and file.schema is not None:
        findings += verify_table(file.waiting, file.name, file.schema, search, expected)
    return findings


def _verdict(findings: list[Finding]) -> Verdict:
    if not findings:
        return Verdict(None)
    kinds = {finding.kind for finding in findings}
    reason = QuarantineReason.ORIGINAL_FOUND if kinds - {UNEXPECTED} else QuarantineReason.UNEXPECTED_VALUE
    return Verdict(reason, tuple(findings))


def _shifted(days: Iterable[date], shift: timedelta) -> Iterator[date]:
    for day in days:
        try:
            yield day + shift
        except OverflowError:
            continue
