"""What the listener's tests stand on, unless a folder says otherwise: a spool, and a ledger in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_listener.ledger import Ledger
from dicom_listener.spool.writing import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    with spool.receiving():
        yield spool


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()
