"""De-identified DICOM files of a study, where a site wants them beside the tables.

    <folder>/bucket=<xx>/<study_key>/<series_key>/<instance_key>.dcm

Files are written and synced under `.unfinished/` of the same folder, and the whole study is renamed into
place. Between the two the caller verifies them: what says that a patient is gone may not be seen before.
The same instance gives the same bytes under the same name; no file has the real time, neither inside
nor as its date.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beam_jobs.deid.archive_file import Redact, deidentify_file
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.profile import Action, DeidOptions
from beam_jobs.records import Placement, Reason

_UNFINISHED: Final = ".unfinished"
_FIRST_MODIFIED_S: Final = 946_684_800
"""Files are dated 2000-01-01 and one second for each revision, as the tables' are."""


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """An instance of a study on its way into the archive.

    Attributes:
        path: of the spooled file.
    """

    placement: Placement
    path: Path


@dataclass(frozen=True, slots=True)
class ArchivedInstance:
    """A file of the archive that waits to be verified.

    Attributes:
        actions: what was done to each element.
        is_reencoded: whether pixels had to be hidden, so that they were encoded again.
    """

    placement: Placement
    path: Path
    actions: tuple[Action, ...]
    is_reencoded: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An instance that the archive does not take."""

    placement: Placement
    reason: Reason


@dataclass(frozen=True, slots=True)
class StagedArchive:
    """The files of one study, complete and synced, that nobody can see yet.

    Attributes:
        instances: in the order in which they were given.
        left_out: what is neither ultrasound nor a report, or could not be read or cleaned.
    """

    instances: tuple[ArchivedInstance, ...]
    left_out: tuple[LeftOut, ...]
    _waiting: Path
    _target: Path
    _modified_s: int

    def put_in_place(self) -> None:
        """Make the study's files in the archive these and no others; call it once they are verified."""
        replaced = self._waiting.with_name("replaced")
        self._target.parent.mkdir(parents=True, exist_ok=True)
        if self._target.exists():
            self._target.rename(replaced)
        if self.instances:
            for folder in sorted({instance.path.parent for instance in self.instances}):
                os.utime(folder, (self._modified_s, self._modified_s))
            os.utime(self._waiting, (self._modified_s, self._modified_s))
            self._waiting.rename(self._target)
        _sync(self._target.parent)


def study_folder(folder: Path, study_key: str) -> Path:
    """Give the folder of a study in the archive."""
    bucket = hashlib.sha256(study_key.encode()).hexdigest()[:2]
    return folder / f"bucket={bucket}" / study_key


@contextmanager
def staged_archive(
    sources: Iterable[ArchiveSource],
    folder: Path,
    *,
    options: DeidOptions,
    pseudonymizer: Pseudonymizer,
    redact: Redact,
) -> Iterator[StagedArchive]:
    """Write the files of one study where they wait to be verified; drop them when the block ends.

    Args:
        sources: all the instances of one study.
        folder: of the archive.
        options: what the site chose.
        pseudonymizer: gives UIDs and shifts.
        redact: cleans pixels.

    Yields:
        the files, whose `put_in_place` the caller calls once they are verified, if ever.

    Raises:
        ValueError: if there is no instance, or they are of several studies.
        OSError: if a file cannot be written.
    """
    sources = list(sources)
    study_keys = {source.placement.study_key for source in sources}
    if len(study_keys) != 1:
        raise ValueError(f"An archive is staged study by study; received instances of {len(study_keys)}")
    revision = sources[0].placement.revision
    unfinished = folder / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=unfinished, ignore_cleanup_errors=True) as room:
        waiting = Path(room) / "study"
        waiting.mkdir()
        modified_s = _FIRST_MODIFIED_S + revision
        instances: list[ArchivedInstance] = []
        left_out: list[LeftOut] = []
        for source in sources:
            try:
                file = deidentify_file(
                    source.path,
                    source.placement,
                    options=options,
                    pseudonymizer=pseudonymizer,
                    redact=redact,
                )
            except RejectedError as error:
                left_out.append(LeftOut(source.placement, error.reason))
                continue
            series, instance = source.placement.series_key, source.placement.instance_key
            path = waiting / series / f"{instance}.dcm"
            path.parent.mkdir(exist_ok=True)
            _write(file.content, path, modified_s=modified_s)
            instances.append(ArchivedInstance(source.placement, path, file.actions, file.is_reencoded))
        yield StagedArchive(
            tuple(instances),
            tuple(left_out),
            waiting,
            study_folder(folder, study_keys.pop()),
            modified_s,
        )


def remove_study(folder: Path, study_key: str) -> bool:
    """Remove a study from the archive; tell whether it was there."""
    target = study_folder(folder, study_key)
    if not target.exists():
        return False
    shutil.rmtree(target)
    _sync(target.parent)
    return True


def _write(content: bytes, path: Path, *, modified_s: int) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.utime(file.fileno(), (modified_s, modified_s))
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
