"""Ask the results one question in SQL, with DuckDB, in memory.

The statement sees the views `frames`, `clips`, `studies` and `rejections` and the results folder, and
nothing else: no other file, no network, no extension. It can only read.

Results in an object store are read by us and not by DuckDB, by the columns and partitions that a statement
needs. An object that is replaced meanwhile is read as it was listed or not at all; then all is asked again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from beam_jobs.errors import QueryError
from beam_jobs.result_files import ResultFile, Results, list_files, partitions_of, source_of
from beam_jobs.schemas import PARTITION_SCHEMA, RESULT_SCHEMAS
from dicom_listener.errors import StoreError
from dicom_listener.object_store import StoreUrl

_FILES: Final = "study_year=*/bucket=*/*.parquet"

_LOOKS: Final = 5
"""How often to ask: a file that was listed may be replaced by a packed one before it is opened."""

_TRACEBACK: Final = " Detail: Python exception"
"""From where on DuckDB's message is of no use to who asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_documents(self) -> list[dict[str, Any]]:
        """Give each row as an object by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def run_query(sql: str, results: Results) -> Answer:
    """Run one statement that reads.

    Args:
        sql: a SELECT, or what DuckDB counts as one: FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW.
        results: where the tables are; a table without files is an empty view.

    Raises:
        QueryError: if it is not one statement, does not only read, or fails; the message is DuckDB's. If the
            object store that has the results does not answer.
    """
    looks = 0
    while True:
        looks += 1
        try:
            return _ask(sql, results) if isinstance(results, Path) else _ask_store(sql, results)
        except StoreError as error:
            raise QueryError(str(error)) from error
        except _ReplacedMeanwhileError as error:
            if looks == _LOOKS:
                raise QueryError(str(error)) from error
        except duckdb.Error as error:
            if looks == _LOOKS or not isinstance(error, duckdb.IOException):
                raise QueryError(str(error).partition(_TRACEBACK)[0]) from error


class _ReplacedMeanwhileError(Exception):
    """What a store has is not what it had when the statement began."""


def _ask_store(sql: str, results: StoreUrl) -> Answer:
    files = {name: list_files(results, name) for name in RESULT_SCHEMAS}
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        statement = _only_statement(connection.extract_statements(sql))
        for name, schema in RESULT_SCHEMAS.items():
            connection.register(name, _dataset(files[name], schema))
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            return _answer(connection, statement)
        except duckdb.Error as error:
            if any(not set(files[name]) <= set(list_files(results, name)) for name in RESULT_SCHEMAS):
                raise _ReplacedMeanwhileError(
                    "results were replaced while the statement ran, again and again: ask again"
                ) from error
            raise


def _dataset(files: list[ResultFile], schema: pa.Schema) -> ds.Dataset:
    """Put the files of a table together; each is opened when a statement needs it."""
    parquet = ds.ParquetFileFormat()
    columns = pa.schema([field.with_nullable(True) for field in [*schema, *PARTITION_SCHEMA]])
    fragments = []
    for file in files:
        partitions = partitions_of(file)
        there = (ds.field("study_year") == int(partitions["study_year"])) & (
            ds.field("bucket") == partitions["bucket"]
        )
        opened = pa.PythonFile(source_of(file), mode="r")
        fragments.append(parquet.make_fragment(opened, partition_expression=there))
    return ds.FileSystemDataset(fragments, columns, parquet)


def _ask(sql: str, results: Path) -> Answer:
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        statement = _only_statement(connection.extract_statements(sql))
        for name, schema in RESULT_SCHEMAS.items():
            _create_view(connection, name, schema, results.absolute())
        connection.execute("SET allowed_directories = [$folder]", {"folder": f"{results.absolute()}/"})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return _answer(connection, statement)


def _answer(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> Answer:
    found = connection.execute(statement)
    columns = tuple(column[0] for column in found.description or ())
    return Answer(columns, tuple(found.fetchall()))


def _only_statement(statements: list[duckdb.Statement]) -> duckdb.Statement:
    if len(statements) != 1:
        raise QueryError(f"expected one SQL statement; received {len(statements)}")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"expected a statement that reads, such as SELECT; received {kind.name}")
    return statements[0]


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, results: Path) -> None:
    folder = results / name
    if next(folder.glob(_FILES), None) is None:
        connection.register(name, pa.schema([*schema, *PARTITION_SCHEMA]).empty_table())
        return
    files = str(folder / _FILES).replace("'", "''")
    # A view takes no parameters.
    connection.execute(
        f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}', hive_partitioning = true, "  # noqa: S608
        "hive_types = {'study_year': INTEGER, 'bucket': VARCHAR})"
    )
