"""Questions of operators, and their one order: try a failed study again."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.errors import StudyNotFailedError, StudyNotFoundError
from dicom_listener.ledger.contents import CONTENT_TABLES, content_of
from dicom_listener.ledger.database.schema import (
    batches,
    conflicts,
    holds,
    instances,
    other_contents,
    studies,
)
from dicom_listener.ledger.database.transactions import Database, all_rows, first_row, lock_study
from dicom_listener.ledger.records import (
    Conflict,
    ConflictKind,
    Content,
    FileState,
    Resolution,
    StudyRecord,
    StudyState,
)


class Questions(Database):
    """What operators ask."""

    def counts_by_state(self) -> dict[str, int]:
        """Count the studies in each state; every state is a key."""
        with self.reading() as connection:
            rows = connection.execute(
                sa.select(studies.c.state, sa.func.count()).group_by(studies.c.state)
            ).all()
        return {state.value: 0 for state in StudyState} | {str(state): int(count) for state, count in rows}

    def oldest_complete_age_s(self, *, now: float) -> float:
        """Give the age of the head of the queue in seconds, 0 if nothing waits."""
        with self.reading() as connection:
            oldest = connection.scalar(
                sa.select(sa.func.min(studies.c.completed_at)).where(studies.c.state == StudyState.COMPLETE)
            )
        return 0.0 if oldest is None else max(0.0, now - float(oldest))

    def list_studies(self, *, state: str | None = None, limit: int = 100) -> list[StudyRecord]:
        """List studies, the newest first.

        Args:
            state: only these.
            limit: the most to list.
        """
        statement = sa.select(studies).order_by(
            studies.c.last_received_at.desc(), studies.c.study_instance_uid
        )
        if state is not None:
            statement = statement.where(studies.c.state == state)
        with self.reading() as connection:
            return [_study_record(connection, row) for row in all_rows(connection, statement.limit(limit))]

    def show_study(self, study_instance_uid: str) -> StudyRecord:
        """Show all about one study.

        Raises:
            StudyNotFoundError: if there is no such study.
        """
        with self.reading() as connection:
            return _study_record(connection, _existing(connection, study_instance_uid))

    def list_contents(self, study_instance_uid: str) -> list[Content]:
        """List every content that was kept of a study, by SOP Instance UID, that at work first.

        Raises:
            StudyNotFoundError: if there is no such study.
        """
        with self.reading() as connection:
            _existing(connection, study_instance_uid)
            found = [
                content_of(row, is_at_work=table is instances)
                for table in CONTENT_TABLES
                for row in all_rows(
                    connection, sa.select(table).where(table.c.study_instance_uid == study_instance_uid)
                )
            ]
        return sorted(found, key=lambda content: (content.sop_instance_uid, not content.is_at_work))

    def retry_study(self, study_instance_uid: str, *, now: float) -> None:
        """Put a failed study back into the queue, with all its attempts.

        Raises:
            StudyNotFoundError: if there is no such study.
            StudyNotFailedError: if it is not failed.
        """
        with self.writing() as connection:
            study = _existing(connection, study_instance_uid, locked=True)
            if study["state"] != StudyState.FAILED:
                raise StudyNotFailedError(
                    f"Only a failed study can be tried again; this one is {study['state']}: nothing to do"
                )
            connection.execute(
                studies.update()
                .where(studies.c.study_instance_uid == study_instance_uid)
                .values(state=StudyState.COMPLETE, attempts=0, completed_at=now)
            )


def _existing(connection: Connection, uid: str, *, locked: bool = False) -> RowMapping:
    statement = sa.select(studies).where(studies.c.study_instance_uid == uid)
    study = lock_study(connection, uid) if locked else first_row(connection, statement)
    if study is None:
        raise StudyNotFoundError("The ledger has no study of this UID: see `echobeam studies list`")
    return study


def _study_record(connection: Connection, study: RowMapping) -> StudyRecord:
    uid = study["study_instance_uid"]
    of_study = instances.c.study_instance_uid == uid
    by_file_state = connection.execute(
        sa.select(instances.c.file_state, sa.func.count(), sa.func.sum(instances.c.size_bytes))
        .where(of_study)
        .group_by(instances.c.file_state)
    ).all()
    files = {file_state: int(count) for file_state, count, _ in by_file_state}
    aside = connection.scalar(
        sa.select(sa.func.count())
        .select_from(other_contents)
        .where(other_contents.c.study_instance_uid == uid)
    )
    odd = all_rows(
        connection,
        sa.select(conflicts).where(conflicts.c.study_instance_uid == uid).order_by(conflicts.c.conflict_id),
    )
    worker = connection.scalar(sa.select(batches.c.worker).where(batches.c.batch_id == study["batch_id"]))
    held_by = connection.scalar(
        sa.select(sa.func.count()).select_from(holds).where(holds.c.study_instance_uid == uid)
    )
    return StudyRecord(
        study_instance_uid=uid,
        state=StudyState(study["state"]),
        revision=study["revision"],
        instances=sum(files.values()),
        size_bytes=sum(int(size_bytes) for _, _, size_bytes in by_file_state),
        first_received_at=study["first_received_at"],
        last_received_at=study["last_received_at"],
        completed_at=study["completed_at"],
        completed_because=study["completed_because"],
        expected_instances=study["expected_instances"],
        expected_at=study["expected_at"],
        attempts=study["attempts"],
        last_error=study["last_error"],
        last_error_at=study["last_error_at"],
        worker=worker,
        lease_until=study["lease_until"],
        done_at=study["done_at"],
        done_revision=study["done_revision"],
        open_associations=held_by or 0,
        duplicates=study["duplicates"],
        contents_aside=aside or 0,
        pruned_files=files.get(FileState.PRUNED, 0),
        lost_files=files.get(FileState.MISSING, 0) + files.get(FileState.DAMAGED, 0),
        conflicts=tuple(_conflict(row) for row in odd),
    )


def _conflict(row: RowMapping) -> Conflict:
    return Conflict(
        sop_instance_uid=row["sop_instance_uid"],
        kind=ConflictKind(row["kind"]),
        seen_at=row["seen_at"],
        times=row["times"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        resolution=None if row["resolution"] is None else Resolution(row["resolution"]),
    )
