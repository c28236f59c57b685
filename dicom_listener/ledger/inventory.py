"""Inventory: what the spool should hold, compared with what it holds."""

from collections.abc import Iterable, Sequence
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.ledger.arrivals import Arrival, SpoolFiles
from dicom_listener.ledger.contents import CONTENT_TABLES, content_of, content_table, update_content
from dicom_listener.ledger.database.schema import folder_of_path, holds, instances
from dicom_listener.ledger.database.transactions import Database, all_rows, lock_study
from dicom_listener.ledger.recording import record
from dicom_listener.ledger.records import (
    ConflictPolicy,
    Content,
    FileState,
    ReceivedInstance,
    RecordOutcome,
)
from dicom_listener.ledger.rounds import send_round_again


class Inventory(Database):
    """What reconciliation and verification ask and write."""

    def contents_in_folders(self, folders: Sequence[str]) -> list[Content]:
        """List every content whose file is, or was, in some folders of the spool.

        Args:
            folders: two hexadecimal digits each; so few of the 256 that their contents fit into memory.
        """
        with self.reading() as connection:
            return [
                content_of(row, is_at_work=table is instances)
                for table in CONTENT_TABLES
                for row in all_rows(connection, sa.select(table).where(folder_of_path(table).in_(folders)))
            ]

    def note_lost_files(self, contents: Iterable[Content], state: FileState, *, now: float) -> int:
        """Write down what is wrong with files.

        A content whose state, or whose place at work, changed since it was listed is left alone.

        Args:
            contents: as they were listed.
            state: what is wrong.
            now: seconds since the epoch.

        Returns:
            How many were written.
        """
        lost = list(contents)
        return self.write(partial(_note, contents=lost, state=state, now=now)) if lost else 0

    def restore_files(self, contents: Iterable[Content], *, now: float) -> int:
        """Write down that files which were pruned, missing or damaged are there and right.

        A study that may have been processed without one goes round again.

        Args:
            contents: as they were listed.
            now: seconds since the epoch.

        Returns:
            How many were written.
        """
        found = list(contents)
        return self.write(partial(_restore, contents=found, now=now)) if found else 0

    def adopt_instance(self, instance: ReceivedInstance, *, now: float) -> RecordOutcome:
        """Enter an instance whose file is in the spool, and which no sender was told is kept.

        It is not known to be newer than what is at work, so it never replaces anything: a second content
        is set aside whatever the policy, until its sender sends it again.
        """
        arrival = Arrival(instance, association="reconciliation", hold_until=now, now=now)
        adopt = partial(record, arrival=arrival, policy=ConflictPolicy.KEEP_FIRST, files=SpoolFiles(None))

        def work(connection: Connection) -> RecordOutcome:
            outcome = adopt(connection)
            if isinstance(outcome, Exception):
                raise outcome
            connection.execute(holds.delete().where(holds.c.association == arrival.association))
            return outcome

        return self.write(work)

    def counts_by_file_state(self) -> dict[str, int]:
        """Count the files that are missing or damaged, of all contents; both are keys."""
        lost = (FileState.MISSING, FileState.DAMAGED)
        counts = {state.value: 0 for state in lost}
        with self.reading() as connection:
            for table in CONTENT_TABLES:
                by_state = (
                    sa.select(table.c.file_state, sa.func.count())
                    .where(table.c.file_state.in_(lost))
                    .group_by(table.c.file_state)
                )
                for state, count in connection.execute(by_state):
                    counts[state] += int(count)
        return counts

    def spool_bytes(self) -> int:
        """Add up the sizes of all files that should be in the spool."""
        with self.reading() as connection:
            sizes = [
                connection.scalar(
                    sa.select(sa.func.sum(table.c.size_bytes)).where(
                        table.c.file_state.is_distinct_from(FileState.PRUNED)
                    )
                )
                for table in CONTENT_TABLES
            ]
        return sum(int(size) for size in sizes if size is not None)


def _note(connection: Connection, *, contents: list[Content], state: FileState, now: float) -> int:
    return sum(_set_state(connection, content, state, now) for content in _in_order_of_locks(contents))


def _restore(connection: Connection, *, contents: list[Content], now: float) -> int:
    restored = 0
    for content in _in_order_of_locks(contents):
        study = lock_study(connection, content.study_instance_uid)
        if study is None or not _set_state(connection, content, None, now):
            continue
        restored += 1
        # What was pruned had been processed before; what was lost may not have been.
        if content.is_at_work and content.file_state is not FileState.PRUNED:
            send_round_again(connection, study, now=now, last_received_at=now)
    return restored


def _set_state(connection: Connection, content: Content, state: FileState | None, now: float) -> int:
    is_as_listed = content_table(content).c.file_state.is_not_distinct_from(content.file_state)
    values = {"file_state": state, "file_state_at": None if state is None else now}
    return connection.execute(update_content(content).where(is_as_listed).values(**values)).rowcount


def _in_order_of_locks(contents: list[Content]) -> list[Content]:
    return sorted(contents, key=lambda content: (content.study_instance_uid, content.sop_instance_uid))
