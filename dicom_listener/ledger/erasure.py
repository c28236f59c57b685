"""Take studies out of the ledger for good: what their erasure needs to know, and its last step.

An erasure first stops the studies, so that nobody claims them, then removes files, and forgets the
studies last: killed at any moment it can be run again, for the ledger still knows what is to be removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.errors import StudyBusyError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.database.schema import (
    commitment_instances,
    holds,
    instances,
    metadata,
    other_contents,
    studies,
)
from dicom_listener.ledger.database.transactions import all_rows

STOPPED: Final = "is being erased: run `echobeam erase` again if it was interrupted"
"""The last error of a study between the first and the last step."""


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """Whose a study is."""

    study_instance_uid: str
    patient_id: str = field(repr=False)


def list_identities(ledger: Ledger) -> list[StudyIdentity]:
    """List whose every study of the ledger is."""
    with ledger.reading() as connection:
        rows = connection.execute(sa.select(studies.c.study_instance_uid, studies.c.patient_id)).all()
    return [StudyIdentity(str(uid), str(patient_id)) for uid, patient_id in rows]


def stop_studies(ledger: Ledger, uids: Sequence[str], *, now: float) -> None:
    """Keep workers from claiming studies, all of them or none.

    Args:
        ledger: the ledger.
        uids: Study Instance UIDs; those that the ledger does not have are passed over.
        now: seconds since the epoch.

    Raises:
        StudyBusyError: if an association that brings instances of one is open, or a worker holds one.
    """
    with ledger.writing() as connection:
        _refuse_if_busy(connection, uids, now)
        connection.execute(
            studies.update()
            .where(studies.c.study_instance_uid.in_(uids))
            .values(
                state=StudyState.FAILED,
                last_error=STOPPED,
                last_error_at=now,
                claim_token=None,
                claimed_revision=None,
                lease_until=None,
            )
        )


def spooled_paths(ledger: Ledger, uids: Sequence[str]) -> list[str]:
    """List the files, relative to the spool, that belong to these studies and to no other."""
    with ledger.reading() as connection:
        paths: set[str] = set()
        others: set[str] = set()
        for table in (instances, other_contents):
            mine = table.c.study_instance_uid.in_(uids)
            paths |= set(connection.scalars(sa.select(table.c.path).where(mine)))
            others |= set(
                connection.scalars(sa.select(table.c.path).where(~mine).where(table.c.path.in_(paths)))
            )
    return sorted(paths - others)


def forget_studies(ledger: Ledger, uids: Sequence[str], *, now: float) -> dict[str, int]:
    """Delete every row about studies that were stopped before, in one transaction.

    Returns:
        rows deleted by table.

    Raises:
        StudyBusyError: if something of one came, or it was retried, since it was stopped: stop them again.
    """
    deleted = {}
    with ledger.writing() as connection:
        _refuse_if_busy(connection, uids, now)
        # What arrives sends a study on its way again, and leaves its last error.
        is_moving = (studies.c.state != StudyState.FAILED) | studies.c.last_error.is_distinct_from(STOPPED)
        moving = sa.select(sa.func.count()).where(studies.c.study_instance_uid.in_(uids), is_moving)
        if connection.scalar(moving):
            raise StudyBusyError("A study came again while it was being erased: run the erasure again")
        mine = sa.select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid.in_(uids))
        of_mine = commitment_instances.c.sop_instance_uid.in_(mine)
        deleted[commitment_instances.name] = connection.execute(
            commitment_instances.delete().where(of_mine)
        ).rowcount
        for table in reversed(metadata.sorted_tables):
            column = table.c.get("study_instance_uid")
            if column is not None:
                deleted[table.name] = connection.execute(table.delete().where(column.in_(uids))).rowcount
    return deleted


def _refuse_if_busy(connection: Connection, uids: Sequence[str], now: float) -> None:
    mine = studies.c.study_instance_uid.in_(uids)
    claimed = sa.select(studies.c.study_instance_uid).where(mine, studies.c.lease_until > now)
    held = sa.select(holds.c.study_instance_uid).where(
        holds.c.study_instance_uid.in_(uids), holds.c.hold_until > now
    )
    busy = len(
        {row["study_instance_uid"] for query in (claimed, held) for row in all_rows(connection, query)}
    )
    if busy:
        raise StudyBusyError(
            f"{busy} of the {len(uids)} studies are being received or processed: try again when they are done"
        )
