"""Tables of measurements that others made, as CSV; every fault is named by file, row and column."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from echo_models.errors import DatasetError, TableError

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        file: where it stands.
        number: its line in a CSV, of which the header is 1.
        values: text by column.
    """

    file: Path
    number: int
    values: Mapping[str, str]

    def text(self, column: str) -> str:
        """Give the text of a column.

        Raises:
            TableError: if it is empty.
        """
        value = self.values[column].strip()
        if not value:
            raise self.fault(column, "expected a value; there is none")
        return value

    def number_of(self, column: str) -> float:
        """Give a finite number.

        Raises:
            TableError: if it is none.
        """
        value = self.text(column)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(column, f"expected a number; received {value!r}")
        return number

    def index_of(self, column: str) -> int:
        """Give a whole number from 0; "12.0" is one.

        Raises:
            TableError: if it is none.
        """
        number = self.number_of(column)
        if number < 0 or number != int(number):
            raise self.fault(column, f"expected a whole number from 0; received {self.text(column)!r}")
        return int(number)

    def choice_of(self, column: str, choices: Mapping[str, Choice]) -> Choice:
        """Give what a word stands for.

        Raises:
            TableError: if it is none of the words.
        """
        word = self.text(column)
        if word not in choices:
            raise self.fault(column, f"expected one of {', '.join(choices)}; received {word!r}")
        return choices[word]

    def fault(self, column: str, message: str) -> TableError:
        """Make the error that says what is wrong with a value."""
        return TableError([f"{self.file}, row {self.number}, column {column}: {message}"])


def read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV: its columns, and its rows as dictionaries with their line numbers (the header is 1).

    Raises:
        DatasetError: if it is absent, or not CSV in UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, restkey="", restval="", strict=True)
            rows = [(reader.line_num, row) for row in reader]
            return list(reader.fieldnames or ()), rows
    except FileNotFoundError as error:
        raise DatasetError(f"{file} is not there; is the folder the set's own?") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} must be CSV in UTF-8; {type(error).__name__}") from error


def read_table(file: Path, columns: Sequence[str]) -> list[Row]:
    """Read a CSV that must have these columns, and may have others.

    Raises:
        DatasetError: if it is absent, or not CSV in UTF-8.
        TableError: if a column is missing.
    """
    found, rows = read_csv(file)
    missing = [name for name in columns if name not in found]
    if missing:
        raise TableError([f"{file}: expected a column {name}; columns are {found}" for name in missing])
    return [Row(file, number, values) for number, values in rows]
