"""The spool's tests: its ledger knows where the files are, on each database in turn."""

from collections.abc import Iterator

import pytest

from dicom_listener.ledger import ConflictPolicy, Ledger
from dicom_listener.spool.writing import Spool


@pytest.fixture
def ledger(ledger_url: str, spool: Spool) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url, spool=spool.root, conflict_policy=ConflictPolicy.REPLACE)
    yield ledger
    ledger.close()
