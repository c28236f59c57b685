import datetime as dt
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import LVH_RULES, NO_STUDY_YEAR
from beam_jobs.staging import LOCKS, staged, sweep_unfinished
from beam_jobs.tables import StudyTables, build_tables, summarize
from tests.unit.beam_jobs.predictions import chunk, dated, rejection, study


def put(tables: StudyTables, root: Path) -> None:
    with staged(tables, root / "results", root / "pool") as files:
        files.put_in_place()


def files(root: Path) -> set[str]:
    found = (path for path in root.rglob("*") if path.is_file() and path.parent.name != LOCKS)
    return {str(path.relative_to(root)) for path in found}


def test_a_frame_is_a_row_with_nulls_where_nothing_was_asked() -> None:
    tables = build_tables(study(chunk("a", ("a4c", "plax", "a4c"))), pool_frames_per_clip=9)
    rows = tables.results["frames"].to_pylist()
    assert [row["frame_index"] for row in rows] == [0, 1, 2]
    assert [row["view"] for row in rows] == ["a4c", "plax", "a4c"]
    assert [row["lv_area_ratio"] is None for row in rows] == [False, True, False]
    assert [row["lvh_probability"] for row in rows] == [0.25, None, None]
    assert rows[0]["view_confidence"] == pytest.approx(0.8)
    assert sum(rows[0]["view_probabilities"]) == pytest.approx(1)
    assert {row["lv_model"] for row in rows} == {"lv-1"}


def test_a_clip_sums_up_the_frames_of_all_its_chunks() -> None:
    long = (chunk("a", ("a4c",) * 3, parts=0), chunk("a", ("a4c", "plax"), first=3, parts=2))
    (row,) = build_tables(study(*long), pool_frames_per_clip=9).results["clips"].to_pylist()
    assert row["number_of_frames"] == 5
    assert row["number_of_frames_declared"] == 4
    assert (row["view"], row["number_of_a4c_frames"]) == ("a4c", 4)
    assert row["view_agreement_ratio"] == pytest.approx(0.8)
    assert row["view_confidence"] == pytest.approx((4 * 0.8 + 0.2 / 14) / 5)
    assert row["lvh_probability"] == pytest.approx(0.25)


def test_what_is_like_no_view_is_called_unknown_and_keeps_its_probabilities() -> None:
    tables = build_tables(
        study(
            chunk("a", ("a4c", "a4c", "a4c"), known=(False, True, True)),
            chunk("b", ("plax", "plax"), known=(False, False)),
        ),
        pool_frames_per_clip=9,
    )
    rows = tables.results["frames"].to_pylist()
    assert [row["view"] for row in rows] == ["unknown", "a4c", "a4c", "unknown", "unknown"]
    assert [row["is_known"] for row in rows] == [False, True, True, False, False]
    assert all(row["view_confidence"] == pytest.approx(0.8) for row in rows)
    assert [row["lv_area_ratio"] is None for row in rows] == [True, False, False, True, True]
    first, second = tables.results["clips"].to_pylist()
    assert (first["view"], first["number_of_a4c_frames"]) == ("a4c", 2)
    assert (first["known_ratio"], first["view_agreement_ratio"]) == pytest.approx((2 / 3, 2 / 3))
    assert (second["view"], second["known_ratio"], second["view_agreement_ratio"]) == ("unknown", 0, 1)
    assert second["view_confidence"] == pytest.approx(0.8)
    (row,) = tables.results["studies"].to_pylist()
    assert row["clips_by_view"] == [("a4c", 1), ("unknown", 1)]
    assert [stored["frame_index"] for stored in tables.a4c.to_pylist()] == [1, 2]


def test_the_rule_of_a_study_says_which_frames_were_assessed() -> None:
    tables = build_tables(
        study(chunk("a", ("a4c", "a4c"))), pool_frames_per_clip=9, end_diastole="largest_lv"
    )
    assert tables.results["studies"]["lvh_rule"].to_pylist() == [LVH_RULES["largest_lv"]]
    assert "largest left ventricle" in LVH_RULES["largest_lv"]


def test_a_study_names_the_rule_behind_its_numbers() -> None:
    tables = build_tables(
        study(chunk("a", ("a4c", "a4c")), chunk("b", ("plax",)), rejection("c")), pool_frames_per_clip=9
    )
    (row,) = tables.results["studies"].to_pylist()
    assert row["clips_by_view"] == [("plax", 1), ("a4c", 1)]
    assert (row["number_of_clips"], row["number_of_frames"], row["number_of_rejections"]) == (2, 3, 1)
    assert (row["lvh_probability"], row["lvh_rule"]) == (0.25, LVH_RULES["first_frames"])
    assert row["study_date"] == dt.date(2021, 3, 4)
    assert tables.study_year == 2021


def test_a_study_without_an_assessed_clip_names_no_rule() -> None:
    (row,) = build_tables(study(chunk("b", ("plax",))), pool_frames_per_clip=9).results["studies"].to_pylist()
    assert (row["lvh_probability"], row["lvh_rule"]) == (None, None)


def test_the_earliest_date_is_the_studys() -> None:
    clips = [chunk(name, ("plax",), header=dated(date)) for name, date in
             (("a", None), ("b", "2022-01-01"), ("c", "2021-12-31"))]  # fmt: skip
    assert build_tables(study(*clips), pool_frames_per_clip=9).study_year == 2021


def test_a_study_without_a_date_has_a_partition_of_its_own(tmp_path: Path) -> None:
    tables = build_tables(study(rejection("a")), pool_frames_per_clip=9)
    assert tables.study_year == NO_STUDY_YEAR
    put(tables, tmp_path)
    assert {path.split("/")[2] for path in files(tmp_path)} == {"study_year=0"}


def test_the_pool_takes_frames_evenly_over_all_chunks_of_a_clip() -> None:
    long = (chunk("a", ("a4c",) * 6, parts=0), chunk("a", ("a4c",) * 6, first=6, parts=2))
    stored = build_tables(study(*long), pool_frames_per_clip=4).a4c.to_pylist()
    assert [row["frame_index"] for row in stored] == [1, 4, 7, 10]
    assert [set(row["frame"]) for row in stored] == [{1}, {4}, {7}, {10}]
    assert build_tables(study(*long), pool_frames_per_clip=0).a4c.num_rows == 0


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(
            build_tables(study(chunk("a", ("a4c", "plax")), rejection("b")), pool_frames_per_clip=9),
            tmp_path / name,
        )
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for file in files(tmp_path / "one"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_file_is_dated_by_its_revision_and_not_by_the_day_it_was_written(tmp_path: Path) -> None:
    for revision in (1, 2):
        newer = study(chunk("a", ("a4c",)), rejection("b"), revision=revision)
        put(build_tables(newer, pool_frames_per_clip=9), tmp_path)
        modified = {(tmp_path / file).stat().st_mtime for file in files(tmp_path)}
        assert modified == {dt.datetime(2000, 1, 1, 0, 0, revision, tzinfo=dt.UTC).timestamp()}


def test_nothing_is_seen_before_it_is_put_in_place(tmp_path: Path) -> None:
    tables = build_tables(study(chunk("a", ("a4c",))), pool_frames_per_clip=9)
    with staged(tables, tmp_path / "results", tmp_path / "pool"):
        assert not list(tmp_path.glob("results/[!.]*/**/*.parquet"))
        assert not list(tmp_path.glob("pool/[!.]*/**/*.parquet"))
        assert len(files(tmp_path)) == 4  # frames, clips, studies, a4c; they wait
    assert files(tmp_path) == set()


def test_a_new_revision_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    put(build_tables(study(chunk("a", ("a4c",)), rejection("b")), pool_frames_per_clip=9), tmp_path)
    assert len(files(tmp_path)) == 5
    newer = study(chunk("a", ("plax",), header=dated("2022-01-01")), revision=2)
    put(build_tables(newer, pool_frames_per_clip=9), tmp_path)
    bucket = f"bucket={bucket_of('5' * 32)}/{'5' * 32}.parquet"
    assert files(tmp_path) == {
        f"results/{table}/study_year=2022/{bucket}" for table in ("frames", "clips", "studies")
    }


def test_other_studies_are_left_alone(tmp_path: Path) -> None:
    put(build_tables(study(chunk("a", ("a4c",), study="7" * 32)), pool_frames_per_clip=9), tmp_path)
    before = files(tmp_path)
    put(build_tables(study(chunk("a", ("plax",))), pool_frames_per_clip=9), tmp_path)
    assert before < files(tmp_path)


def test_files_keep_descriptions_and_compress_with_zstd(tmp_path: Path) -> None:
    put(build_tables(study(chunk("a", ("a4c",))), pool_frames_per_clip=9), tmp_path)
    (path,) = tmp_path.glob("results/frames/*/*/*.parquet")
    assert pq.read_schema(path).field("frame_time_ms").metadata[b"unit"] == b"ms"
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_only_what_is_abandoned_is_swept(tmp_path: Path) -> None:
    for name, modified in (("old", 1_000), ("new", 9_000)):
        (tmp_path / ".unfinished" / name).mkdir(parents=True)
        os.utime(tmp_path / ".unfinished" / name, (modified, modified))
    assert sweep_unfinished(tmp_path, now=10_000) == 1
    assert [path.name for path in (tmp_path / ".unfinished").iterdir()] == ["new"]
    assert sweep_unfinished(tmp_path / "absent", now=10_000) == 0


def test_a_summary_counts_what_is_in_the_tables() -> None:
    collected = study(chunk("a", ("a4c", "plax", "a4c")), rejection("b"))
    summary = summarize(collected, build_tables(collected, pool_frames_per_clip=9), committed=True)
    assert summary.frames_by_view == {"a4c": 2, "plax": 1}
    assert summary.confidence_counts == (0, 0, 0, 0, 0, 0, 0, 0, 3, 0)
    assert summary.confidence_sum == pytest.approx(2.4)
    assert summary.rejections_by_reason == {"corrupt_pixels": 1}
    assert summary.models == ("fov-1", "lv-1", "lvh-1", "view-1")
    assert (summary.clips, summary.frames) == (1, 3)


def test_buckets_are_even() -> None:
    buckets = [int(bucket_of(f"{n:032x}"), 16) for n in range(25_600)]
    counts = np.bincount(buckets, minlength=256)
    assert len(counts) == 256
    assert counts.max() < 2 * counts.mean()
