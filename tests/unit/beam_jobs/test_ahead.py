import threading
from collections.abc import Iterator

import pytest

from beam_jobs.ahead import Ahead

DEADLINE_S = 60.0


@pytest.fixture
def ahead() -> Iterator[Ahead[str]]:
    made: Ahead[str] = Ahead(threads=2, most=4)
    yield made
    made.close()


def test_items_come_in_the_order_of_iterators_whichever_is_ready_first(ahead: Ahead[str]) -> None:
    is_second_ready = threading.Event()

    def slow() -> Iterator[str]:
        assert is_second_ready.wait(DEADLINE_S)
        yield from ("a0", "a1")

    def quick() -> Iterator[str]:
        is_second_ready.set()
        yield from ("b0", "b1")

    taken = [*ahead.add(slow(), weight=1), *ahead.add(quick(), weight=1), *ahead.rest()]
    assert taken == ["a0", "a1", "b0", "b1"]


def test_the_next_item_is_made_while_the_last_is_in_use(ahead: Ahead[str]) -> None:
    is_next_made = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        is_next_made.set()
        yield "second"

    assert list(ahead.add(items(), weight=1)) == []
    rest = ahead.rest()
    assert next(rest) == "first"
    assert is_next_made.wait(DEADLINE_S)
    assert list(rest) == ["second"]


def test_no_more_is_begun_than_there_is_room_for(ahead: Ahead[str]) -> None:
    begun: list[int] = []

    def items(number: int) -> Iterator[str]:
        begun.append(number)
        yield str(number)

    taken = []
    for number in range(6):
        for item in ahead.add(items(number), weight=2):
            assert len(begun) <= int(item) + 2
            taken.append(item)
    assert taken == ["0", "1", "2", "3"]
    assert [*taken, *ahead.rest()] == [str(number) for number in range(6)]


def test_an_iterator_heavier_than_all_room_is_taken_alone(ahead: Ahead[str]) -> None:
    assert list(ahead.add(iter("a"), weight=1)) == []
    assert list(ahead.add(iter("b"), weight=100)) == ["a"]
    assert list(ahead.add(iter("c"), weight=1)) == ["b"]
    assert list(ahead.rest()) == ["c"]


def test_of_an_iterator_one_item_waits_at_most(ahead: Ahead[str]) -> None:
    made: list[str] = []

    def items() -> Iterator[str]:
        for letter in "abc":
            made.append(letter)
            yield letter

    assert list(ahead.add(items(), weight=1)) == []
    assert list(ahead.add(iter("x"), weight=4)) == ["a", "b", "c"]
    assert made == ["a", "b", "c"]

    made.clear()
    assert list(ahead.add(items(), weight=4)) == ["x"]
    for number, letter in enumerate(ahead.rest(), start=1):
        assert letter == "abc"[number - 1]
        assert len(made) <= number + 1


def test_an_error_is_raised_where_its_item_would_have_come(ahead: Ahead[str]) -> None:
    def failing() -> Iterator[str]:
        yield "kept"
        raise KeyError("unreadable")

    assert list(ahead.add(iter("a"), weight=1)) == []
    assert list(ahead.add(failing(), weight=1)) == []
    rest = ahead.rest()
    assert [next(rest), next(rest)] == ["a", "kept"]
    with pytest.raises(KeyError, match="unreadable"):
        next(rest)


def test_what_was_dropped_never_comes(ahead: Ahead[str]) -> None:
    def failing() -> Iterator[str]:
        yield {"known": "x"}["unreadable"]

    assert list(ahead.add(failing(), weight=1)) == []
    assert list(ahead.add(iter("b"), weight=1)) == []
    ahead.drop()
    assert list(ahead.add(iter("c"), weight=1)) == []
    assert list(ahead.rest()) == ["c"]


def test_close_ends_the_threads() -> None:
    before = threading.active_count()
    made: Ahead[str] = Ahead(threads=2, most=4)
    assert list(made.add(iter("a"), weight=1)) == []
    assert threading.active_count() > before
    made.close()
    assert threading.active_count() == before
