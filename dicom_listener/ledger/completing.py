"""Completing: the completion rule is put to the studies that are being received."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.completion import ArchiveEvidence, CompletionRule, completion_reason
from dicom_listener.ledger.database import Database, all_rows
from dicom_listener.ledger.records import StudyState
from dicom_listener.schema import holds, instances, studies


class Completing(Database):
    """What the housekeeper writes."""

    def complete_studies(self, rule: CompletionRule, *, now: float) -> int:
        """Call the studies complete that are so by the rule, and record why.

        Returns:
            How many.
        """
        with self.reading() as connection:
            if not _due(connection, rule, now):
                return 0
        with self.writing() as connection:
            connection.execute(holds.delete().where(holds.c.hold_until <= now))
            due = _due(connection, rule, now)
            for uid, reason in due.items():
                connection.execute(
                    studies.update()
                    .where(studies.c.study_instance_uid == uid)
                    .values(state=StudyState.COMPLETE, completed_at=now, completed_because=reason)
                )
            return len(due)


def _due(connection: Connection, rule: CompletionRule, now: float) -> dict[str, str]:
    open_associations = (
        sa.select(sa.func.count())
        .where(holds.c.study_instance_uid == studies.c.study_instance_uid)
        .where(holds.c.hold_until > now)
        .scalar_subquery()
    )
    received = (
        sa.select(sa.func.count())
        .where(instances.c.study_instance_uid == studies.c.study_instance_uid)
        .scalar_subquery()
    )
    receiving = sa.select(
        studies.c.study_instance_uid,
        studies.c.receiving_since,
        studies.c.last_received_at,
        studies.c.expected_instances,
        studies.c.expected_at,
        open_associations.label("open_associations"),
        received.label("instances"),
    ).where(studies.c.state == StudyState.RECEIVING)
    due = {}
    for row in all_rows(connection, receiving):
        expected = row["expected_instances"]
        reason = completion_reason(
            rule,
            receiving_since=row["receiving_since"],
            last_received_at=row["last_received_at"],
            open_associations=row["open_associations"],
            now=now,
            instances=row["instances"],
            evidence=None if expected is None else ArchiveEvidence(expected, row["expected_at"]),
        )
        if reason is not None:
            due[str(row["study_instance_uid"])] = reason
    return due
