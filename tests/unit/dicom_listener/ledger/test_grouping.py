import threading
from collections.abc import Sequence

import pytest

from dicom_listener.ledger.grouping import GroupCommit
from tests.programs import DEADLINE_S


class Disk:
    """Commits what it gets, and waits in the first commit until it is told to go on."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.began = threading.Event()
        self.may_go_on = threading.Event()

    def commit(self, entries: Sequence[int]) -> list[str | Exception]:
        self.groups.append(list(entries))
        if len(self.groups) == 1:
            self.began.set()
            assert self.may_go_on.wait(DEADLINE_S)
        if 13 in entries:
            raise OSError("the disk is full")
        return [ValueError(entry) if entry < 0 else f"kept {entry}" for entry in entries]


def submit_together(disk: Disk, first: int, others: Sequence[int]) -> dict[int, object]:
    """Submit one entry, and the others while the first is being committed."""
    group = GroupCommit[int, str](disk.commit)
    answers: dict[int, object] = {}

    def submit(entry: int) -> None:
        try:
            answers[entry] = group.submit(entry)
        except (OSError, ValueError) as error:
            answers[entry] = error

    threads = [threading.Thread(target=submit, args=(entry,)) for entry in (first, *others)]
    threads[0].start()
    assert disk.began.wait(DEADLINE_S)
    for thread in threads[1:]:
        thread.start()
    deadline = threading.Event()
    while len(group._queue) < len(others):
        deadline.wait(0.001)
    disk.may_go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    return answers


def test_one_alone_waits_for_nobody() -> None:
    disk = Disk()
    disk.may_go_on.set()
    group = GroupCommit[int, str](disk.commit)
    assert [group.submit(1), group.submit(2)] == ["kept 1", "kept 2"]
    assert disk.groups == [[1], [2]]


def test_what_comes_during_a_commit_shares_the_next() -> None:
    disk = Disk()
    answers = submit_together(disk, 1, [2, 3, 4])
    assert answers == {entry: f"kept {entry}" for entry in (1, 2, 3, 4)}
    assert [sorted(group) for group in disk.groups] == [[1], [2, 3, 4]]


def test_an_error_that_answers_one_is_raised_to_it_alone() -> None:
    answers = submit_together(Disk(), 1, [2, -3])
    assert answers[2] == "kept 2"
    assert isinstance(answers[-3], ValueError)


def test_a_commit_that_fails_is_raised_to_all_of_its_group_and_to_no_other() -> None:
    answers = submit_together(Disk(), 1, [2, 13])
    assert answers[1] == "kept 1"
    assert isinstance(answers[2], OSError)
    assert isinstance(answers[13], OSError)


@pytest.mark.parametrize("answers", [[], ["a", "b"]])
def test_a_commit_that_answers_too_few_or_too_many_is_a_fault(answers: list[str]) -> None:
    group = GroupCommit[int, str](lambda _entries: answers)
    with pytest.raises(ValueError, match="zip"):
        group.submit(1)
