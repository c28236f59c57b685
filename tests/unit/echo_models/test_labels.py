"""The table of labels: what goes in comes out, and what is wrong is named by file, row and column."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_models.errors import DatasetError, TableError
from echo_models.labels import COLUMNS, GRADES, LABEL_SCHEMA, Label, read_labels, write_labels
from echo_models.outlines import outline_mask, polygon_mask, polygon_text, read_mask, read_polygon, write_mask

LABELS = [
    Label("s1", "i1", 0, "ana", 1_700_000_000, "a4c", "severe", "none", "10 10, 50.25 10, 30 90"),
    Label("s1", "i1", 1, "ana", 1_700_000_001, view="plax"),
    Label("s2", "i2", 0, "bo", 1_700_000_002),
    Label("s1", "i1", 0, "bo", 1_700_000_003, lvh_grade="none", lv="masks/a.png"),
]
HEADER = "subject_key,instance_key,frame_index,labeler,labeled_at,view,lvh_grade,fov,lv"
ROW = "s1,i1,0,ana,2026-01-31T12:00:00Z,a4c,none,none,none"


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_labels(tmp_path / "deep" / name, LABELS)
    assert read_labels(tmp_path / "deep" / name) == LABELS
    assert [label.folder for label in read_labels(tmp_path / "deep")] == [tmp_path / "deep"] * 4
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [name]


def test_a_folder_holds_the_files_of_several_labelers(tmp_path: Path) -> None:
    write_labels(tmp_path / "ana.csv", LABELS[:2])
    write_labels(tmp_path / "bo.parquet", LABELS[2:])
    assert read_labels(tmp_path) == LABELS


def test_a_label_knows_whether_it_says_anything() -> None:
    assert [label.is_empty for label in LABELS] == [False, False, True, False]
    assert [label.is_lvh for label in LABELS] == [True, None, None, False]
    assert LABELS[0].frame_key == ("i1", 0)


FAULTS = [
    (ROW.replace(",a4c", ",A4C"), r"row 2, column view: expected one of plax.*did you mean a4c.*'A4C'"),
    (ROW.replace(",none,none,none", ",huge,none,none"), "row 2, column lvh_grade: expected one of none"),
    (ROW.replace(",0,", ",-1,"), "row 2, column frame_index: expected a whole number from 0; received '-1'"),
    (ROW.replace(",0,", ",1.5,"), "row 2, column frame_index"),
    (ROW.replace("Z", ""), "row 2, column labeled_at: expected a time like"),
    (ROW.replace("2026-01-31T12:00:00Z", "yesterday"), "row 2, column labeled_at"),
    (ROW.replace("s1", ""), "row 2, column subject_key: expected a value; there is none"),
    (ROW.replace("ana", " ana"), "row 2, column labeler: expected text without blanks around it$"),
    (ROW + "\n" + ROW, "row 3: expected one row for each frame and labeler"),
    (ROW.replace("none,none,none", 'none,"1 2, 3 4",none'), "row 2, column fov: expected at least three"),
    (ROW.replace("none,none,none", 'none,"1 2, 3 nan, 4 5",none'), "row 2, column fov"),
    (ROW.replace("none,none,none", "none,none,../a.png"), "row 2, column lv: expected the name of a PNG"),
    (ROW.replace("none,none,none", "none,none,big"), "row 2, column lv"),
]


@pytest.mark.parametrize(("rows", "message"), FAULTS)
def test_a_fault_is_named_by_file_row_and_column(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{HEADER}\n{rows}\n")
    with pytest.raises(TableError, match=re.escape(str(path)) + ".*" + message):
        read_labels(path)


def test_all_faults_are_told_at_once_and_no_key_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = [ROW.replace("i1", f" DOE^JANE{n}").replace("a4c", "axis") for n in range(15)]
    path.write_text("\n".join([HEADER, *rows]))
    with pytest.raises(TableError, match="and 10 more") as told:
        read_labels(path)
    assert len(told.value.faults) == 30
    assert "DOE" not in str(told.value)


def test_a_column_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("subject_key,instance_key,frame_index,labeler,veiw,colour\ns,i,0,ana,a4c,red\n")
    with pytest.raises(TableError) as told:
        read_labels(path)
    missing, misspelt, unknown = told.value.faults
    assert "expected a column labeled_at" in missing
    assert "'veiw'; did you mean view?" in misspelt
    assert "'colour'; columns are subject_key" in unknown


def test_a_parquet_of_other_types_is_refused_by_row_and_column(tmp_path: Path) -> None:
    rows = [{name: getattr(LABELS[1], name) for name in COLUMNS}]
    rows[0] |= {"frame_index": 1.0, "labeled_at": "2026-01-31T12:00:00Z"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    with pytest.raises(TableError, match="row 1, column frame_index: expected a whole number") as told:
        read_labels(tmp_path / "labels.parquet")
    assert len(told.value.faults) == 1


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"no"), ("a.csv", b"\xff\xfe\xff"), ("a.txt", b"")]
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=name):
        read_labels(tmp_path / name)


def test_no_labels_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(DatasetError, match="holds none"):
            read_labels(path)
    with pytest.raises(DatasetError, match="written as"):
        write_labels(tmp_path / "labels.xlsx", LABELS)


def test_the_documentation_lists_the_columns_and_its_example_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "labels.md").read_text()
    for field in LABEL_SCHEMA:
        assert f"| `{field.name}` |" in page, field.name
        assert field.metadata[b"description"].decode() in page, field.name
    for grade in GRADES:
        assert f"`{grade}`" in page
    (example,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    (tmp_path / "labels.csv").write_text(example)
    assert len(read_labels(tmp_path / "labels.csv")) >= 3


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.csv"
    write_labels(path, LABELS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_labels(path, LABELS[:1])
    assert read_labels(path) == LABELS


# --- outlines ---------------------------------------------------------------------------------------


coordinates = st.integers(0, 11900).map(lambda number: number / 100)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=20))
def test_a_polygon_survives_its_text(vertices: list[tuple[float, float]]) -> None:
    assert read_polygon(polygon_text(vertices)) == tuple(vertices)


def test_a_polygon_is_filled_as_its_formula_says() -> None:
    square = polygon_mask([(9.5, 19.5), (49.5, 19.5), (49.5, 99.5), (9.5, 99.5)], 120, 160)
    expected = np.zeros((120, 160), bool)
    expected[20:100, 10:50] = True
    assert np.array_equal(square, expected)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    disc = polygon_mask(np.stack([80 + 30 * np.cos(angles), 60 + 30 * np.sin(angles)], axis=1), 120, 160)
    assert disc.sum() == pytest.approx(np.pi * 30**2, rel=0.01)
    assert disc[60, 80]


def test_an_outline_is_a_polygon_a_png_or_nothing(tmp_path: Path) -> None:
    mask = polygon_mask([(10, 10), (100, 10), (50, 90)], 120, 160)
    write_mask(tmp_path / "masks" / "a.png", mask)
    assert np.array_equal(read_mask(tmp_path / "masks" / "a.png"), mask)
    assert np.array_equal(outline_mask("masks/a.png", tmp_path), mask)
    assert np.array_equal(outline_mask("10 10, 100 10, 50 90", tmp_path), mask)
    assert not outline_mask("none", tmp_path).any()
    with pytest.raises(DatasetError, match=r"b\.png must be a PNG"):
        outline_mask("masks/b.png", tmp_path)


def test_a_mask_of_another_size_is_sampled(tmp_path: Path) -> None:
    write_mask(tmp_path / "large.png", np.arange(480)[:, None].repeat(640, 1) >= 240)
    assert np.array_equal(read_mask(tmp_path / "large.png"), np.arange(120)[:, None].repeat(160, 1) >= 60)


def test_labels_differ_by_what_they_say() -> None:
    assert LABELS[0] != dataclasses.replace(LABELS[0], view=None)
    assert LABELS[0] == dataclasses.replace(LABELS[0], folder=Path("elsewhere"))
