"""Keep pydicom from printing: its warnings and log lines quote raw values of the header."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import gdcm

_lock = threading.Lock()
_depth = 0
_caught: "warnings.catch_warnings[None] | None" = None

# For good, not for a block: another thread may be inside pydicom when a block ends.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Ignore warnings within the block.

    `warnings.catch_warnings` restores what it found on entry, so blocks of two threads that overlap
    would leave each other's filters behind. Here the first to enter sets and the last to leave
    restores.
    """
    global _depth, _caught  # noqa: PLW0603 - the warning filters themselves belong to the process
    with _lock:
        if _depth == 0:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _caught is not None:
                _caught.__exit__(None, None, None)
                _caught = None
