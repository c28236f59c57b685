"""What a requester of storage commitment is told: at once, and in the report."""

from enum import IntEnum
from typing import Final

REQUEST_STORAGE_COMMITMENT: Final = 1
"""Action Type ID (PS3.4 Table J.3-1)."""


class ActionStatus(IntEnum):
    """Statuses of an N-ACTION response that this listener gives (PS3.7 10.1.4.1.10)."""

    SUCCESS = 0x0000  # the request is kept and will be reported, whatever the report says
    PROCESSING_FAILURE = 0x0110  # the ledger does not take it now
    NO_SUCH_SOP_INSTANCE = 0x0112  # not the well-known instance of PS3.4 J.3.5
    INVALID_ARGUMENT_VALUE = 0x0115  # the request cannot be understood
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124  # the requester is no configured peer: we would not know whom to tell
    RESOURCE_LIMITATION = 0x0213  # more references than one request may have


class ReportEvent(IntEnum):
    """Event Type ID of an N-EVENT-REPORT (PS3.4 Table J.3-2)."""

    ALL_COMMITTED = 1
    FAILURES_EXIST = 2


class FailureReason(IntEnum):
    """Why an instance is not committed: Failure Reason (0008,1197), PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110  # its file is not, or not readably, what was received
    NO_SUCH_OBJECT_INSTANCE = 0x0112  # it never came, or its file is gone
    CLASS_INSTANCE_CONFLICT = 0x0119  # it is of another SOP Class than the request says
    REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122  # it cannot have come: we do not receive its class
    DUPLICATE_TRANSACTION_UID = 0x0131  # the transaction UID stands for another request
