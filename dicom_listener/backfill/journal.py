"""What a job has done, in a file of the root: a job that is run again under its name goes on.

One line of JSON a study, appended and synchronised when the study is over. A line that a crash cut
short is passed over, and its study is done again. The file is of the identified zone: it holds UIDs.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from dicom_listener.errors import JobRunningError, StartRefusedError

FOLDER: Final = "backfill"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Journal:
    """The studies that a job is done with. Use `opened`."""

    def __init__(self, descriptor: int, done: set[str]) -> None:
        self._descriptor = descriptor
        self._done = done

    @classmethod
    @contextmanager
    def opened(cls, root: Path, job: str, *, asks_sha256: str) -> Iterator[Self]:
        """Open the journal of a job for the block, and keep other runs of it out.

        Args:
            root: the root folder.
            job: its name.
            asks_sha256: digest of what the job asks for; a job cannot change its mind half-way.

        Raises:
            StartRefusedError: if the name cannot be one, the job asked for something else before, or the
                file cannot be written.
            JobRunningError: if the job runs already.
        """
        if not _NAME.fullmatch(job):
            raise StartRefusedError(
                f"{job!r} cannot name a job: expected letters, digits, '.', '_' and '-', 64 at most"
            )
        path = root / FOLDER / f"{job}.jsonl"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefusedError(
                f"The journal {path} cannot be written ({error.strerror}): give this user the right to"
            ) from error
        try:
            _lock(descriptor, job)
            head, done = _read(path)
            if head is None:
                _append(descriptor, {"job": job, "asks_sha256": asks_sha256})
            elif head.get("asks_sha256") != asks_sha256:
                raise StartRefusedError(
                    f"The job {job} has asked for something else before: repeat what it asked for, or give "
                    "another --job"
                )
            yield cls(descriptor, done)
        finally:
            os.close(descriptor)

    @staticmethod
    def done(root: Path, job: str) -> frozenset[str]:
        """Look up what a job is done with, and leave no trace."""
        path = root / FOLDER / f"{job}.jsonl"
        return frozenset(_read(path)[1]) if _NAME.fullmatch(job) and path.exists() else frozenset()

    def __contains__(self, study_instance_uid: str) -> bool:
        return study_instance_uid in self._done

    def note_done(self, study_instance_uid: str, outcome: str) -> None:
        """Write down, durably, that the job is done with a study."""
        _append(self._descriptor, {"study_instance_uid": study_instance_uid, "outcome": outcome})
        self._done.add(study_instance_uid)


def _lock(descriptor: int, job: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobRunningError(
            f"The job {job} is running already: wait for it, or give another --job"
        ) from None


def _read(path: Path) -> tuple[dict[str, Any] | None, set[str]]:
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut short by a crash
        if isinstance(entry, dict):
            entries.append(entry)
    head = next((entry for entry in entries if "asks_sha256" in entry), None)
    return head, {str(entry["study_instance_uid"]) for entry in entries if "study_instance_uid" in entry}


def _append(descriptor: int, entry: dict[str, Any]) -> None:
    # The line begins with a break too: what a crash cut short before must not spoil it.
    os.write(descriptor, b"\n" + json.dumps(entry).encode() + b"\n")
    os.fsync(descriptor)
