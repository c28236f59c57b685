"""A worker stays up for weeks: its memory may not grow with the number of batches."""

import ctypes
import gc
import time
from pathlib import Path

import pytest

from beam_jobs.settings import WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from tests.bright import BRIGHT, write_bright_registry
from tests.studies import AT_ONCE, clip, receive

BATCHES = 300
WARM_UP = 100
GROWTH_BYTES = 16 * 2**20
"""Of 200 batches: 80 kB each would be seen; they take some 10 kB."""


def resident_bytes() -> int:
    """Give what this process holds, without what glibc's allocator has free and keeps: that alone swings by
    some 10 MiB from one batch to the next.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_memory_is_flat_over_300_batches(tmp_path: Path) -> None:
    write_bright_registry(tmp_path / "models")
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    instances = [clip(number, 1, frames=2, grey=BRIGHT) for number in range(BATCHES)]
    receive(ledger, tmp_path / "spool", instances, now=time.time() - 10)
    settings = WorkerSettings(root=tmp_path, http_port=0, studies_per_batch=1)
    with Worker(settings, AT_ONCE) as worker:
        for _ in range(WARM_UP):
            assert worker.process_next_batch()
        before = resident_bytes()
        while worker.process_next_batch():
            pass
        growth = resident_bytes() - before
    assert ledger.counts_by_state()["done"] == BATCHES
    assert growth < GROWTH_BYTES, f"{growth / 2**20:.1f} MiB in {BATCHES - WARM_UP} batches"
