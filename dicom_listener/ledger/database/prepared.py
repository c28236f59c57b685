"""Statements that every received instance takes, with as little around them as can be.

Running a short statement in SQLite takes a few microseconds, SQLAlchemy's execution around it ten times
as many. A listener that enters a thousand instances a second cannot afford that six times for each. So
these are compiled once and handed to SQLite's driver. Other databases are reached over a network, where
it does not matter, and get them through SQLAlchemy, which knows about lost connections.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, RowMapping


class Prepared:
    """A statement with named parameters.

    Args:
        statement: one that reads, or changes; its columns are plain text and numbers.
    """

    def __init__(self, statement: sa.Select[Any] | sa.Insert | sa.Update) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, ...], tuple[str, list[str]]] = {}
        self._columns = statement.selected_columns.keys() if isinstance(statement, sa.Select) else []

    def first(self, connection: Connection, **parameters: Any) -> RowMapping | None:
        """Give the first row by column names, or None.

        Raises:
            sqlalchemy.exc.DBAPIError: if the database fails.
        """
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, parameters).mappings().first()
        row = self._run(connection, parameters).fetchone()
        # A plain mapping does as well, and is made faster.
        return None if row is None else cast("RowMapping", dict(zip(self._columns, row, strict=True)))

    def change(self, connection: Connection, **parameters: Any) -> int:
        """Change rows; give how many.

        Raises:
            sqlalchemy.exc.DBAPIError: if the database fails.
        """
        if connection.dialect.name != "sqlite":
            return int(connection.execute(self._statement, parameters).rowcount)
        return self._run(connection, parameters).rowcount

    def _run(self, connection: Connection, parameters: Mapping[str, Any]) -> sqlite3.Cursor:
        sql, names = self._compile(connection.dialect, tuple(parameters))
        driver: Any = connection.connection.driver_connection
        try:
            cursor: sqlite3.Cursor = driver.execute(sql, [parameters[name] for name in names])
        except sqlite3.Error as error:
            raise sa.exc.DBAPIError.instance(
                sql, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
            ) from error
        return cursor

    def _compile(self, dialect: Dialect, names: tuple[str, ...]) -> tuple[str, list[str]]:
        found = self._compiled.get(names)
        if found is None:
            columns = None if self._columns else [name for name in names if not name.startswith("of_")]
            compiled = self._statement.compile(dialect=dialect, column_keys=columns)
            found = self._compiled[names] = (str(compiled), list(compiled.positiontup or ()))
        return found
