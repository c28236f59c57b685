from dicom_listener.association.repeats import PAUSE_S, Repeats


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_time_is_told_at_once_and_the_others_together() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert repeats.count("a") == 1
    assert [repeats.count("a") for _ in range(5)] == [0] * 5
    assert repeats.count("b") == 1, "something else is another matter"
    clock.now = PAUSE_S
    assert repeats.count("a") == 6
    assert repeats.count("a") == 0


def test_memory_is_bounded_by_forgetting_what_has_not_happened_for_longest() -> None:
    repeats = Repeats(Clock())
    repeats.count("first")
    repeats.count("second")
    repeats.count("first")
    for number in range(999):
        repeats.count(number)
    assert repeats.count("second") == 1, "forgotten, and told again"
    assert len(repeats._told) <= 1000


def test_what_is_counted_often_is_not_forgotten() -> None:
    repeats = Repeats(Clock())
    for number in range(5000):
        repeats.count(number)
        assert repeats.count("always") == (1 if number == 0 else 0)
