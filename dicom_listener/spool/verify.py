"""Reading every file again: is what was received still there, byte for byte?

The listener may run meanwhile. Files that it is just receiving have no row yet and are not looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicom_listener.ledger import Content, FileState, Ledger
from dicom_listener.spool.files import FOLDER_GROUPS, digest_file

_NOTHING: Final[Callable[[int], None]] = lambda _size: None  # noqa: E731 - a default of an argument


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is not what was received."""

    content: Content
    state: FileState


@dataclass(slots=True)
class VerifyReport:
    """What was found.

    Attributes:
        files: files that were looked at.
        size_bytes: what they should have together.
        restored: files that had been lost and are right again.
        findings: those that are not right.
    """

    files: int = 0
    size_bytes: int = 0
    restored: int = 0
    findings: list[Finding] = field(default_factory=list)


def contents_of_spool(ledger: Ledger) -> Iterator[Content]:
    """Give every content of the ledger, a sixteenth of them in memory at a time."""
    for folders in FOLDER_GROUPS:
        yield from ledger.contents_in_folders(folders)


def verify(
    root: Path,
    ledger: Ledger,
    contents: Iterable[Content],
    *,
    now: Callable[[], float],
    told: Callable[[int], None] = _NOTHING,
) -> VerifyReport:
    """Read the files of contents to their ends, and write into the ledger what is wrong with them.

    Args:
        root: the spool.
        ledger: the ledger.
        contents: what to look at; those that were pruned are passed over.
        now: gives seconds since the epoch.
        told: called with the bytes of each step, for a progress bar.

    Raises:
        LedgerUnavailableError: if the ledger cannot be read or written.
    """
    report = VerifyReport()
    for content in contents:
        if content.file_state is FileState.PRUNED:
            continue
        report.files += 1
        report.size_bytes += content.size_bytes
        state = _look_at(root, content, told)
        if state is not None:
            state = _look_at(root, content, _NOTHING)  # it may just have been sent again, or pruned
        if state is None:
            if content.file_state is not None:
                report.restored += ledger.restore_files([content], now=now())
        elif state is content.file_state or ledger.note_lost_files([content], state, now=now()):
            report.findings.append(Finding(content, state))
    return report


def _look_at(root: Path, content: Content, told: Callable[[int], None]) -> FileState | None:
    try:
        digest = digest_file(root / content.path, told=told)
    except FileNotFoundError:
        return FileState.MISSING
    except OSError:  # a disk that cannot read it has lost it as well
        return FileState.DAMAGED
    return None if digest == content.sha256 else FileState.DAMAGED
