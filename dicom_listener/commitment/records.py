"""What goes into the ledger of storage commitment, and comes out of it."""

from dataclasses import dataclass
from enum import StrEnum


class CommitmentState(StrEnum):
    """Where a request of storage commitment is."""

    PENDING = "pending"
    REPORTED = "reported"
    FAILED = "failed"


class RequestOutcome(StrEnum):
    """What a request was to the ledger."""

    NEW = "new"
    REPEATED = "repeated"  # the same request again
    DUPLICATE = "duplicate"  # its transaction UID stands for another request


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that a request refers to."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """What the ledger has under a SOP Instance UID.

    Attributes:
        path: relative to the spool.
        sha256: hexadecimal digest of the whole file.
    """

    sop_class_uid: str
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a reference.

    Attributes:
        failure_reason: of PS3.3 C.14.1.1; None where safekeeping is promised.
        sha256: digest of the file that is kept; None where nothing is promised.
    """

    reference: Reference
    failure_reason: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request of storage commitment. Times are seconds since the epoch.

    Attributes:
        commitment_id: ours; a transaction UID may come twice.
        requester: AE title.
        is_duplicate: its transaction UID was in use for another request.
        attempts: how often it was tried to report it.
        instances: how many it refers to.
        committed: for how many safekeeping is promised.
        failed_instances: for how many it is not.
        verified_at: when its instances were last looked at; None before.
    """

    commitment_id: str
    transaction_uid: str
    requester: str
    is_duplicate: bool
    state: CommitmentState
    requested_at: float
    next_attempt_at: float
    attempts: int
    last_error: str | None
    reported_at: float | None
    instances: int
    committed: int
    failed_instances: int
    verified_at: float | None
