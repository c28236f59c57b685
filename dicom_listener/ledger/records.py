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
    CHANGED = "changed"  # another content than the one before, which it replaced
    SET_ASIDE = "set_aside"  # another content than the first, which stays at work
    RESTORED = "restored"  # known, but its file was pruned, missing or damaged until now


class ConflictPolicy(StrEnum):
    """What becomes of another content with a known SOP Instance UID."""

    REPLACE = "replace"  # it goes to work; the one before is kept beside it
    KEEP_FIRST = "keep_first"  # it is kept beside the first, which stays at work
    REJECT = "reject"  # it is refused


class Resolution(StrEnum):
    """What became of a content that conflicted with another."""

    REPLACED = "replaced"  # it replaced the other
    SET_ASIDE = "set_aside"
    REJECTED = "rejected"


class FileState(StrEnum):
    """What is wrong with a file of the spool; nothing where there is none of these."""

    PRUNED = "pruned"  # deleted by the rules of retention
    MISSING = "missing"
    DAMAGED = "damaged"  # not of the size or the digest that was received


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
    """Something that did not fit together.

    Attributes:
        seen_at: when last, seconds since the epoch.
        times: how often it was seen.
        sha256: digest of the content that came, where two contents conflict; so the next two.
        resolution: what became of that content.
    """

    sop_instance_uid: str
    kind: ConflictKind
    seen_at: float
    times: int = 1
    sha256: str | None = None
    size_bytes: int | None = None
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A content of an instance that is, or was, in the spool.

    Attributes:
        is_at_work: whether workers get it; False for one that was replaced or set aside.
        path: relative to the spool.
        sha256: hexadecimal digest of the whole file.
        received_at: seconds since the epoch.
        file_state: what is wrong with the file; None if nothing is known to be.
        file_state_at: since when.
    """

    study_instance_uid: str
    sop_instance_uid: str
    is_at_work: bool
    path: str
    sha256: str
    size_bytes: int
    received_at: float
    file_state: FileState | None
    file_state_at: float | None


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """Everything the ledger knows about a study, but not whose it is.

    Times are seconds since the epoch; None where it has not happened.

    Attributes:
        instances: how many it has, and `size_bytes` how large their contents at work are together.
        expected_instances: how many the query peer has, as it last said; None if it was not asked, does not
            know the study, or does not say.
        expected_at: when it was last heard of.
        duplicates: how often an instance came that was known already.
        contents_aside: how many contents were replaced or set aside.
        pruned_files: how many files were deleted by the rules of retention, of contents at work.
        lost_files: how many files are known to be missing or damaged, of contents at work.
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
    expected_instances: int | None
    expected_at: float | None
    attempts: int
    last_error: str | None
    last_error_at: float | None
    worker: str | None
    lease_until: float | None
    done_at: float | None
    done_revision: int | None
    open_associations: int
    duplicates: int
    contents_aside: int
    pruned_files: int
    lost_files: int
    conflicts: tuple[Conflict, ...]
