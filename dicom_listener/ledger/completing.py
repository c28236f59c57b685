"""Completing: the completion rule is put to the studies that are being received."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.ledger.completion import ArchiveEvidence, CompletionRule, completion_reason
from dicom_listener.ledger.database.schema import holds, instances, studies
from dicom_listener.ledger.database.transactions import Database, all_rows
from dicom_listener.ledger.records import StudyState

_AT_ONCE: Final = 500
"""Studies of one transaction: no statement has more parameters than any database takes."""


class Completing(Database):
    """What the housekeeper writes."""

    def complete_studies(self, rule: CompletionRule, *, now: float) -> int:
        """Call the studies complete that are so by the rule, and record why.

        Returns:
            How many.
        """
        with self.reading() as connection:
            candidates = sorted(_due(connection, rule, now))
        return sum(
            self.write(partial(_complete, among=candidates[first : first + _AT_ONCE], rule=rule, now=now))
            for first in range(0, len(candidates), _AT_ONCE)
        )


def _complete(connection: Connection, *, among: list[str], rule: CompletionRule, now: float) -> int:
    connection.execute(holds.delete().where(holds.c.hold_until <= now))
    # Whose row somebody else has is being received, or looked at by another: it can wait.
    locked = connection.scalars(
        sa.select(studies.c.study_instance_uid)
        .where(studies.c.study_instance_uid.in_(among))
        .order_by(studies.c.study_instance_uid)
        .with_for_update(skip_locked=True)
    ).all()
    due = _due(connection, rule, now, among=locked)
    for uid, reason in due.items():
        connection.execute(
            studies.update()
            .where(studies.c.study_instance_uid == uid)
            .values(state=StudyState.COMPLETE, completed_at=now, completed_because=reason)
        )
    return len(due)


def _due(
    connection: Connection, rule: CompletionRule, now: float, *, among: Sequence[str] | None = None
) -> dict[str, str]:
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
    if among is not None:
        receiving = receiving.where(studies.c.study_instance_uid.in_(among))
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
