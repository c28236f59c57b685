import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_jobs.command import main
from beam_jobs.errors import QueryError
from beam_jobs.query import run_query
from beam_jobs.schemas import PARTITION_SCHEMA, RESULT_SCHEMAS
from beam_jobs.staging import staged
from beam_jobs.tables import build_tables
from tests.unit.beam_jobs.predictions import chunk, rejection, study


@pytest.fixture
def results(tmp_path: Path) -> Path:
    tables = build_tables(study(chunk("a", ("a4c", "plax", "a4c"))), pool_frames_per_clip=0)
    with staged(tables, tmp_path / "results", tmp_path / "pool") as files:
        files.put_in_place()
    return tmp_path / "results"


def test_a_statement_sees_rows_and_partitions(results: Path) -> None:
    answer = run_query(
        "SELECT view, count(*) AS frames, any_value(study_year) AS year FROM frames GROUP BY 1 ORDER BY 1",
        results,
    )
    assert answer.to_documents() == [
        {"view": "a4c", "frames": 2, "year": 2021},
        {"view": "plax", "frames": 1, "year": 2021},
    ]


@pytest.mark.parametrize("table", RESULT_SCHEMAS)
def test_a_table_without_files_is_empty_and_has_every_column(tmp_path: Path, table: str) -> None:
    answer = run_query(f"SELECT * FROM {table}", tmp_path)  # noqa: S608
    assert answer.rows == ()
    assert list(answer.columns) == [*RESULT_SCHEMAS[table].names, *PARTITION_SCHEMA.names]


def test_a_view_has_the_same_columns_with_files_and_without(results: Path, tmp_path: Path) -> None:
    described = [run_query("DESCRIBE frames", folder).rows for folder in (results, tmp_path / "none")]
    assert [row[0] for row in described[0]] == [row[0] for row in described[1]]
    scalars = [[row[:2] for row in rows if "[" not in row[1]] for rows in described]
    assert scalars[0] == scalars[1]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_csv('{results}/../outside.csv')",
        "COPY (SELECT 1) TO '{results}/x.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{results}/x.parquet'",
        "CREATE TABLE t (n INT)",
        "INSERT INTO frames VALUES (1)",
        "ATTACH '{results}/x.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "SELECT * FROM results",
    ],
)
def test_a_statement_reaches_nothing_but_the_results_and_writes_nothing(results: Path, sql: str) -> None:
    (results.parent / "outside.csv").write_text("n\n1\n")
    before = sorted(results.rglob("*"))
    with pytest.raises(QueryError):
        run_query(sql.format(results=results), results)
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize(("sql", "received"), [("", "0"), ("SELECT 1; SELECT 2", "2")])
def test_exactly_one_statement_is_taken(results: Path, sql: str, received: str) -> None:
    with pytest.raises(QueryError, match=f"one SQL statement; received {received}"):
        run_query(sql, results)


def test_a_folder_with_a_quote_in_its_name_works(tmp_path: Path) -> None:
    root = tmp_path / "it's"
    tables = build_tables(study(rejection("a")), pool_frames_per_clip=0)
    with staged(tables, root / "results", root / "pool") as files:
        files.put_in_place()
    assert run_query("SELECT reason FROM rejections", root / "results").rows == (("corrupt_pixels",),)


def test_the_verb_prints_a_table_or_json_and_fails_with_one(results: Path) -> None:
    root = ["--root", str(results.parent)]
    sql = "SELECT view, count(*) AS n, any_value(view_probabilities) AS p FROM frames GROUP BY 1 ORDER BY n"
    shown = CliRunner().invoke(main, ["query", sql, *root])
    assert shown.exit_code == 0
    assert "plax" in shown.stdout
    printed = CliRunner().invoke(
        main, ["query", "SELECT clips_by_view, study_date FROM studies", "--json", *root]
    )
    assert json.loads(printed.stdout) == [{"clips_by_view": {"a4c": 1}, "study_date": "2021-03-04"}]
    failed = CliRunner().invoke(main, ["query", "SELECT nothing FROM frames", *root])
    assert failed.exit_code == 1
    assert "nothing" in failed.stderr
    assert failed.stdout == ""


def test_the_verb_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text("[worker]\nbatch_sise = 3\n")
    refused = CliRunner().invoke(main, ["query", "SELECT 1", "--root", str(tmp_path)])
    assert refused.exit_code == 2
    assert "batch_sise" in refused.stderr
