"""Frames to label, in the three shapes in which they come."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs.phantom_frames import write_frames
from beam_jobs.schemas import A4C_SCHEMA
from echo_models.datasets import Known
from echo_models.errors import DatasetError
from echo_models.frame_sets import FrameRef, frames_by_key, open_frames
from echo_models.labeled_sources import load_labels, load_unlabeled
from echo_models.labels import Label, write_labels

GREYS = np.arange(1, 7, dtype=np.uint8) * 10


def write_parquet(path: Path, greys: np.ndarray = GREYS, *, clip: str = "i", rows_per_group: int = 2) -> None:
    frames = np.broadcast_to(greys[:, None, None], (len(greys), 120, 160)).astype(np.uint8)
    rows = [
        {
            "subject_key": f"s{number // 3}",
            "instance_key": f"{clip}{number // 3}",
            "frame_index": number % 3,
            "frame": frame.tobytes(),
        }
        for number, frame in enumerate(frames)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([A4C_SCHEMA.field(name) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=rows_per_group)


def test_stored_frames_are_read_one_at_a_time(tmp_path: Path) -> None:
    write_parquet(tmp_path / "study_year=2018" / "one.parquet")
    write_parquet(tmp_path / "study_year=2019" / "two.parquet", GREYS + 100, clip="j")
    frames = open_frames(tmp_path)
    assert len(frames) == 12
    assert frames.refs[0] == FrameRef("s0", "i0", 0)
    assert [int(frames.frame(n)[60, 80]) for n in (0, 3, 11, 2)] == [10, 110, 160, 30]
    assert frames.frame(5).shape == (120, 160)
    assert len(open_frames(tmp_path / "study_year=2018" / "one.parquet")) == 6


def test_the_frames_of_the_phantom_can_be_labeled(tmp_path: Path) -> None:
    archive, _, count = write_frames(tmp_path, seed=1, subjects=1, frames_per_clip=1, severity=1.0)
    frames = open_frames(archive)
    assert len(frames) == count == 15
    with np.load(archive) as stored:
        assert np.array_equal(frames.frame(3), stored["frames"][3])
    assert {ref.instance_key for ref in frames.refs} == {"frames"}


def test_pictures_are_named_by_subject_instance_and_index(tmp_path: Path) -> None:
    (tmp_path / "s2").mkdir()
    (tmp_path / "s1").mkdir()
    Image.fromarray(np.full((480, 640), 7, np.uint8)).save(tmp_path / "s2" / "clip_a_12.png")
    Image.fromarray(np.full((120, 160), 9, np.uint8)).save(tmp_path / "s1" / "b_0.png")
    frames = open_frames(tmp_path)
    assert frames.refs == [FrameRef("s1", "b", 0), FrameRef("s2", "clip_a", 12)]
    assert [int(frames.frame(n)[0, 0]) for n in (0, 1)] == [9, 7]
    assert frames.frame(1).shape == (120, 160)


def test_what_are_no_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds none"):
        open_frames(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "b.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="a picture is named"):
        open_frames(tmp_path)
    (tmp_path / "s" / "b.png").rename(tmp_path / "s" / "b_1.png")
    with pytest.raises(DatasetError, match=r"b_1\.png must be a picture"):
        open_frames(tmp_path).frame(0)
    np.savez(tmp_path / "a.npz", frames=np.zeros((2, 10, 10), np.uint8))
    with pytest.raises(DatasetError, match=r"received uint8 \[2, 10, 10\] with 2"):
        open_frames(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pictures=np.zeros(3))
    with pytest.raises(DatasetError, match="holds `frames`"):
        open_frames(tmp_path / "b.npz")
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(DatasetError, match=r"c\.parquet must be a Parquet file"):
        open_frames(tmp_path / "c.parquet")
    pq.write_table(pa.table({"subject_key": ["s"]}), tmp_path / "d.parquet")
    with pytest.raises(DatasetError, match="expected columns"):
        open_frames(tmp_path / "d.parquet")
    short = {"subject_key": ["s"], "instance_key": ["i"], "frame_index": [0], "frame": [b"123"]}
    pq.write_table(pa.table(short), tmp_path / "e.parquet")
    with pytest.raises(DatasetError, match="row 1 of group 0, column frame: expected 120 x 160 bytes"):
        open_frames(tmp_path / "e.parquet").frame(0)


def test_a_frame_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "one.parquet")
    write_parquet(tmp_path / "two.parquet")
    with pytest.raises(DatasetError, match="some are there twice"):
        open_frames(tmp_path)


# --- with labels ------------------------------------------------------------------------------------

SQUARE = "9.5 19.5, 49.5 19.5, 49.5 59.5, 9.5 59.5"
LARGER = "9.5 19.5, 89.5 19.5, 89.5 59.5, 9.5 59.5"


def test_the_majority_of_labelers_holds_and_a_tie_is_unknown(tmp_path: Path) -> None:
    write_parquet(tmp_path / "frames.parquet")
    write_labels(
        tmp_path / "labels" / "all.csv",
        [
            Label("s0", "i0", 0, "ana", 0, view="a4c", lvh_grade="severe", lv=SQUARE),
            Label("s0", "i0", 0, "bo", 0, view="a4c", lvh_grade="moderate_concentric", lv=LARGER),
            Label("s0", "i0", 0, "cy", 0, view="a5c", lvh_grade="none", lv=SQUARE),
            Label("s1", "i1", 2, "ana", 0, view="a4c", lvh_grade="none", fov="none"),
            Label("s1", "i1", 2, "bo", 0, view="plax"),
            Label("s1", "i1", 1, "bo", 0),
        ],
    )
    source = load_labels(tmp_path / "labels", tmp_path / "frames.parquet")
    labeled = source.labeled
    assert [int(frame[0, 0]) for frame in labeled.frames] == [10, 60]
    assert labeled.known.tolist() == [
        Known.VIEW | Known.HYPERTROPHY | Known.LV,
        Known.HYPERTROPHY | Known.FOV,
    ]
    assert labeled.hypertrophy.tolist() == [True, False]
    assert labeled.lv_masks[0].sum() == 40 * 40
    assert not labeled.fov_masks[1].any()
    assert source.notes == ("labels of 3 labelers at the site",)


def test_a_label_of_another_subject_or_of_no_frame_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "frames.parquet")
    write_labels(tmp_path / "a.csv", [Label("s9", "i0", 0, "ana", 0, view="a4c")])
    with pytest.raises(DatasetError, match="must name the subject of its frame"):
        load_labels(tmp_path / "a.csv", tmp_path / "frames.parquet")
    with pytest.raises(DatasetError, match="1 of 2 do not"):
        list(frames_by_key(open_frames(tmp_path / "frames.parquet"), [("i0", 0), ("i0", 99)]))


def test_frames_without_labels_are_a_source_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "frames.parquet")
    source = load_unlabeled(tmp_path / "frames.parquet")
    assert len(source.labeled) == 6
    assert not source.labeled.known.any()
    assert source.labeled.subjects.tolist() == [0, 0, 0, 1, 1, 1]
