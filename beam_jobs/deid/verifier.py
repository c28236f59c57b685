"""Read what was written of a study, and search it for the patient.

The door takes the patient out; this module does not trust it. It reads files, not the tables in memory:
their names, bytes, texts, numbers, days, arrays and pixels. Every column of a closed vocabulary must
hold words of it, every key must be one that the study was given, every day one that the key shifts to.
A finding says what kind of thing was found where, never what.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from beam_jobs.deid.audit import CAPPED, CLEANED, KEYED, MAPPED, PROFILE, REMOVED, SHIFTED, TABLES
from beam_jobs.deid.decoders import SUPPORTED_TRANSFER_SYNTAXES
from beam_jobs.deid.headers import OLDEST_AGE_YEARS, ULTRASOUND_SOP_CLASSES
from beam_jobs.deid.ocr import Word, tells_something
from beam_jobs.deid.originals import DAMAGED, PRIVATE, UNKNOWN, keyword_of, walk
from beam_jobs.deid.profile.options import DeidOptions
from beam_jobs.deid.profile.table import read_words
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.search import Kind, Search
from beam_jobs.records import Placement, QuarantineReason, Reason
from beam_jobs.schemas import A4C_SCHEMA, RESULT_SCHEMAS, UNKNOWN_VIEW
from echo_models.manifest import TASKS
from echo_models.views import VIEWS

UNEXPECTED: Final = "unexpected_value"
"""A value that is none of those its column may have."""

TEXT: Final = "text"
"""A word in a frame that may name somebody."""

FILE_NAME: Final = "file_name"
WHOLE_FILE: Final = "bytes"

_GRAPHICS_GROUPS: Final = frozenset({0x5000, 0x6000})
"""Curves and overlays, PS3.3 C.9 and C.10."""

_WORD: Final = re.compile(r"[^\W_]+")
_WORDS: Final = re.compile(r"[A-Za-z ]{2,32}")
_MODEL: Final = re.compile(rf"({'|'.join(TASKS)})-[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}")
_STEP: Final = re.compile(r"[A-Z][A-Za-z]{2,40}")


class Finding(NamedTuple):
    """Something that must not be there.

    Attributes:
        kind: a `Kind`, `TEXT` or `UNEXPECTED`.
        place: `table.column`, `table.file_name`, or an element of a DICOM file by keyword.
    """

    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What the tables of one study may hold besides numbers.

    Attributes:
        keys: values of each key column.
        days: shifted days of this subject.
    """

    keys: Mapping[str, frozenset[str]]
    days: frozenset[date]

    @classmethod
    def of(cls, placements: Iterable[Placement], days: Iterable[date]) -> "Expected":
        """Take the keys from the placements of the study's records."""
        placements = tuple(placements)
        return cls(
            {
                "subject_key": frozenset(placement.subject_key for placement in placements),
                "study_key": frozenset(placement.study_key for placement in placements),
                "series_key": frozenset(placement.series_key for placement in placements),
                "instance_key": frozenset(placement.instance_key for placement in placements),
            },
            frozenset(days),
        )

    def rule(self, column: str) -> Callable[[Any], bool] | None:
        """Give the test that every value of a column must pass, None where any number may stand."""
        if column in self.keys:
            return self.keys[column].__contains__
        if column == "study_date":
            return self.days.__contains__
        return _RULES.get(column)


def _one_of(words: Iterable[str]) -> Callable[[Any], bool]:
    return frozenset(words).__contains__


def _looks_like(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: pattern.fullmatch(value) is not None


_RULES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "dicom_mode": _one_of(("2d", "colour", "pw", "cw", "mmode", "unknown")),
    "view": _one_of((*VIEWS, UNKNOWN_VIEW)),
    "sop_class": _one_of(ULTRASOUND_SOP_CLASSES.values()),
    "transfer_syntax": _one_of(syntax.name for syntax in SUPPORTED_TRANSFER_SYNTAXES),
    "manufacturer": _looks_like(_WORDS),
    "patient_sex": _one_of(("M", "F", "O")),
    "patient_age_years": lambda years: 0 <= years <= OLDEST_AGE_YEARS,
    "stage": _looks_like(_STEP),
    "reason": _one_of(reason.value for reason in (*Reason, *QuarantineReason)),
    "outcome": _one_of(("released", "quarantined")),
    "ocr": _one_of(("done", "off", "not_installed")),
    **dict.fromkeys(("fov_model", "view_model", "lv_model", "lvh_model"), _looks_like(_MODEL)),
}

_SCHEMAS: Final = (*RESULT_SCHEMAS.values(), A4C_SCHEMA)

_WRITTEN_ON_PURPOSE: Final = (
    *VIEWS,
    *ULTRASOUND_SOP_CLASSES.values(),
    *(syntax.name for syntax in SUPPORTED_TRANSFER_SYNTAXES),
    *(entry[4] for entry in DicomDictionary.values()),
    *(
        text.decode()
        for schema in _SCHEMAS
        for field in schema
        for text in (field.name.encode(), *(field.metadata or {}).values())
    ),
    *(code.meaning for code in DeidOptions().method_codes(pixels_cleaned=True)),
    *read_words("descriptor_words.txt"),
    *(PRIVATE, UNKNOWN, DAMAGED, KEYED, SHIFTED, CAPPED, MAPPED, CLEANED, REMOVED, TABLES, PROFILE),
)
_PART_OF_KEYWORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

HARMLESS_WORDS: Final = frozenset(
    word.upper()
    for text in _WRITTEN_ON_PURPOSE
    for pattern in (_WORD, _PART_OF_KEYWORD)
    for word in pattern.findall(text)
)
"""Words, and parts of keywords, that the tables and the audit hold on purpose."""


@cache
def fixed_text() -> str:
    """Give what every file holds, whoever the patient is, in upper case."""
    parts = [*_WRITTEN_ON_PURPOSE]
    for schema in _SCHEMAS:
        file = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), file, compression="zstd")
        parts.append(file.getvalue().to_pybytes().decode("latin-1"))
    return "\n".join(parts).upper()


def verify_table(
    path: Path, name: str, schema: pa.Schema, search: Search, expected: Expected
) -> list[Finding]:
    """Search one Parquet file.

    Args:
        path: the file, as it was written.
        name: of its table, for findings.
        schema: what the file must have, descriptions included.
        search: for the originals.
        expected: what its columns may hold.

    Raises:
        OSError: if it cannot be read.
        pyarrow.ArrowException: if it is no Parquet file.
    """
    findings = [Finding(UNEXPECTED, f"{name}.schema")] if not _has_schema(path, schema) else []
    # Names of columns, statistics and metadata are in the footer, which is not compressed.
    findings += _found(search.in_bytes(path.read_bytes()), f"{name}.{WHOLE_FILE}")
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                findings += _in_column(values, f"{name}.{column}", search)
                findings += _against_rule(values, f"{name}.{column}", expected.rule(column))
    return sorted(set(findings))


def verify_dicom(path: Path, name: str, search: Search) -> list[Finding]:
    """Search one DICOM file of the archive: its bytes, and every element at any depth.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no DICOM file that pydicom can walk; it says nothing of why.
    """
    findings = _found(search.in_bytes(path.read_bytes()), f"{name}.{WHOLE_FILE}")
    is_read = False
    try:
        with quiet_pydicom():
            ds = pydicom.dcmread(path)
            for dataset in (ds.file_meta, ds):
                for parent, tag, vr in walk(dataset):
                    findings += _in_element(parent, tag, vr, name, search)
        is_read = True
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    if not is_read:
        raise ValueError("a file of the archive cannot be read again: see why with a tool that may show it")
    return sorted(set(findings))


def _in_element(ds: Dataset, tag: BaseTag, vr: str, name: str, search: Search) -> list[Finding]:
    place = f"{name}.{keyword_of(tag)}"
    if tag.is_private or tag.group & 0xFF00 in _GRAPHICS_GROUPS:
        return [Finding(UNEXPECTED, place)]
    if vr == "SQ":
        return []  # its items come by themselves
    value = ds[tag].value
    values = list(value) if isinstance(value, (list, MultiValue)) else [value]
    if values and all(isinstance(part, int | float) for part in values):
        return _found(search.in_numbers(np.asarray(values)), place)
    texts = (str(part) for part in values if part is not None and not isinstance(part, bytes))
    return [finding for text in texts for finding in _found(search.in_text(text), place)]


def verify_words(words: Iterable[Word], place: str, search: Search) -> list[Finding]:
    """Judge the words that were read in frames which are to be released."""
    return [Finding(TEXT, place) for word in words if tells_something(word, search)]


def verify_file_name(path: Path, name: str, search: Search) -> list[Finding]:
    """Search the path, below its root, that a file is released under."""
    return _found(search.in_text(str(path)), f"{name}.{FILE_NAME}")


def _has_schema(path: Path, schema: pa.Schema) -> bool:
    written = pq.read_schema(path)
    if not written.equals(schema) or written.metadata != schema.metadata:
        return False
    # Not `check_metadata`: Parquet has words of its own for the items of lists and maps.
    return all(mine.metadata == its.metadata for mine, its in zip(schema, written, strict=True))


def _found(kind: Kind | None, place: str) -> list[Finding]:
    return [] if kind is None else [Finding(kind.value, place)]


def _against_rule(values: pa.Array, place: str, rule: Callable[[Any], bool] | None) -> Iterator[Finding]:
    if rule is None or pa.types.is_nested(values.type):
        return
    if not all(value is None or rule(value) for value in values.unique().to_pylist()):
        yield Finding(UNEXPECTED, place)


def _in_column(values: pa.Array, place: str, search: Search) -> list[Finding]:
    """Search the values of one column of any type; a nested one by its parts."""
    for is_kind, look in _LOOKS:
        if is_kind(values.type):
            return look(values, place, search)
    return [Finding(UNEXPECTED, place)]  # a type that nobody writes, and so nobody reads here


def _in_map(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return _in_column(values.keys, place, search) + _in_column(values.items, place, search)


def _in_list(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return _in_column(values.flatten(), place, search)


def _in_struct(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return [finding for part in values.flatten() for finding in _in_column(part, place, search)]


def _in_texts(values: pa.Array, place: str, search: Search) -> list[Finding]:
    texts = (text for text in values.unique().to_pylist() if text)
    return [finding for text in texts for finding in _found(search.in_text(text), place)]


def _in_binary(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return _found(search.in_bytes(b"".join(value for value in values.to_pylist() if value)), place)


def _in_days(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return _found(search.in_days(day for day in values.unique().to_pylist() if day), place)


def _in_numbers(values: pa.Array, place: str, search: Search) -> list[Finding]:
    return _found(search.in_numbers(values.drop_null().to_numpy(zero_copy_only=False)), place)


_LOOKS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[..., list[Finding]]], ...]] = (
    (pa.types.is_string, _in_texts),
    (pa.types.is_integer, _in_numbers),
    (pa.types.is_floating, _in_numbers),
    (pa.types.is_map, _in_map),
    (pa.types.is_list, _in_list),
    (pa.types.is_fixed_size_list, _in_list),
    (pa.types.is_struct, _in_struct),
    (pa.types.is_fixed_size_binary, _in_binary),
    (pa.types.is_date, _in_days),
    (pa.types.is_boolean, lambda *_: []),
)
