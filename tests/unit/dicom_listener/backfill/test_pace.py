from datetime import UTC, datetime

import pytest

from dicom_listener.backfill.pace import Pace, Window


@pytest.mark.parametrize(
    ("window", "now", "wait_s"),
    [
        ("22:00-06:00", "2024-05-17T23:00", 0),
        ("22:00-06:00", "2024-05-18T05:59", 0),
        ("22:00-06:00", "2024-05-18T06:00", 16 * 3600),
        ("22:00-06:00", "2024-05-17T21:59", 60),
        ("01:00-02:00", "2024-05-17T01:00", 0),
        ("01:00-02:00", "2024-05-17T02:00", 23 * 3600),
        ("01:00-02:00", "2024-05-17T00:30", 1800),
    ],
)
def test_a_window_says_how_long_it_is_closed(window: str, now: str, wait_s: float) -> None:
    assert Window.parse(window).wait_s(datetime.fromisoformat(now).replace(tzinfo=UTC)) == wait_s


@pytest.mark.parametrize("text", ["22:00", "22-", "25:00-06:00", "night-day", "06:00-06:00"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"22:00|any time"):
        Window.parse(text)


def test_without_a_limit_nothing_waits() -> None:
    pace = Pace()
    pace.note(10**12, began_at=100)
    assert pace.wait_s(100) == 0


def test_studies_keep_their_distance() -> None:
    pace = Pace(studies_per_minute=6)
    pace.note(0, began_at=100)
    assert pace.wait_s(103) == 7
    assert pace.wait_s(120) == 0


def test_a_large_study_is_waited_for_and_a_pause_is_not_saved_up() -> None:
    pace = Pace(megabytes_per_minute=60)
    pace.note(30_000_000, began_at=100)
    assert pace.wait_s(110) == 20
    pace.note(1_000_000, began_at=500)
    assert pace.wait_s(500) == 1
