"""What can go wrong in the listener, grouped by what the caller does next.

    ListenerError
    ├── StartRefusedError           refuse to start, say why
    │   ├── SettingsError           the configuration is wrong: every fault at once
    │   ├── PortInUseError          somebody else listens there
    │   ├── CertificateError        TLS cannot work with these files: every fault at once
    │   ├── UnsupportedSystemError  this system cannot do what is configured
    │   ├── SpoolLockedError        another listener receives into this spool
    │   ├── LedgerVersionError      the ledger was made by a newer release
    │   ├── JobRunningError         a job of this name is running already
    │   └── PeerNotFoundError       no such peer is configured
    ├── RetryLaterError             answer "out of resources": the sender tries again
    │   ├── SpoolUnavailableError   the instance cannot be written now
    │   ├── DiskReserveError        the disk is too full to go on
    │   └── LedgerUnavailableError  the ledger cannot be read or written now
    ├── RefusedInstanceError        answer "never": this instance will not be taken as it is
    │   ├── UnreadableHeaderError
    │   ├── MismatchedInstanceError
    │   ├── ConflictingInstanceError
    │   ├── OversizedInstanceError
    │   ├── UnsupportedSopClassError
    │   └── InvalidInstanceUidError
    ├── StoreError                  an object store did not do as asked: fail this attempt, or tell who asked
    │   └── StoreConflictError      it has another object than the one to be replaced; nothing was changed
    ├── ClaimLostError              fail this study's attempt: somebody else has it now
    ├── PeerError                   a remote application entity did not do as asked: try again later
    │   ├── PeerUnreachableError    there is no association with it
    │   └── PeerRefusedError        it answered with a failure, or not at all
    ├── CommitmentNotFoundError     tell the operator
    ├── StudyNotFoundError          tell the operator
    ├── StudyNotFailedError         tell the operator
    └── StudyBusyError              tell the operator: try again when it is done

No message holds a value from a received header.
"""

from collections.abc import Sequence
from typing import ClassVar

from dicom_listener.exit_codes import ExitCode, VerbError


class ListenerError(VerbError):
    """The root of everything the listener raises on purpose."""


class StartRefusedError(ListenerError):
    """The listener must not start like this."""

    exit_code = ExitCode.REFUSED


class SettingsError(StartRefusedError):
    """The configuration is wrong.

    Attributes:
        faults: one sentence for each fault, with where it came from and what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(["The configuration is refused:", *(f"  - {fault}" for fault in faults)]))
        self.faults = tuple(faults)


class PortInUseError(StartRefusedError):
    """A port that is needed cannot be bound."""

    exit_code = ExitCode.BUSY


class CertificateError(StartRefusedError):
    """TLS cannot work with the certificates that are configured.

    Attributes:
        faults: one sentence for each fault, with what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(["TLS cannot be started:", *(f"  - {fault}" for fault in faults)]))
        self.faults = tuple(faults)


class UnsupportedSystemError(StartRefusedError):
    """The configuration asks for something that this operating system cannot do."""


class SpoolLockedError(StartRefusedError):
    """Another process receives into the same spool."""

    exit_code = ExitCode.BUSY


class JobRunningError(StartRefusedError):
    """A job of this name is running already."""

    exit_code = ExitCode.BUSY


class PeerNotFoundError(StartRefusedError):
    """No such peer is configured."""


class LedgerVersionError(StartRefusedError):
    """The ledger's tables are those of a newer release; this one would spoil them."""


class RetryLaterError(ListenerError):
    """The instance cannot be kept now; nothing is wrong with it.

    Attributes:
        reason: a short code, safe as a metric label.
    """

    reason: ClassVar[str]


class SpoolUnavailableError(RetryLaterError):
    """The spool cannot be written: disk full, folder gone, no permission."""

    reason = "spool_unavailable"


class DiskReserveError(RetryLaterError):
    """The spool's disk has less free space than is to be kept free."""

    reason = "disk_reserve"


class LedgerUnavailableError(RetryLaterError):
    """The ledger cannot be read or written."""

    reason = "ledger_unavailable"


class RefusedInstanceError(ListenerError):
    """The instance is not taken, and sending it again will not help.

    Attributes:
        reason: a short code, safe as a metric label.
    """

    reason: ClassVar[str]


class UnreadableHeaderError(RefusedInstanceError):
    """The elements that say what the instance belongs to cannot be read."""

    reason = "unreadable_header"


class MismatchedInstanceError(RefusedInstanceError):
    """The dataset is not the instance that the command announced."""

    reason = "mismatched_instance"


class ConflictingInstanceError(RefusedInstanceError):
    """Another content has this SOP Instance UID already, and the policy is to refuse a second one."""

    reason = "conflicting_instance"


class InvalidInstanceUidError(RefusedInstanceError):
    """A UID that the ledger would be keyed by is not a UID."""

    reason = "invalid_uid"


class OversizedInstanceError(RefusedInstanceError):
    """The dataset is larger than is kept."""

    reason = "oversized_instance"


class UnsupportedSopClassError(RefusedInstanceError):
    """The instance is of a storage class that was not negotiated and is not listed."""

    reason = "unsupported_sop_class"


class StoreError(ListenerError):
    """An object store did not do as asked."""


class StoreConflictError(StoreError):
    """An object is not the one that was to be replaced, or there is one where none was expected."""


class ClaimLostError(ListenerError):
    """The claim has run out and the study was taken by, or given to, somebody else."""


class PeerError(ListenerError):
    """A remote application entity did not do what it was asked for; it may later."""


class PeerUnreachableError(PeerError):
    """No association could be opened, or it broke."""


class PeerRefusedError(PeerError):
    """The peer answered with a failure, or with nothing in time."""


class CommitmentNotFoundError(ListenerError):
    """The ledger has no such request of storage commitment."""

    exit_code = ExitCode.NOT_FOUND


class StudyNotFoundError(ListenerError):
    """The ledger has no such study."""

    exit_code = ExitCode.NOT_FOUND


class StudyNotFailedError(ListenerError):
    """Only a failed study can be tried again by hand."""


class StudyBusyError(ListenerError):
    """A study is being received or processed, and may not be taken away now."""

    exit_code = ExitCode.BUSY
