"""What a requester of storage commitment is told: at once, and in the report."""

from enum import IntEnum
from typing import Final

REQUEST_STORAGE_COMMITMENT: Final = 1
"""Action Type ID (PS3.4 Table J.3-1)."""


class ActionStatus(IntEnum):
    """Statuses of an N-ACTION response that this listener gives (PS3.7 10.1.4.1.10)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_SOP_INSTANCE = 0x0112
    INVALID_ARGUMENT_VALUE = 0x0115
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    RESOURCE_LIMITATION = 0x0213

    @property
    def meaning(self) -> str:
        """When it is given."""
        return _OF_ACTION[self]


class ReportEvent(IntEnum):
    """Event Type ID of an N-EVENT-REPORT (PS3.4 Table J.3-2)."""

    ALL_COMMITTED = 1
    FAILURES_EXIST = 2

    @property
    def meaning(self) -> str:
        """When it is reported."""
        return _OF_EVENT[self]


class FailureReason(IntEnum):
    """Why an instance is not committed: Failure Reason (0008,1197), PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131

    @property
    def meaning(self) -> str:
        """When it is given."""
        return _OF_FAILURE[self]


_OF_ACTION: Final = {
    ActionStatus.SUCCESS: "The request is kept and will be reported, whatever the report says.",
    ActionStatus.PROCESSING_FAILURE: "The request cannot be kept now; it may be sent again.",
    ActionStatus.NO_SUCH_SOP_INSTANCE: "It is not for the well-known instance of the push model.",
    ActionStatus.INVALID_ARGUMENT_VALUE: "It has no transaction UID, refers to nothing, refers to one "
    "instance by two SOP classes, has an invalid UID, or cannot be read.",
    ActionStatus.NO_SUCH_ACTION: "Its action type is not 1.",
    ActionStatus.NOT_AUTHORIZED: "The calling AE title is no configured peer: nobody would know where to "
    "report to.",
    ActionStatus.RESOURCE_LIMITATION: "It refers to more instances than one request may.",
}
_OF_EVENT: Final = {
    ReportEvent.ALL_COMMITTED: "Every instance is kept, and was found whole.",
    ReportEvent.FAILURES_EXIST: "At least one is not; each is in one of the two sequences.",
}
_OF_FAILURE: Final = {
    FailureReason.PROCESSING_FAILURE: "Its file is there, but is not what was received or cannot be read.",
    FailureReason.NO_SUCH_OBJECT_INSTANCE: "It never came, or its file is gone.",
    FailureReason.CLASS_INSTANCE_CONFLICT: "It was received as another SOP class than the request says.",
    FailureReason.REFERENCED_SOP_CLASS_NOT_SUPPORTED: "It cannot have come: its class is not received.",
    FailureReason.DUPLICATE_TRANSACTION_UID: "The transaction UID stands for another request of this "
    "requester.",
}
