"""What can go wrong with a night; production is as it was in each case.

RetrainError             fail the job
├── RetrainBusyError     try later: another run holds the lock
└── EmptyPoolError       nothing to learn from: the archive has too few frames
"""

from beam_jobs.errors import BeamJobsError
from beam_jobs.pool_dataset import PoolManifest
from beam_jobs.retrain_settings import Task
from dicom_listener.exit_codes import ExitCode


class RetrainError(BeamJobsError):
    """The night came to no decision; production is as it was."""


class RetrainBusyError(RetrainError):
    """Another run holds the lock."""

    exit_code = ExitCode.BUSY


class EmptyPoolError(RetrainError):
    """The pool has too few frames to learn from.

    Attributes:
        manifest: what the pool is, and what each rule dropped.
    """

    def __init__(self, manifest: PoolManifest, needed: int, task: Task) -> None:
        more = "Process more studies" + (
            ", with the archive of de-identified DICOM switched on ([deid] archive)" if task == "view" else ""
        )
        super().__init__(
            f"the pool must have at least {needed} frames, and has {manifest.frames} "
            f"of {manifest.candidates} stored ones; production stays as it is. "
            f"{more}, or loosen the rules in [retrain]"
        )
        self.manifest = manifest
