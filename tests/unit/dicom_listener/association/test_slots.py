import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_listener.association.slots import Slots


def test_so_many_are_taken_at_once_and_a_free_one_is_taken_again(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    first, second = slots.take("all", 2), slots.take("all", 2)
    assert first is not None
    assert second is not None
    assert slots.take("all", 2) is None
    other = slots.take("other", 1)
    assert other is not None, "names are counted apart"
    first.give_back()
    again = slots.take("all", 2)
    assert again is not None
    for slot in (again, second, other):
        slot.give_back()
    assert list((tmp_path / "slots").iterdir()) == []


def test_a_process_that_ends_holds_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    child = os.fork()
    if child == 0:
        os._exit(0 if slots.take("all", 1) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    slot = slots.take("all", 1)
    assert slot is not None
    slot.give_back()


def test_what_a_dead_process_left_is_cleared(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    (tmp_path / "slots" / "all-0").touch()
    slots.clear()
    assert list((tmp_path / "slots").iterdir()) == []


def test_a_file_that_was_deleted_before_it_was_locked_is_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(tmp_path / "slots")
    path = tmp_path / "slots" / "all-0"
    flock = fcntl.flock

    def given_back_just_before(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", given_back_just_before)
    slot = slots.take("all", 1)
    assert slot is not None
    assert path.exists()
    assert slots.take("all", 1) is None
    slot.give_back()


def test_threads_that_race_never_have_more_than_there_are(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    taken = 0
    lock = threading.Lock()

    def take_and_give_back(_: int) -> int:
        nonlocal taken
        slot = slots.take("all", 3)
        if slot is None:
            return 0
        with lock:
            taken += 1
            now = taken
        with lock:
            taken -= 1
            slot.give_back()
        return now

    with ThreadPoolExecutor(8) as pool:
        most = max(pool.map(take_and_give_back, range(400)))
    assert 1 <= most <= 3
    assert list((tmp_path / "slots").iterdir()) == []


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    (tmp_path / "slots").rmdir()
    with pytest.raises(OSError, match="No such file"):
        slots.take("all", 1)
