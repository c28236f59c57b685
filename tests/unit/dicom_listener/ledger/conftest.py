"""The ledger's own tests: on each database in turn."""

from collections.abc import Iterator

import pytest

from dicom_listener.ledger import Ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()
