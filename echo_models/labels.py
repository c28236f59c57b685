"""Labels that people give to frames: one documented table, CSV or Parquet (docs/labels.md).

A row is what one labeler says of one frame. A row without any label says that the labeler saw the frame
and left it. A set of labels is one file, or a folder of files, for example one of each labeler.
"""

import csv
import dataclasses
import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from echo_models.errors import DatasetError, TableError
from echo_models.outlines import check_outline
from echo_models.phantom.subject import Hypertrophy
from echo_models.tables import read_csv
from echo_models.views import VIEWS


def _column(name: str, kind: pa.DataType, description: str, *, needed: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=not needed, metadata={"description": description})


LABEL_SCHEMA: Final = pa.schema(
    [
        _column("subject_key", pa.string(), "Who it is: no split divides one's frames.", needed=True),
        _column("instance_key", pa.string(), "The clip or still, as the frames name it.", needed=True),
        _column("frame_index", pa.int32(), "Index of the frame within its instance, from 0.", needed=True),
        _column("labeler", pa.string(), "Who says so: a pseudonym.", needed=True),
        _column("labeled_at", pa.timestamp("s", "UTC"), "When, ISO 8601 with offset or Z.", needed=True),
        _column("view", pa.string(), "One of the fifteen views."),
        _column("lvh_grade", pa.string(), "Grade of left ventricular hypertrophy; `none` is normal."),
        _column("fov", pa.string(), "Outline of the field of view."),
        _column("lv", pa.string(), "Outline of the left ventricle (epicardium)."),
    ],
    metadata={"description": "What a labeler says of a frame."},
)

COLUMNS: Final = tuple(LABEL_SCHEMA.names)
QUESTIONS: Final = ("view", "lvh_grade", "fov", "lv")
"""The columns that hold labels."""

_WHO: Final = ("subject_key", "instance_key", "labeler")
"""Columns whose values no message repeats."""

GRADES: Final = tuple(grade.value for grade in Hypertrophy)

FrameKey = tuple[str, int]
"""Instance key and frame index."""


@dataclass(frozen=True, slots=True)
class Label:
    """What one labeler says of one frame; None is "not labeled".

    Attributes:
        subject_key: who it is.
        instance_key: the clip or still.
        frame_index: from 0.
        labeler: a pseudonym.
        labeled_at: seconds since the epoch, whole.
        view: one of `VIEWS`.
        lvh_grade: one of `GRADES`.
        fov: outline of the field of view, as text: see `echo_models.outlines`.
        lv: outline of the left ventricle.
        folder: what names of PNG masks are relative to.
    """

    subject_key: str
    instance_key: str
    frame_index: int
    labeler: str
    labeled_at: int
    view: str | None = None
    lvh_grade: str | None = None
    fov: str | None = None
    lv: str | None = None
    folder: Path = dataclasses.field(default=Path(), compare=False)

    @property
    def frame_key(self) -> FrameKey:
        """Name the frame."""
        return self.instance_key, self.frame_index

    @property
    def is_empty(self) -> bool:
        """Say whether the labeler left the frame without a label."""
        return all(getattr(self, question) is None for question in QUESTIONS)

    @property
    def is_lvh(self) -> bool | None:
        """Say whether the paper counts the grade as LVH; None where there is no grade."""
        return None if self.lvh_grade is None else Hypertrophy(self.lvh_grade).is_lvh


# --- reading ----------------------------------------------------------------------------------------


def read_labels(path: Path) -> list[Label]:
    """Read a file of labels, or every `.csv` and `.parquet` of a folder.

    Raises:
        DatasetError: if there is no such file, or it is neither CSV nor Parquet.
        TableError: if it has faults: all of them are named, by file, row (the header of a CSV is row 1)
            and column.
    """
    files = [path]
    if path.is_dir():
        files = sorted(it for it in path.iterdir() if it.suffix in (".csv", ".parquet"))
    if not files or not path.exists():
        raise DatasetError(f"labels are a .csv or .parquet file, or a folder of them; {path} holds none")
    faults: list[str] = []
    labels: list[Label] = []
    seen: dict[tuple[FrameKey, str], str] = {}
    for file in files:
        for place, label in _read_file(file, faults):
            key = (label.frame_key, label.labeler)
            if key in seen:
                faults.append(
                    f"{place}: expected one row for each frame and labeler; this frame has one of the same "
                    f"labeler in {seen[key]}"
                )
            seen[key] = place
            labels.append(label)
    if faults:
        raise TableError(faults)
    return labels


def _read_file(file: Path, faults: list[str]) -> Iterator[tuple[str, Label]]:
    columns, rows = _raw_rows(file)
    missing = [name for name in COLUMNS if not LABEL_SCHEMA.field(name).nullable and name not in columns]
    faults += [f"{file}: expected a column {name}; there is none" for name in missing]
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; columns are {', '.join(COLUMNS)}"
            faults.append(f"{file}: unknown column {name!r}{hint}")
    if missing:
        return
    for number, row in rows:
        before = len(faults)
        values = {name: _value(name, row.get(name), f"{file}, row {number}", faults) for name in COLUMNS}
        if len(faults) == before:
            yield f"{file}, row {number}", Label(**values, folder=file.parent)


def _raw_rows(file: Path) -> tuple[list[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Give the columns of a table, and its rows with their numbers."""
    if file.suffix == ".parquet":
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{file} must be a Parquet file that can be read") from error
        return table.column_names, enumerate(table.to_pylist(), start=1)
    if file.suffix != ".csv":
        raise DatasetError(f"labels are .csv or .parquet; received {file}")
    return read_csv(file)


def _value(name: str, value: Any, place: str, faults: list[str]) -> Any:
    """Check one value; a fault never repeats a key or a labeler's name."""
    if value is None or value == "":
        if not LABEL_SCHEMA.field(name).nullable:
            faults.append(f"{place}, column {name}: expected a value; there is none")
        return None
    try:
        return _PARSERS.get(name, _text)(value)
    except ValueError as error:
        shown = (
            "" if name in ("subject_key", "instance_key", "labeler") else f"; received {str(value)[:60]!r}"
        )
        faults.append(f"{place}, column {name}: {error}{shown}")
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str) or value != value.strip():
        raise ValueError("expected text without blanks around it")
    return value


def _index(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError("expected a whole number from 0")
    return value


def _time(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("expected a time like 2026-01-31T12:00:00Z")
    return int(value.timestamp())


def _view(value: Any) -> str:
    if value not in VIEWS:
        raise ValueError(f"expected one of {', '.join(VIEWS)}{_near(value, VIEWS)}")
    return str(value)


def _grade(value: Any) -> str:
    if value not in GRADES:
        raise ValueError(f"expected one of {', '.join(GRADES)}{_near(value, GRADES)}")
    return str(value)


def _outline(value: Any) -> str:
    check_outline(_text(value))
    return str(value)


def _near(value: Any, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value).lower(), words, 1)
    return f" (did you mean {near[0]}?)" if near else ""


_PARSERS: Final = {
    "frame_index": _index,
    "labeled_at": _time,
    "view": _view,
    "lvh_grade": _grade,
    "fov": _outline,
    "lv": _outline,
}


# --- writing ----------------------------------------------------------------------------------------


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Write labels as CSV or Parquet, by the name's ending; a kill leaves the old file or the new, whole.

    Raises:
        DatasetError: if the name ends otherwise.
    """
    rows = [{name: getattr(label, name) for name in COLUMNS} for label in labels]
    if path.suffix == ".csv":
        content = _as_csv(rows)
    elif path.suffix == ".parquet":
        content = _as_parquet(rows)
    else:
        raise DatasetError(f"labels are written as .csv or .parquet; received {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.write_bytes(content)
    temporary.replace(path)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        when = datetime.fromtimestamp(row["labeled_at"], UTC)
        writer.writerow({**row, "labeled_at": when.strftime("%Y-%m-%dT%H:%M:%SZ")})
    return text.getvalue().encode()


def _as_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=LABEL_SCHEMA), sink)
    return bytes(sink.getvalue())
