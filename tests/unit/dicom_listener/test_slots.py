import os
from pathlib import Path

import pytest

from dicom_listener.slots import Slots


def test_so_many_are_taken_at_once_and_a_free_one_is_taken_again(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    first, second = slots.take("all", 2), slots.take("all", 2)
    assert first is not None
    assert second is not None
    assert slots.take("all", 2) is None
    other = slots.take("other", 1)
    assert other is not None, "names are counted apart"
    slots.give_back(first)
    again = slots.take("all", 2)
    assert again is not None
    for slot in (again, second, other):
        slots.give_back(slot)


def test_a_process_that_ends_holds_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    child = os.fork()
    if child == 0:
        os._exit(0 if slots.take("all", 1) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    slot = slots.take("all", 1)
    assert slot is not None
    slots.give_back(slot)


def test_cleared_slots_are_free(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    slot = slots.take("all", 1)
    assert slot is not None
    slots.give_back(slot)
    slots.clear()
    assert list((tmp_path / "slots").iterdir()) == []


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    (tmp_path / "slots").rmdir()
    with pytest.raises(OSError, match="No such file"):
        slots.take("all", 1)
