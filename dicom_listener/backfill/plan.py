"""Which questions a backfill asks: a day at a time, or a line of a list at a time."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from pydicom import config
from pydicom.uid import UID

from dicom_listener.errors import StartRefusedError
from dicom_listener.peers.find import StudyQuery

COLUMNS: Final = {"studyinstanceuid": "StudyInstanceUID", "accessionnumber": "AccessionNumber"}
"""The columns that a list may have, by their names in small letters without spaces and underscores."""

_MAXIMUM_ACCESSION_NUMBER_LENGTH: Final = 16  # PS3.5 Table 6.2-1, SH
_NOT_LITERAL: Final = frozenset("*?\\")


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the archive.

    Attributes:
        name: what it is called in messages; free of patients' data.
        must_find: whether it is a failure if nothing is found.
    """

    name: str
    query: StudyQuery
    must_find: bool = False


def questions_by_day(first: date, last: date, keys: Mapping[str, str]) -> Iterator[Question]:
    """Ask for the studies of each day, so that no archive's limit on the answers cuts a long range short.

    Raises:
        StartRefusedError: if the range ends before it begins.
    """
    if last < first:
        raise StartRefusedError(f"The range ends ({last}) before it begins ({first}): turn it round")
    days = (last - first).days + 1
    for day in (first + timedelta(days=number) for number in range(days)):
        yield Question(f"studies of {day}", StudyQuery(day, day, keys))


def question_by_keys(keys: Mapping[str, str]) -> Question:
    """Ask for everything that the keys match, of any day."""
    return Question("studies of any day", StudyQuery(keys=keys))


def questions_by_list(path: Path) -> list[Question]:
    """Ask for each study of a CSV list with a column `study_instance_uid` or `accession_number`.

    Values are not quoted in errors: an accession number belongs to a patient.

    Raises:
        StartRefusedError: if it cannot be read, has neither column, or a value that cannot be one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StartRefusedError(
            f"The list {path} cannot be read ({type(error).__name__}): expected CSV in UTF-8"
        ) from error
    header = [name.strip().lower().replace("_", "").replace(" ", "") for name in rows[0]] if rows else []
    column = next((number for number, name in enumerate(header) if name in COLUMNS), None)
    if column is None:
        raise StartRefusedError(
            f"The list {path} has no column that names studies: expected study_instance_uid or "
            "accession_number in its first line"
        )
    keyword = COLUMNS[header[column]]
    values = {
        number: row[column].strip()
        for number, row in enumerate(rows[1:], start=2)
        if len(row) > column and row[column].strip()
    }
    _check(path, keyword, values)
    return [
        Question(f"line {number} of the list", StudyQuery(keys={keyword: value}), must_find=True)
        for number, value in values.items()
    ]


def _check(path: Path, keyword: str, values: Mapping[int, str]) -> None:
    is_one = _is_uid if keyword == "StudyInstanceUID" else _is_accession_number
    wrong = [number for number, value in values.items() if not is_one(value)]
    if wrong:
        raise StartRefusedError(f"The list {path} has no {keyword} in line {_enumerate(wrong)}: correct it")


def _is_uid(text: str) -> bool:
    return UID(text, validation_mode=config.IGNORE).is_valid


def _is_accession_number(text: str) -> bool:
    return len(text) <= _MAXIMUM_ACCESSION_NUMBER_LENGTH and not _NOT_LITERAL & set(text)


def _enumerate(numbers: Iterable[int], most: int = 10) -> str:
    listed = [str(number) for number in numbers]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def digest(queries: Iterable[StudyQuery]) -> str:
    """Digest what is asked, so that it can be recognised without being written down."""
    text = json.dumps([[str(one.first_day), str(one.last_day), sorted(one.keys.items())] for one in queries])
    return hashlib.sha256(text.encode()).hexdigest()
