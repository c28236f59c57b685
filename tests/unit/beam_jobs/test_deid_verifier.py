"""The verifier reads files, and a leak planted into one of them is found."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom import Dataset

from beam_jobs.deid.ocr import Word
from beam_jobs.deid.originals import Originals
from beam_jobs.deid.regions import Box
from beam_jobs.deid.search import Search
from beam_jobs.deid.verifier import (
    HARMLESS_WORDS,
    TEXT,
    UNEXPECTED,
    Expected,
    Finding,
    fixed_text,
    verify_dicom,
    verify_file_name,
    verify_table,
    verify_words,
)
from beam_jobs.schemas import A4C_SCHEMA, CLIPS_SCHEMA, RESULT_SCHEMAS
from beam_jobs.tables import build_tables
from tests.made_files import as_bytes, instance, speckle_cine
from tests.unit.beam_jobs.predictions import chunk, rejection, study

ORIGINALS = Originals(
    names=frozenset({"Quillfeather^Ann"}),
    identifiers=frozenset({"MRN47110815"}),
    dates=frozenset({date(2021, 3, 20)}),
    uids=frozenset({"1.2.840.113663.1500.1.392075967.2.1"}),
)
SEARCH = Search(ORIGINALS)
COLLECTED = study(chunk("a", ("a4c", "plax")), rejection("b"))
PLACEMENTS = [c.placement for c in COLLECTED.chunks] + [r.placement for r in COLLECTED.rejections]
EXPECTED = Expected.of(PLACEMENTS, [date(2021, 3, 4)])


def tables() -> Mapping[str, pa.Table]:
    built = build_tables(COLLECTED, pool_frames_per_clip=9)
    return {**built.results, "a4c": built.a4c}


def verify(table: pa.Table, name: str, folder: Path, schema: pa.Schema | None = None) -> list[Finding]:
    path = folder / "waiting.parquet"
    pq.write_table(table, path, compression="zstd")
    return verify_table(path, name, schema or table.schema, SEARCH, EXPECTED)


def changed(name: str, column: str, value: Any) -> pa.Table:
    table = tables()[name]
    index = table.schema.get_field_index(column)
    values = pa.array([value] * table.num_rows, table.schema.field(column).type)
    return table.set_column(index, table.schema.field(column), values)


@pytest.mark.parametrize("name", ["frames", "clips", "rejections", "studies", "a4c"])
def test_what_the_door_makes_is_clean(name: str, tmp_path: Path) -> None:
    schema = A4C_SCHEMA if name == "a4c" else RESULT_SCHEMAS[name]
    assert verify(tables()[name], name, tmp_path, schema) == []


@pytest.mark.parametrize(
    ("name", "column", "value", "kind"),
    [
        ("clips", "manufacturer", "Quillfeather", "name"),
        ("clips", "manufacturer", "ACME of Ann", "name"),
        ("clips", "manufacturer", "Philips 7.1", UNEXPECTED),
        ("clips", "dicom_mode", "3d", UNEXPECTED),
        ("clips", "rows", 47110815, "identifier"),
        ("clips", "sop_class", "1.2.840.113663.1500.1.392075967.2.1", "uid"),
        ("clips", "study_key", "6" * 32, UNEXPECTED),
        ("frames", "instance_key", "x", UNEXPECTED),
        ("frames", "frame_time_ms", 20210320.0, "date"),
        ("frames", "view_model", "view-1 of MRN47110815", "identifier"),
        ("rejections", "reason", "because", UNEXPECTED),
        ("rejections", "stage", "seen on 20.03.2021", "date"),
        ("studies", "study_date", date(2021, 3, 20), "date"),
        ("studies", "study_date", date(2021, 3, 5), UNEXPECTED),
        ("studies", "patient_age_years", 91, UNEXPECTED),
        ("studies", "clips_by_view", [("Quillfeather", 1)], "name"),
        ("a4c", "frame", b"\0" * 4000 + b"Quillfeather" + b"\0" * (19200 - 4012), "name"),
        (
            "a4c",
            "frame",
            b"\0" * 1000 + "quillfeather".encode("utf-32-le") + b"\0" * (19200 - 1048),
            "name",
        ),
    ],
)
def test_a_leak_in_any_kind_of_column_is_found_and_its_place_named(
    name: str, column: str, value: Any, kind: str, tmp_path: Path
) -> None:
    assert Finding(kind, f"{name}.{column}") in verify(changed(name, column, value), name, tmp_path)


def test_a_name_spelled_down_a_column_of_integers_is_found(tmp_path: Path) -> None:
    text = "Quillfeather"
    many = study(chunk("a", ("plax",) * len(text)))
    table = build_tables(many, pool_frames_per_clip=0).results["frames"]
    place = table.schema.get_field_index("frame_index")
    codes = pa.array([ord(letter) for letter in text], pa.int32())
    leaking = table.set_column(place, table.schema.field("frame_index"), codes)
    assert Finding("name", "frames.frame_index") in verify(leaking, "frames", tmp_path)


@pytest.mark.parametrize(
    "metadata", [{"description": "seen with Quillfeather"}, {"description": "", "20210320": ""}]
)
def test_words_about_a_table_are_searched_too(metadata: dict[str, str], tmp_path: Path) -> None:
    table = tables()["clips"].replace_schema_metadata(metadata)
    found = verify(table, "clips", tmp_path, CLIPS_SCHEMA)
    assert Finding(UNEXPECTED, "clips.schema") in found
    assert "clips.bytes" in {finding.place for finding in found}


def test_a_column_that_nobody_described_is_found(tmp_path: Path) -> None:
    table = tables()["clips"].append_column("patient_name", pa.array(["x"]))
    assert Finding(UNEXPECTED, "clips.schema") in verify(table, "clips", tmp_path, CLIPS_SCHEMA)


def test_a_type_that_nobody_writes_is_not_passed_over(tmp_path: Path) -> None:
    table = pa.table({"seen": pa.array([0], pa.timestamp("s"))})
    assert Finding(UNEXPECTED, "clips.seen") in verify(table, "clips", tmp_path)


def test_what_is_no_parquet_is_an_error_and_not_clean(tmp_path: Path) -> None:
    (tmp_path / "waiting.parquet").write_bytes(b"no table")
    with pytest.raises(pa.ArrowException):
        verify_table(tmp_path / "waiting.parquet", "clips", CLIPS_SCHEMA, SEARCH, EXPECTED)


@pytest.mark.parametrize(
    "name", ["Probability^Frame", "Schema^Arrow", "Hypertrophy^Left", "Synthetic^Subject"]
)
def test_a_patient_called_like_a_word_of_every_file_does_not_hold_a_clean_study_back(
    name: str, tmp_path: Path
) -> None:
    search = Search(Originals(names=frozenset({name})), harmless=HARMLESS_WORDS, fixed_text=fixed_text())
    for table, rows in tables().items():
        path = tmp_path / f"{table}.parquet"
        pq.write_table(rows, path, compression="zstd")
        assert verify_table(path, table, rows.schema, search, EXPECTED) == []


def test_a_file_is_not_named_by_a_patient() -> None:
    assert verify_file_name(Path("clips/study_year=2021/quillfeather.parquet"), "clips", SEARCH) == [
        Finding("name", "clips.file_name")
    ]
    assert verify_file_name(Path("clips/study_year=2021/bucket=00/ab.parquet"), "clips", SEARCH) == []


def dicom(tmp_path: Path, **elements: Any) -> Path:
    ds = instance(speckle_cine(1, 60, 80), **elements)
    path = tmp_path / "waiting.dcm"
    path.write_bytes(as_bytes(ds))
    return path


@pytest.mark.parametrize(
    ("elements", "kind", "keyword"),
    [
        ({"PatientComments": "seen by Ann"}, "name", "PatientComments"),
        ({"StudyDate": "20210320"}, "date", "StudyDate"),
        ({"StudyInstanceUID": "1.2.840.113663.1500.1.392075967.2.1"}, "uid", "StudyInstanceUID"),
        ({"FrameNumbersOfInterest": [ord(x) for x in "Quillfeather"]}, "name", "FrameNumbersOfInterest"),
        ({"ReferencedFrameNumber": 47110815}, "identifier", "ReferencedFrameNumber"),
    ],
)
def test_a_leak_in_a_dicom_file_is_found_by_element(
    elements: dict[str, Any], kind: str, keyword: str, tmp_path: Path
) -> None:
    found = verify_dicom(dicom(tmp_path, **elements), "deid_archive", SEARCH)
    assert Finding(kind, f"deid_archive.{keyword}") in found


def test_a_leak_deep_in_a_sequence_or_in_no_element_is_found(tmp_path: Path) -> None:
    item = Dataset()
    item.PatientName = "Ann"
    path = dicom(tmp_path, OtherPatientIDsSequence=[item])
    assert Finding("name", "deid_archive.PatientName") in verify_dicom(path, "deid_archive", SEARCH)
    path = dicom(tmp_path)
    assert verify_dicom(path, "deid_archive", SEARCH) == []
    path.write_bytes(path.read_bytes().replace(bytes(128), b"Quillfeather".ljust(128, b"\0"), 1))
    assert verify_dicom(path, "deid_archive", SEARCH) == [Finding("name", "deid_archive.bytes")]


@pytest.mark.parametrize("tag", [0x00091001, 0x60000010, 0x60020050])
def test_private_elements_and_overlays_are_not_expected(tag: int, tmp_path: Path) -> None:
    ds = instance(speckle_cine(1, 60, 80))
    ds.add_new(tag, "US", 1)
    path = tmp_path / "waiting.dcm"
    path.write_bytes(as_bytes(ds))
    assert UNEXPECTED in {finding.kind for finding in verify_dicom(path, "deid_archive", SEARCH)}


def test_a_file_that_cannot_be_walked_is_an_error_and_not_clean(tmp_path: Path) -> None:
    path = tmp_path / "waiting.dcm"
    path.write_bytes(b"no DICOM")
    with pytest.raises(ValueError, match="cannot be read again"):
        verify_dicom(path, "deid_archive", SEARCH)


@pytest.mark.parametrize(
    ("text", "confidence", "is_hit"),
    [
        ("HR", 99, False),
        ("62", 99, False),
        ("bpm", 99, False),
        ("Adult", 99, False),
        ("15cm", 99, False),
        ("3850Hz", 99, False),
        ("SMITH", 96, True),
        ("SMITH", 20, False),
        ("Quillfeather", 5, True),
        ("Ann", 5, True),
        ("12/03/1961", 60, True),
        ("19610312", 60, True),
        ("4711081", 60, True),
    ],
)
def test_words_of_a_screen_are_no_hit_and_names_dates_and_numbers_are(
    text: str, confidence: float, is_hit: bool
) -> None:
    words = [Word(text, confidence, Box(0, 0, 9, 9))]
    assert verify_words(words, "a4c.frame", SEARCH) == ([Finding(TEXT, "a4c.frame")] if is_hit else [])


def test_a_null_is_not_looked_up(tmp_path: Path) -> None:
    assert np.isnan(COLLECTED.chunks[0].lv_area_ratios).any()
    assert verify(tables()["frames"], "frames", tmp_path) == []
