"""Bringing spool and ledger together at the start, after whatever ended the listener before.

An instance is in the spool before it is in the ledger, and Success is answered after both. So a crash
can leave a file without a row, whose sender was told nothing: it is adopted, and if the sender sends it
again it is a duplicate. A row without a file should not be; it is reported, never repaired by
forgetting.

Names and sizes are compared, some folders at a time. Digests are not read, except of files without a
row: `echobeam studies verify` reads them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import structlog

from dicom_listener.errors import RefusedInstanceError
from dicom_listener.ledger import Content, FileState, Ledger
from dicom_listener.log import describe_error
from dicom_listener.spool.files import FOLDER_GROUPS, list_folders, put_aside, read_instance
from dicom_listener.spool.writing import Spool

_TOLD_STUDIES: Final = 20
"""Studies with lost files that are named in the log; the others are counted."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ReconcileReport:
    """What was found.

    Attributes:
        files: files in the spool.
        adopted: files without a row that have one now.
        quarantined: files without a row that say nothing about what they are, or are not whole.
        missing: rows whose file is not there.
        damaged: rows whose file is not of the size that was received.
        restored: rows whose file had been missing or marked as deleted, and is there.
    """

    files: int = 0
    adopted: int = 0
    quarantined: int = 0
    missing: int = 0
    damaged: int = 0
    restored: int = 0

    def differences(self) -> dict[str, int]:
        """Give the numbers of files that spool and ledger did not agree about, by what they are."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "files"}


def reconcile(spool: Spool, ledger: Ledger, *, now: float) -> ReconcileReport:
    """Compare spool and ledger and make them agree; only the owner of the spool may.

    Nothing may be received meanwhile: what is being received is a file without a row.

    Args:
        spool: owned, swept of unfinished files.
        ledger: the ledger.
        now: seconds since the epoch.

    Raises:
        LedgerUnavailableError: if the ledger cannot be read or written.
        OSError: if a folder of the spool cannot be read, or a file not moved.
    """
    report = ReconcileReport()
    lost: list[Content] = []
    for folders in FOLDER_GROUPS:
        lost += _reconcile_folders(spool.root, folders, ledger, report, now=now)
    _tell(report, lost)
    return report


def _reconcile_folders(
    root: Path, folders: Sequence[str], ledger: Ledger, report: ReconcileReport, *, now: float
) -> list[Content]:
    files = list_folders(root, folders)
    report.files += len(files)
    found: dict[FileState | None, list[Content]] = {None: [], FileState.MISSING: [], FileState.DAMAGED: []}
    for content in ledger.contents_in_folders(folders):
        size_bytes = files.pop(content.path, None)
        state = _state_of(content, size_bytes)
        if state is not FileState.PRUNED:
            found[state].append(content)
    report.restored += ledger.restore_files(
        [content for content in found[None] if content.file_state is not None], now=now
    )
    for state in (FileState.MISSING, FileState.DAMAGED):
        ledger.note_lost_files(
            [content for content in found[state] if content.file_state is not state], state, now=now
        )
    report.missing += len(found[FileState.MISSING])
    report.damaged += len(found[FileState.DAMAGED])
    for path in sorted(files):
        _take_in(root, path, ledger, report, now=now)
    return found[FileState.MISSING] + found[FileState.DAMAGED]


def _state_of(content: Content, size_bytes: int | None) -> FileState | None:
    if size_bytes is None:
        return FileState.PRUNED if content.file_state is FileState.PRUNED else FileState.MISSING
    if size_bytes != content.size_bytes or content.file_state is FileState.DAMAGED:
        return FileState.DAMAGED  # one of the right size was found damaged by its digest
    return None


def _take_in(root: Path, path: str, ledger: Ledger, report: ReconcileReport, *, now: float) -> None:
    try:
        instance = read_instance(root, path)
    except RefusedInstanceError as error:
        put_aside(root, path)
        report.quarantined += 1
        _log.warning("file_quarantined", path=path, error=describe_error(error))
        return
    ledger.adopt_instance(instance, now=now)
    report.adopted += 1
    _log.info("file_adopted", path=path, study_instance_uid=instance.study_instance_uid)


def _tell(report: ReconcileReport, lost: list[Content]) -> None:
    files_of: dict[str, int] = {}
    for content in lost:
        files_of[content.study_instance_uid] = files_of.get(content.study_instance_uid, 0) + 1
    for study_instance_uid, files in sorted(files_of.items())[:_TOLD_STUDIES]:
        _log.error(
            "files_lost",
            study_instance_uid=study_instance_uid,
            files=files,
            advice="see that the spool is mounted; else send the study again",
        )
    _log.log(40 if lost else 20, "reconciled", files=report.files, **report.differences())
