"""What goes into the ledger and comes out of it."""

from dataclasses import dataclass
from enum import StrEnum


class StudyState(StrEnum):
    """Where a study is."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"


class RecordOutcome(StrEnum):
    """What an instance was to the ledger."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CHANGED = "changed"


class ConflictKind(StrEnum):
    """What did not fit together in what was sent."""

    CHANGED_CONTENT = "changed_content"  # one SOP Instance UID, two contents
    OTHER_STUDY = "other_study"  # one SOP Instance UID in two studies
    OTHER_PATIENT = "other_patient"  # one study, two patient IDs


@dataclass(frozen=True, slots=True)
class SpooledInstance:
    """An instance and its file.

    Attributes:
        path: relative to the spool.
        sha256: hexadecimal digest of the whole file.
    """

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """A spooled instance with what it belongs to.

    Attributes:
        patient_id: as sent, "" where there is none.
    """

    study_instance_uid: str
    patient_id: str
    spooled: SpooledInstance


@dataclass(frozen=True, slots=True)
class ClaimedStudy:
    """A study that one worker holds under a lease.

    Attributes:
        claim_token: names this claim; a later claim of the study has another.
        patient_id: as sent, "" where there is none.
        revision: of the content that was claimed.
        attempts: how often this revision has been claimed, with this time.
        instances: in the order of their UIDs.
    """

    claim_token: str
    study_instance_uid: str
    patient_id: str
    revision: int
    attempts: int
    instances: tuple[SpooledInstance, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that did not fit together."""

    sop_instance_uid: str
    kind: ConflictKind
    seen_at: float


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """Everything the ledger knows about a study, but not whose it is.

    Times are seconds since the epoch; None where it has not happened.
    """

    study_instance_uid: str
    state: StudyState
    revision: int
    instances: int
    size_bytes: int
    first_received_at: float
    last_received_at: float
    completed_at: float | None
    completed_because: str | None
    attempts: int
    last_error: str | None
    last_error_at: float | None
    worker: str | None
    lease_until: float | None
    done_at: float | None
    done_revision: int | None
    open_associations: int
    conflicts: tuple[Conflict, ...]
