"""Questions of operators, and their one order: try a failed study again."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.errors import StudyNotFailedError, StudyNotFoundError
from dicom_listener.ledger.database import Database, all_rows, first_row
from dicom_listener.ledger.records import Conflict, ConflictKind, StudyRecord, StudyState
from dicom_listener.schema import batches, conflicts, holds, instances, studies


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

    def retry_study(self, study_instance_uid: str, *, now: float) -> None:
        """Put a failed study back into the queue, with all its attempts.

        Raises:
            StudyNotFoundError: if there is no such study.
            StudyNotFailedError: if it is not failed.
        """
        with self.writing() as connection:
            study = _existing(connection, study_instance_uid)
            if study["state"] != StudyState.FAILED:
                raise StudyNotFailedError(
                    f"Only a failed study can be tried again; this one is {study['state']}: nothing to do"
                )
            connection.execute(
                studies.update()
                .where(studies.c.study_instance_uid == study_instance_uid)
                .values(state=StudyState.COMPLETE, attempts=0, completed_at=now)
            )


def _existing(connection: Connection, uid: str) -> RowMapping:
    study = first_row(connection, sa.select(studies).where(studies.c.study_instance_uid == uid))
    if study is None:
        raise StudyNotFoundError("The ledger has no study of this UID: see `echobeam studies list`")
    return study


def _study_record(connection: Connection, study: RowMapping) -> StudyRecord:
    uid = study["study_instance_uid"]
    of_study = instances.c.study_instance_uid == uid
    count, size_bytes = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(instances.c.size_bytes), 0)).where(of_study)
    ).one()
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
        instances=count,
        size_bytes=size_bytes,
        first_received_at=study["first_received_at"],
        last_received_at=study["last_received_at"],
        completed_at=study["completed_at"],
        completed_because=study["completed_because"],
        attempts=study["attempts"],
        last_error=study["last_error"],
        last_error_at=study["last_error_at"],
        worker=worker,
        lease_until=study["lease_until"],
        done_at=study["done_at"],
        done_revision=study["done_revision"],
        open_associations=held_by or 0,
        conflicts=tuple(
            Conflict(row["sop_instance_uid"], ConflictKind(row["kind"]), row["seen_at"]) for row in odd
        ),
    )
