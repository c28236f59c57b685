"""The errors of the door, grouped by what the caller does next.

    DeidError
    ├── KeyFileError      refuse to start: the key file cannot be trusted
    └── RejectedError     reject this instance: it becomes a row of `rejections`

No error here carries a value of a header, and none keeps the error it was made from: pydicom's
messages quote raw values.
"""

from beam_jobs.records import Reason
from dicom_listener.exit_codes import ExitCode, VerbError


class DeidError(VerbError):
    """Base of the errors that `beam_jobs.deid` raises itself."""


class KeyFileError(DeidError):
    """The file with the key of the pseudonyms is missing its rules: owner only, 32 bytes."""

    exit_code = ExitCode.REFUSED


class RejectedError(DeidError):
    """An instance, or the rest of one, cannot be processed.

    Attributes:
        reason: code of the `rejections` table.
        frames_kept: how many of its frames were read, and handed on, before.
        parts: how many records the instance has, the rejection among them.
    """

    def __init__(self, reason: Reason, frames_kept: int = 0, parts: int = 1) -> None:
        super().__init__(reason, frames_kept, parts)
        self.reason = reason
        self.frames_kept = frames_kept
        self.parts = parts

    def __str__(self) -> str:
        return f"{self.reason.value}; {self.frames_kept} frames were kept"
