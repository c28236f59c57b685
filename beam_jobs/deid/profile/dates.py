"""Dates, times and ages: moved together by what only the key knows, or not kept at all."""

import re
from datetime import date, datetime, timedelta
from typing import Final

from beam_jobs.deid.headers import OLDEST_AGE_YEARS
from beam_jobs.deid.profile.values import Subject, padded, stripped

_DAY_S: Final = 86_400
_DATE: Final = re.compile(rb"(\d{4})\.?(\d\d)\.?(\d\d)")
_TIME: Final = re.compile(rb"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")
_DATETIME: Final = re.compile(
    rb"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?(?:[+-]\d{4})?"
)
_AGE: Final = re.compile(rb"(\d{3})([DWMY])")


def shift_date(value: bytes, subject: Subject) -> bytes | None:
    """Move a date by the subject's days."""
    return _moved_date(value, subject.day_shift)


def shift_date_of_time(value: bytes, time: bytes | None, subject: Subject) -> bytes | None:
    """Move a date by the subject's days, and over midnight where the time beside it goes there."""
    is_over = time is not None and (_seconds(time) or 0) + subject.second_shift >= _DAY_S
    return _moved_date(value, subject.day_shift + is_over)


def _moved_date(value: bytes, days: int) -> bytes | None:
    match = _DATE.fullmatch(stripped(value))
    if match is None:
        return None
    day, month, year = int(match[3]), int(match[2]), int(match[1])
    try:
        return (date(year, month, day) + timedelta(days)).strftime("%Y%m%d").rjust(8, "0").encode("ascii")
    except OverflowError:
        return None


def _seconds(value: bytes) -> int | None:
    match = _TIME.fullmatch(stripped(value))
    if match is None:
        return None
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    return hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 and seconds <= 60 else None


def shift_time(value: bytes, subject: Subject) -> bytes | None:
    """Move a time of day by the subject's seconds; None where times are to be removed."""
    seconds = _seconds(value) if subject.shifts_times else None
    if seconds is None:
        return None
    moved = (seconds + subject.second_shift) % _DAY_S
    return b"%02d%02d%02d" % (moved // 3600, moved // 60 % 60, moved % 60)


def shift_datetime(value: bytes, subject: Subject) -> bytes | None:
    """Move a date with time; what stays is a date where times are to be removed.

    The offset from UTC goes, because it says where on Earth it was.
    """
    match = _DATETIME.fullmatch(stripped(value))
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) if part else None for part in match.groups()[:6])
    try:
        at = datetime(year or 0, month or 1, day or 1, hour or 0, minute or 0, min(second or 0, 59))  # noqa: DTZ001 - DICOM's are local
        has_time = subject.shifts_times and hour is not None
        at += timedelta(subject.day_shift, subject.second_shift if has_time else 0)
    except OverflowError:
        return None
    if has_time:
        return f"{at.year:04d}{at:%m%d%H%M%S}".encode("ascii")
    digits = 8 if day else 6 if month else 4
    return padded(f"{at.year:04d}{at:%m%d}"[:digits].encode("ascii"))


def cap_age(value: bytes, _: Subject) -> bytes | None:
    """Keep an age; of 90 years and over it is 90 (PS3.15 E.3.7)."""
    match = _AGE.fullmatch(stripped(value))
    if match is None:
        return None
    years = int(match[1]) / {b"D": 365.25, b"W": 52.18, b"M": 12, b"Y": 1}[match[2]]
    return b"%03dY" % OLDEST_AGE_YEARS if years >= OLDEST_AGE_YEARS else match[0]
