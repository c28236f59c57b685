import dataclasses
import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from beam_jobs import compaction, staging
from beam_jobs import packed as packed_files
from beam_jobs.audits import read_audit, summarize_audits
from beam_jobs.command import main
from beam_jobs.compaction import (
    CompactionError,
    CompactionRules,
    ExchangeError,
    PackedPartition,
    compact,
    exchange_folders,
)
from beam_jobs.erase import no_night
from beam_jobs.packed import is_packed
from beam_jobs.query import run_query
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import AUDIT_SCHEMA
from beam_jobs.staging import LOCKS, files_of_study, remove_released, staged
from beam_jobs.tables import build_tables
from tests.unit.beam_jobs.predictions import chunk, dated, placement, rejection, study

BUCKET = "0a"
KEYS = [key for key in (f"{number:032x}"[::-1] for number in range(6000)) if bucket_of(key) == BUCKET][:12]
ALL = CompactionRules(loose=1, share=0)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for key in KEYS:
        put(tmp_path / "results", key)
    return tmp_path / "results"


def put(results: Path, key: str, *, views: tuple[str, ...] = ("a4c", "plax"), **changed: Any) -> None:
    refused = dataclasses.replace(rejection("c"), placement=placement("c", instances=2, study=key))
    read = chunk("b", views, instances=2, study=key, **changed)
    tables = build_tables(study(read, refused), pool_frames_per_clip=0)
    with staged(tables, results, results.parent / "pool") as files:
        files.add("audit", audit(key))
        files.put_in_place()


def audit(key: str) -> pa.Table:
    row = {field.name: None for field in AUDIT_SCHEMA} | {
        "subject_key": "6" * 32, "study_key": key, "series_key": "s", "revision": 1, "outcome": "released",
        "findings": [], "profile": "p", "code_version": "1", "key_id": "k", "actions": [],
        "number_of_frames": 2, "ocr": "off",
    }  # fmt: skip
    return pa.Table.from_pylist([row | {"instance_key": name} for name in "bc"], AUDIT_SCHEMA)


def rows(results: Path, table: str = "frames") -> list[dict[str, Any]]:
    paths = results.glob(f"{table}/*/*/*.parquet")
    found = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
    return sorted(found, key=lambda row: (row["study_key"], row.get("instance_key"), row.get("frame_index")))


def names(results: Path, table: str = "frames") -> list[str]:
    return sorted(path.name for path in results.glob(f"{table}/*/*/*.parquet"))


def packed(results: Path, rules: CompactionRules = ALL) -> list[PackedPartition]:
    return list(compact(results, rules))


def test_packing_keeps_every_row_in_few_files(results: Path) -> None:
    tables = ("frames", "clips", "studies", "rejections", "audit")
    before = {table: rows(results, table) for table in tables}
    done = packed(results)
    assert {table: rows(results, table) for table in tables} == before
    assert all(names(results, table) == ["packed-all.parquet"] for table in tables)
    assert {(it.table, it.files_before, it.files_after) for it in done} == {
        (table, 12, 1) for table in tables
    }
    assert done[0].rows == 24
    assert done[0].partition == f"study_year=2021/bucket={BUCKET}"


def test_rows_of_a_study_lie_together_in_their_order(results: Path) -> None:
    packed(results)
    (path,) = results.glob("frames/*/*/*.parquet")
    keys = pq.read_table(path, partitioning=None)["study_key"].to_pylist()
    assert keys == sorted(keys)
    assert pq.read_table(path, partitioning=None)["frame_index"].to_pylist() == [0, 1] * 12


def test_the_history_does_not_show_in_what_is_packed(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "results"
    for part in (KEYS[::2], KEYS[1::2]):
        for key in reversed(part):
            put(other, key)
        packed(other)
    packed(results)
    for path in results.glob("*/*/*/*.parquet"):
        twin = other / path.relative_to(results)
        assert twin.read_bytes() == path.read_bytes()
        assert twin.stat().st_mtime_ns == path.stat().st_mtime_ns


def test_no_date_is_that_of_the_packing(results: Path) -> None:
    packed(results)
    latest = max(path.stat().st_mtime for path in results.rglob("*") if path.parent.name != ".unfinished")
    assert latest < 946_684_800 + (1 << 28) + 100


def test_large_partitions_are_split_by_key(results: Path) -> None:
    before = rows(results)
    packed(results, CompactionRules(loose=1, share=0, rows_per_file=5))
    assert rows(results) == before
    for path in results.glob("frames/*/*/*.parquet"):
        prefix = path.stem.removeprefix("packed-")
        assert len(prefix) == 1
        for key in pq.read_table(path, partitioning=None)["study_key"].to_pylist():
            assert key.startswith(prefix)


@pytest.mark.parametrize(("first", "then"), [(5, 500), (500, 5)])
def test_a_partition_that_grows_or_shrinks_is_split_anew(results: Path, first: int, then: int) -> None:
    packed(results, CompactionRules(loose=1, share=0, rows_per_file=first))
    put(results, extra := another_key(), views=("a4c",) * 3)
    packed(results, CompactionRules(loose=1, share=0, rows_per_file=then))
    assert len(rows(results)) == 27
    assert Counter(row["study_key"] for row in rows(results))[extra] == 3
    assert (names(results) == ["packed-all.parquet"]) == (then == 500)


def another_key() -> str:
    return next(
        key for key in (f"{number:032x}"[::-1] for number in range(9000, 99_000)) if bucket_of(key) == BUCKET
    )


def test_a_partition_with_few_loose_files_is_left(results: Path) -> None:
    assert packed(results, CompactionRules(loose=13)) == []
    assert not any(map(is_packed, results.glob("*/*/*/*")))
    packed(results)
    put(results, another_key())
    assert packed(results, CompactionRules(loose=1, share=10)) == []
    assert len(names(results)) == 2
    assert packed(results, CompactionRules(loose=2, share=0)) == []


def test_what_is_packed_alone_is_not_packed_again(results: Path) -> None:
    packed(results)
    assert packed(results) == []


def test_a_new_revision_of_a_packed_study_takes_its_place(results: Path) -> None:
    packed(results)
    put(results, KEYS[3], views=("plax", "plax", "plax"))
    assert names(results) == ["packed-all.parquet"]
    mine = [row["view"] for row in rows(results) if row["study_key"] == KEYS[3]]
    assert mine == ["plax"] * 3
    assert len(rows(results)) == 25


def test_a_packed_study_may_move_to_another_year(results: Path) -> None:
    packed(results)
    put(results, KEYS[3], header=dated("2022-01-01"))
    assert names(results) == sorted([f"{KEYS[3]}.parquet", "packed-all.parquet"])
    assert Counter(row["study_key"] for row in rows(results)) == dict.fromkeys(KEYS, 2)


def test_a_withdrawn_study_leaves_the_packed_files_but_for_its_audit(results: Path) -> None:
    packed(results)
    key = KEYS[3]
    tables = build_tables(study(chunk("b", ("a4c",), study=key)), pool_frames_per_clip=0)
    with staged(tables, results, results.parent / "pool") as files:
        files.add("audit", audit(key))
        files.withdraw(keep=("audit",))
    for table in ("frames", "clips", "studies"):
        assert key not in {row["study_key"] for row in rows(results, table)}
    assert len(rows(results, "audit")) == 24


def test_packed_studies_are_found_read_and_removed(results: Path) -> None:
    packed(results)
    places = (results, results.parent / "pool", results.parent / "archive")
    assert set(files_of_study(KEYS[3], *places)) == {"frames", "clips", "studies", "rejections", "audit"}
    assert [row["study_key"] for row in read_audit(results, KEYS[3])] == [KEYS[3]] * 2
    assert {row["study_key"]: row["instances"] for row in summarize_audits(results)} == dict.fromkeys(KEYS, 2)
    for key in KEYS:
        remove_released(key, *places)
        assert files_of_study(key, *places) == {}
    assert not list(results.glob("*/*/*/*.parquet"))


def test_a_column_that_older_files_lack_is_null_there(results: Path) -> None:
    path = next(results.glob("frames/*/*/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["dicom_mode"]), path)
    packed(results)
    assert Counter(row["dicom_mode"] for row in rows(results)) == {None: 2, "2d": 22}
    put(results, KEYS[0], views=("plax",))
    assert len(rows(results)) == 23


def test_a_study_released_meanwhile_makes_the_partition_wait(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = packed_files.write_packed

    def interrupted(table: pa.Table, path: Path) -> None:
        write(table, path)
        if "frame_index" in table.column_names:
            put(results, KEYS[0], views=("plax",) * 4)

    monkeypatch.setattr(compaction, "write_packed", interrupted)
    assert "frames" not in {done.table for done in packed(results)}
    assert len(rows(results)) == 26


def test_a_file_that_vanishes_makes_the_partition_wait(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = compaction._rows_of

    def vanishing(path: Path, prefix: str) -> list[pa.Table]:
        if path.stem == KEYS[5]:
            path.unlink(missing_ok=True)
        return read(path, prefix)

    monkeypatch.setattr(compaction, "_rows_of", vanishing)
    assert packed(results) == []


def test_rows_that_do_not_add_up_leave_the_partition_as_it_was(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(results)
    monkeypatch.setattr(compaction, "_write", lambda *_: 1)
    with pytest.raises(CompactionError, match="expected to pack 24 rows, received 1"):
        packed(results)
    assert names(results) == before


def test_a_reader_that_lists_at_any_moment_sees_each_row_once(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(results)
    seen = []

    def looking(path: Path, root: Path) -> None:
        seen.append(rows(results) == expected)
        settle(path, root)

    settle: Callable[[Path, Path], None] = staging.settle_folder
    monkeypatch.setattr(compaction, "settle_folder", looking)
    packed(results)
    assert len(seen) == 15
    assert all(seen)


def test_a_statement_is_asked_again_when_a_file_was_packed_under_it(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beam_jobs import query  # noqa: PLC0415 - to be patched

    create = query._create_view
    left = ["once"]

    def packing(*arguments: Any) -> None:
        create(*arguments)
        if arguments[1] == "frames" and left:
            left.pop()
            packed(results)

    monkeypatch.setattr(query, "_create_view", packing)
    assert run_query("SELECT count(*) FROM frames", results).rows == ((24,),)
    assert not left


def test_folders_that_cannot_change_places_are_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExchangeError, match="No such file"):
        exchange_folders(results, results / "absent")

    class OldSystem:
        def __init__(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr("ctypes.CDLL", OldSystem)
    with pytest.raises(ExchangeError, match=os.strerror(errno.ENOSYS)):
        packed(results)


def test_the_verb_packs_says_what_it_did_and_can_be_stopped(results: Path) -> None:
    root = ["--root", str(results.parent), "--quiet"]
    said = CliRunner().invoke(main, ["compact", *root, "--json"])
    assert said.exit_code == 0, said.output
    counts = json.loads(said.stdout)
    assert counts["frames"] == {"partitions": 1, "files_before": 12, "files_after": 1, "rows": 24}
    assert CliRunner().invoke(main, ["compact", *root]).stdout == "Nothing to pack\n"
    put(results, KEYS[0], header=dated("2022-01-01"))
    assert list(compact(results, ALL, stopping=lambda: True)) == []


def test_the_verb_waits_for_no_night(results: Path) -> None:
    with no_night(results.parent / "run" / "retrain.lock"):
        said = CliRunner().invoke(main, ["compact", "--root", str(results.parent), "--quiet"])
    assert said.exit_code == 4
    assert not any(map(is_packed, results.glob("*/*/*/*")))


def test_the_verb_has_nothing_to_do_where_there_are_no_results(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["compact", "--root", str(tmp_path), "--quiet"])
    assert (said.exit_code, said.stdout) == (0, "Nothing to pack\n")


@pytest.mark.parametrize(("error", "code"), [(CompactionError("a"), 1), (ExchangeError("b"), 2)])
def test_the_verb_says_why_it_could_not(
    results: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(compaction, "compact", failing)
    said = CliRunner().invoke(main, ["compact", "--root", str(results.parent), "--quiet"])
    assert (said.exit_code, said.stderr) == (code, f"Error: {error}\n")


def test_locks_tell_no_time(results: Path) -> None:
    assert {path.stat().st_mtime for path in (results / LOCKS).iterdir()} == {946_684_800}
