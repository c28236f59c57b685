"""The reserve of the spool's disk: below it nothing is accepted, well above it everything is again."""

import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_listener.errors import DiskReserveError

RECOVERY_RATIO: Final = 1.25
"""Accepted again from this much of the reserve on, so that a disk at its edge does not flutter."""

_log = structlog.get_logger(__name__)


def free_bytes_of(folder: Path) -> int:
    """Say how much an unprivileged user may still write on the disk of a folder (bytes).

    Raises:
        OSError: if the folder cannot be examined.
    """
    return shutil.disk_usage(folder).free


class DiskReserve:
    """Watches the free space of one folder's disk. Any thread may ask; asking costs microseconds.

    Attributes:
        minimum_free_bytes: the reserve; 0 for none.
    """

    def __init__(
        self,
        folder: Path,
        minimum_free_bytes: int,
        *,
        free_bytes: Callable[[Path], int] = free_bytes_of,
    ) -> None:
        self.minimum_free_bytes = minimum_free_bytes
        self._folder = folder
        self._free_bytes = free_bytes
        self._was_low = False
        self._lock = threading.Lock()

    def free_bytes(self) -> int | None:
        """Say how much is free; None if the disk does not say."""
        try:
            return self._free_bytes(self._folder)
        except OSError:
            return None  # whoever writes next meets the same trouble, and says so

    def is_low(self) -> bool:
        """Say whether the reserve is reached, or was and has not recovered yet."""
        free = self.free_bytes()
        if free is None or self.minimum_free_bytes == 0:
            return False
        with self._lock:
            enough = self.minimum_free_bytes * (RECOVERY_RATIO if self._was_low else 1.0)
            is_low = free < enough
            changed, self._was_low = is_low != self._was_low, is_low
        if changed and is_low:
            _log.error(
                "disk_reserve_reached",
                free_bytes=free,
                minimum_free_bytes=self.minimum_free_bytes,
                advice="nothing is accepted until space is free: see the runbook, EchobeamDiskFull",
            )
        elif changed:
            _log.info("disk_reserve_restored", free_bytes=free)
        return is_low

    def check(self) -> None:
        """Refuse to go on while the reserve is reached.

        Raises:
            DiskReserveError: if it is.
        """
        if self.is_low():
            raise DiskReserveError(
                f"The spool's disk has less than the {self.minimum_free_bytes} bytes free that are to stay "
                "free (minimum_free_bytes): free space, then let the sender try again"
            )


class DiskCollector(Collector):
    """Free space and reserve, asked of the disk at each scrape."""

    def __init__(self, reserve: DiskReserve) -> None:
        self._reserve = reserve

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking the disk."""
        yield _free_family()
        yield _minimum_family()

    def collect(self) -> Iterable[Metric]:
        """Ask the disk. If it does not answer, the series of its free space is absent."""
        free = self._reserve.free_bytes()
        if free is not None:
            family = _free_family()
            family.add_metric([], free)
            yield family
        family = _minimum_family()
        family.add_metric([], self._reserve.minimum_free_bytes)
        yield family


def _free_family() -> GaugeMetricFamily:
    return GaugeMetricFamily("echobeam_listener_free_bytes", "Free space on the spool's disk.")


def _minimum_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_minimum_free_bytes", "Free space below which nothing is accepted; 0 for none."
    )
