import errno
import shutil
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dicom_listener.errors import DiskReserveError
from dicom_listener.spool.capacity import RECOVERY_RATIO, DiskCollector, DiskReserve, free_bytes_of

RESERVE = 1000


class Disk:
    """A disk that has as much free as it is told."""

    def __init__(self, free: int) -> None:
        self.free: int | None = free

    def __call__(self, _: Path) -> int:
        if self.free is None:
            raise OSError(errno.EIO, "Input/output error")
        return self.free


def reserve_on(disk: Disk, minimum: int = RESERVE) -> DiskReserve:
    return DiskReserve(Path("anywhere"), minimum, free_bytes=disk)


def test_the_reserve_is_reached_below_it_and_not_at_it() -> None:
    disk = Disk(RESERVE)
    reserve = reserve_on(disk)
    assert not reserve.is_low()
    disk.free = RESERVE - 1
    assert reserve.is_low()


def test_it_recovers_by_itself_but_not_at_the_edge() -> None:
    disk = Disk(RESERVE - 1)
    reserve = reserve_on(disk)
    with capture_logs() as logs:
        assert reserve.is_low()
        disk.free = int(RESERVE * RECOVERY_RATIO) - 1
        assert reserve.is_low()
        disk.free = int(RESERVE * RECOVERY_RATIO)
        assert not reserve.is_low()
        disk.free = RESERVE
        assert not reserve.is_low()
    assert [line["event"] for line in logs] == ["disk_reserve_reached", "disk_reserve_restored"]
    assert logs[0]["advice"]


def test_a_check_refuses_while_it_is_low() -> None:
    disk = Disk(RESERVE - 1)
    reserve = reserve_on(disk)
    with pytest.raises(DiskReserveError, match="minimum_free_bytes"):
        reserve.check()
    disk.free = 2 * RESERVE
    reserve.check()


def test_without_a_reserve_nothing_is_low() -> None:
    assert not reserve_on(Disk(0), minimum=0).is_low()


def test_a_disk_that_does_not_answer_is_left_to_whoever_writes() -> None:
    disk = Disk(0)
    disk.free = None
    reserve = reserve_on(disk)
    assert reserve.free_bytes() is None
    assert not reserve.is_low()


def test_free_space_is_that_of_the_folder_s_disk(tmp_path: Path) -> None:
    assert 0 < free_bytes_of(tmp_path) <= shutil.disk_usage(tmp_path).total


def test_a_folder_that_is_gone_cannot_be_examined(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        free_bytes_of(tmp_path / "gone")


def test_free_space_and_reserve_are_scraped() -> None:
    disk = Disk(1234)
    registry = CollectorRegistry()
    registry.register(DiskCollector(reserve_on(disk)))
    assert registry.get_sample_value("echobeam_listener_free_bytes") == 1234
    assert registry.get_sample_value("echobeam_listener_minimum_free_bytes") == RESERVE
    disk.free = None
    assert registry.get_sample_value("echobeam_listener_free_bytes") is None
