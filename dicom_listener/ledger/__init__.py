"""The ledger: what was received, and where each study is on its way to the tables.

A study goes receiving → complete → claimed → done, or to failed after too many attempts:

    receiving   instances come; `complete_studies` applies the completion rule
    complete    waits for a worker, oldest first
    claimed     a worker holds it under a lease; a lease that ends gives it back
    done        its tables are written
    failed      out of attempts; waits for an operator (`echobeam studies retry`)

What comes after a study is complete raises its revision and sends it round again. A worker that is
at it meanwhile may still commit: its results stand until those of the next revision replace them.

Times are seconds since the epoch and are passed in. No statement's parameters appear in an error:
they hold patients' identifiers.
"""

from dicom_listener.ledger.claims import Claims
from dicom_listener.ledger.completing import Completing
from dicom_listener.ledger.engines import Engines, HeldClaim
from dicom_listener.ledger.inventory import Inventory
from dicom_listener.ledger.pruning import Pruning
from dicom_listener.ledger.questions import Questions
from dicom_listener.ledger.receiving import Receiving
from dicom_listener.ledger.records import (
    ClaimedStudy,
    Conflict,
    ConflictKind,
    ConflictPolicy,
    Content,
    FileState,
    ReceivedInstance,
    RecordOutcome,
    Resolution,
    SpooledInstance,
    StudyRecord,
    StudyState,
)

__all__ = [
    "ClaimedStudy",
    "Conflict",
    "ConflictKind",
    "ConflictPolicy",
    "Content",
    "FileState",
    "HeldClaim",
    "Ledger",
    "ReceivedInstance",
    "RecordOutcome",
    "Resolution",
    "SpooledInstance",
    "StudyRecord",
    "StudyState",
]


class Ledger(Receiving, Completing, Claims, Engines, Questions, Inventory, Pruning):
    """The ledger behind a database URL. Threads and processes may share it."""
