"""The errors of `beam_jobs`, grouped by what the caller does next.

    BeamJobsError
    ├── SetupError            refuse to start: the message says what to correct
    ├── StepError             fail the attempt: a step raised; only type and place are told
    ├── QueryError            fail the job: the statement was refused or did not run
    └── AuditError            show nothing: what is about to be shown could not be noted

An instance that cannot be processed raises `beam_jobs.deid.errors.RejectedError`; it becomes a row
of `rejections`. Anything else that goes wrong within a batch fails the attempt, and the ledger
decides when there is another.
"""

from dicom_listener.exit_codes import ExitCode, VerbError


class BeamJobsError(VerbError):
    """Base of the errors that `beam_jobs` raises itself."""


class SetupError(BeamJobsError):
    """A job cannot start as it is configured."""

    exit_code = ExitCode.REFUSED


class StepError(BeamJobsError):
    """A step of the pipeline raised something whose message nobody may see."""


class QueryError(BeamJobsError):
    """A statement over the results was refused or did not run."""


class AuditError(BeamJobsError):
    """The line that must tell who found a patient again cannot be written."""
