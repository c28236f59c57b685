"""The tables in an object store: the same as in a folder, by the same calls."""

import json
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from beam_jobs.audits import read_audit, summarize_audits
from beam_jobs.command import main
from beam_jobs.errors import QueryError
from beam_jobs.pooling.reading import read_tables
from beam_jobs.query import run_query
from beam_jobs.result_files import bucket_of, list_files, list_study_files, source_of
from beam_jobs.schemas import AUDIT_SCHEMA, PARTITION_SCHEMA, RESULT_SCHEMAS
from beam_jobs.staging import files_of_study, remove_released, staged
from beam_jobs.tables import StudyTables, build_tables
from dicom_listener import object_store
from dicom_listener.errors import StoreConflictError, StoreError
from dicom_listener.object_store import StoreUrl, find_object, list_objects, put_object
from tests.object_stores import memory_url  # noqa: F401 - a fixture
from tests.unit.beam_jobs.predictions import chunk, dated, rejection, study

KEY = "5" * 32
FILE = f"bucket={bucket_of(KEY)}/{KEY}.parquet"


def tables(*views: str, revision: int = 1, year: int = 2021, key: str = KEY) -> StudyTables:
    header = dated(f"{year}-03-04")
    return build_tables(
        study(chunk("8" * 32, views, header=header, study=key), revision=revision), pool_frames_per_clip=9
    )


def put(of_study: StudyTables, url: StoreUrl, root: Path) -> None:
    with staged(of_study, url, root / "pool") as files:
        files.add("audit", audit_of(of_study))
        files.put_in_place()


def audit_of(of_study: StudyTables) -> pa.Table:
    row = dict.fromkeys(AUDIT_SCHEMA.names) | {
        "subject_key": "6" * 32,
        "study_key": of_study.study_key,
        "series_key": "series",
        "instance_key": "a",
        "revision": of_study.revision,
        "outcome": "released",
        "findings": [],
        "profile": "p",
        "code_version": "1",
        "key_id": "k",
        "ocr": "off",
        "actions": [],
        "number_of_frames": 1,
        "needs_review": True,
    }
    return pa.Table.from_pylist([row], AUDIT_SCHEMA)


def keys(url: StoreUrl) -> list[str]:
    return [item.key for item in list_objects(url)]


def test_a_study_is_an_object_in_each_table_with_the_bytes_of_a_folder(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    with staged(tables("a4c"), tmp_path / "results", tmp_path / "pool") as files:
        files.put_in_place()
    assert keys(memory_url) == [
        f"{table}/study_year=2021/{FILE}" for table in ("audit", "clips", "frames", "studies")
    ]
    for item in list_objects(memory_url, "frames"):
        assert item.read() == (tmp_path / "results" / item.key).read_bytes()
    assert len(list((tmp_path / "pool").glob("a4c/bucket=*/*.parquet"))) == 1


def test_nothing_is_in_the_store_before_it_is_put_in_place(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    with staged(tables("a4c"), memory_url, tmp_path / "pool"):
        assert keys(memory_url) == []
    assert keys(memory_url) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_new_revision_leaves_nothing_of_the_old_one(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    with staged(
        build_tables(study(chunk("a", ("a4c",)), rejection("b")), pool_frames_per_clip=9),
        memory_url,
        tmp_path / "pool",
    ) as files:
        files.put_in_place()
    assert f"rejections/study_year=2021/{FILE}" in keys(memory_url)
    put(tables("plax", revision=2), memory_url, tmp_path)
    assert [key for key in keys(memory_url) if key.startswith("rejections")] == []
    put(tables("plax", revision=3, year=2023), memory_url, tmp_path)
    assert {key.split("/")[1] for key in keys(memory_url)} == {"study_year=2023"}
    assert run_query("SELECT view, study_year FROM frames", memory_url).rows == (("plax", 2023),)


def test_what_a_reader_can_see_at_any_moment_has_each_row_once_and_the_study_last(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    seen = []
    asked = object_store._client(memory_url)

    def looking(url: StoreUrl) -> object:
        monkeypatch.setattr(object_store, "_client", lambda _: asked)
        seen.append(keys(url))
        monkeypatch.setattr(object_store, "_client", looking)
        return asked

    with staged(tables("a4c", revision=2, year=2022), memory_url, tmp_path / "pool") as files:
        files.add("audit", audit_of(tables("a4c")))
        with monkeypatch.context() as patched:
            patched.setattr("beam_jobs.stored_study.at_once", lambda ask, them: [ask(one) for one in them])
            monkeypatch.setattr(object_store, "_client", looking)
            files.put_in_place()
            seen.append(keys(memory_url))
    assert len(seen) > 4
    for there in seen:
        assert len({key.split("/")[0] for key in there}) == len(there)
    first = [table for there in seen for table in {key.split("/")[0] for key in there if "2022" in key}]
    assert first.index("studies") > first.index("frames")
    assert "studies" not in {key.split("/")[0] for key in seen[-3]}


def test_a_request_that_comes_after_its_process_died_undoes_nothing(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    with staged(tables("a4c"), memory_url, tmp_path / "pool") as late:
        put(tables("plax", revision=2), memory_url, tmp_path)
        with pytest.raises(StoreConflictError):
            late.put_in_place()
    assert run_query("SELECT view FROM frames", memory_url).rows == (("plax",),)


def test_a_failure_is_told_when_no_request_is_under_way_any_more(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed, begun, ended = threading.Event(), [], []

    def put_or_fail(_url: StoreUrl, key: str, *_: object, **__: object) -> None:
        if key.startswith("clips"):
            failed.set()
            raise StoreError("the store did not write")
        begun.append(key)
        assert failed.wait(60)
        ended.append(key)

    monkeypatch.setattr("beam_jobs.stored_study.put_object", put_or_fail)
    with staged(tables("a4c"), memory_url, tmp_path / "pool") as files:
        files.add("audit", audit_of(tables("a4c")))
        with pytest.raises(StoreError, match="did not write"):
            files.put_in_place()
    assert sorted(begun) == sorted(ended)
    assert {key.split("/")[0] for key in ended} == {"audit", "frames"}


def test_what_is_withdrawn_is_gone_but_for_its_audit(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    with staged(tables("a4c", revision=2), memory_url, tmp_path / "pool") as files:
        files.add("audit", audit_of(tables("a4c", revision=2)))
        files.withdraw(keep=("audit",))
    assert keys(memory_url) == [f"audit/study_year=2021/{FILE}"]
    assert [row["revision"] for row in read_audit(memory_url, KEY)] == [2]
    assert not list((tmp_path / "pool").glob("a4c/bucket=*/*.parquet"))


def test_audits_are_read_one_by_one_and_summed_up(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    put(tables("a4c", key="7" * 32), memory_url, tmp_path)
    assert [row["study_key"] for row in read_audit(memory_url, KEY)] == [KEY]
    assert read_audit(memory_url, "8" * 32) == read_audit(memory_url, "../..") == []
    summary = summarize_audits(memory_url)
    assert {(row["study_key"], row["instances"], row["needs_review"]) for row in summary} == {
        (KEY, 1, 1),
        ("7" * 32, 1, 1),
    }


def test_a_study_is_found_and_removed_in_every_table(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    put(tables("a4c", key="7" * 32), memory_url, tmp_path)
    places = (memory_url, tmp_path / "pool", tmp_path / "archive")
    assert set(files_of_study(KEY, *places)) == {"a4c", "audit", "clips", "frames", "studies"}
    assert set(list_study_files(memory_url, KEY)) == {"audit", "clips", "frames", "studies"}
    remove_released(KEY, *places)
    assert files_of_study(KEY, *places) == {}
    assert len(files_of_study("7" * 32, *places)) == 5


def test_files_are_listed_by_table_and_bucket_and_nothing_else_counts(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    put(tables("a4c", year=2020, key="7" * 32), memory_url, tmp_path)
    put_object(memory_url, "frames/_SUCCESS", b"")
    put_object(memory_url, f"frames/study_year=2021/bucket={bucket_of(KEY)}/notes.txt", b"")
    assert [file.name for file in list_files(memory_url, "frames")] == [
        f"{'7' * 32}.parquet",
        f"{KEY}.parquet",
    ]
    assert [file.name for file in list_files(memory_url, "frames", bucket=f"bucket={bucket_of(KEY)}")] == [
        f"{KEY}.parquet"
    ]


def test_the_pool_reads_its_bucket(memory_url: StoreUrl, tmp_path: Path) -> None:  # noqa: F811
    put(tables("a4c", "plax", "a4c"), memory_url, tmp_path)
    with staged(tables("a4c", "plax", "a4c"), tmp_path / "results", tmp_path / "pool") as files:
        files.put_in_place()
    bucket = f"bucket={bucket_of(KEY)}"
    stored, in_folder = read_tables(memory_url, bucket), read_tables(tmp_path / "results", bucket)
    assert len(stored.frames) == 2
    assert (stored.frames == in_folder.frames).all()
    assert stored.machines == in_folder.machines


@pytest.mark.parametrize("table", RESULT_SCHEMAS)
def test_a_table_has_the_same_columns_as_in_a_folder_with_files_and_without(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    table: str,
) -> None:
    names = [*RESULT_SCHEMAS[table].names, *PARTITION_SCHEMA.names]
    empty = run_query(f"SELECT * FROM {table}", memory_url)  # noqa: S608
    assert (list(empty.columns), empty.rows) == (names, ())
    put(tables("a4c"), memory_url, tmp_path)
    assert list(run_query(f"SELECT * FROM {table}", memory_url).columns) == names  # noqa: S608


def test_a_question_to_a_store_gets_the_answer_of_a_folder(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    for key, year in ((KEY, 2021), ("7" * 32, 2022)):
        put(tables("a4c", "plax", "a4c", year=year, key=key), memory_url, tmp_path)
        with staged(
            tables("a4c", "plax", "a4c", year=year, key=key), tmp_path / "results", tmp_path / "pool"
        ) as files:
            files.put_in_place()
    of_a_year = "FROM frames WHERE study_year = 2022 ORDER BY frame_index"
    for sql in (
        "SELECT view, count(*), min(view_confidence) FROM frames GROUP BY ALL ORDER BY ALL",
        f"SELECT study_key, bucket, view_probabilities[2] {of_a_year}",
        "SELECT clips_by_view, study_date FROM studies ORDER BY study_key",
        "SELECT count(*) FROM rejections",
    ):
        assert run_query(sql, memory_url).rows == run_query(sql, tmp_path / "results").rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM 's3://memory/frames/x.parquet'",
        "COPY (SELECT 1) TO 's3://memory/x.parquet'",
        "INSTALL httpfs",
        "SELECT * FROM files",
        "SELECT 1; SELECT 2",
    ],
)
def test_a_statement_reaches_nothing_but_the_tables(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    sql: str,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    before = keys(memory_url)
    with pytest.raises(QueryError):
        run_query(sql, memory_url)
    assert keys(memory_url) == before


def test_a_question_is_asked_again_when_an_object_was_replaced_meanwhile(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    asked: list[object_store.StoredObject] = []

    def replacing(file: object) -> object:
        if (
            isinstance(file, object_store.StoredObject)
            and file.key.startswith("frames")
            and len(asked) < times
        ):
            asked.append(file)
            put(tables("plax", revision=1 + len(asked), year=2021), memory_url, tmp_path)
            put(tables("psax_mid" if len(asked) % 2 else "a3c", revision=1), memory_url, tmp_path)
        return source_of(file)  # type: ignore[arg-type]

    monkeypatch.setattr("beam_jobs.query.source_of", replacing)
    times = 2
    assert run_query("SELECT view FROM frames", memory_url).rows == (("a3c",),)
    assert len(asked) == 2
    times = 99
    with pytest.raises(QueryError, match="again and again"):
        run_query("SELECT view FROM frames", memory_url)


def test_a_damaged_object_is_told_and_not_asked_for_again(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    (item,) = list_objects(memory_url, "frames")
    put_object(memory_url, item.key, b"no Parquet", replacing=find_object(memory_url, item.key))
    with pytest.raises(QueryError, match="Parquet") as failed:
        run_query("SELECT view FROM frames", memory_url)
    assert "Traceback" not in str(failed.value)


def test_verbs_work_on_a_store_or_say_why_not(
    memory_url: StoreUrl,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tables("a4c"), memory_url, tmp_path)
    (tmp_path / "echobeam.toml").write_text('[worker]\nresults = "s3://memory"\n')
    root = ["--root", str(tmp_path)]
    printed = CliRunner().invoke(main, ["query", "SELECT view FROM frames", "--json", *root])
    assert json.loads(printed.stdout) == [{"view": "a4c"}]
    assert CliRunner().invoke(main, ["audit", KEY, *root]).exit_code == 0
    refused = CliRunner().invoke(main, ["compact", *root])
    assert (refused.exit_code, "received an object store" in refused.stderr) == (2, True)

    def down(_: StoreUrl) -> None:
        raise StoreError("the store did not list")

    monkeypatch.setattr(object_store, "_client", down)
    for verb in (["query", "SELECT 1 FROM frames"], ["audit"], ["audit", KEY]):
        failed = CliRunner().invoke(main, [*verb, *root])
        assert (failed.exit_code, failed.stderr) == (1, "Error: the store did not list\n")
