"""Receiving: instances are entered, and studies are held while their association is open."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.ledger.database import Database, first_row
from dicom_listener.ledger.records import ConflictKind, ReceivedInstance, RecordOutcome, StudyState
from dicom_listener.schema import conflicts, holds, instances, studies


class Receiving(Database):
    """What the listener writes."""

    def record_instance(
        self, instance: ReceivedInstance, *, association: str, hold_until: float, now: float
    ) -> RecordOutcome:
        """Enter an instance that is in the spool, and hold its study for the association.

        Something new or changed in a study that is past receiving raises the study's revision and
        sends it round again; so does a changed content while it is still receiving.

        Args:
            instance: the instance, already durable in the spool.
            association: names the open association.
            hold_until: the study is not complete before, unless the hold is released.
            now: seconds since the epoch.

        Raises:
            LedgerUnavailableError: if it cannot be entered; nothing of it is then.
        """
        uid = instance.study_instance_uid
        spooled = instance.spooled
        with self.writing() as connection:
            study = first_row(connection, sa.select(studies).where(studies.c.study_instance_uid == uid))
            is_this = (instances.c.study_instance_uid == uid) & (
                instances.c.sop_instance_uid == spooled.sop_instance_uid
            )
            known = connection.scalar(sa.select(instances.c.sha256).where(is_this))
            if known == spooled.sha256:
                _hold(connection, association, uid, hold_until)
                return RecordOutcome.DUPLICATE
            outcome = RecordOutcome.NEW if known is None else RecordOutcome.CHANGED
            _note_conflicts(connection, instance, outcome, study, now)
            values = {
                "series_instance_uid": spooled.series_instance_uid,
                "sop_class_uid": spooled.sop_class_uid,
                "transfer_syntax_uid": spooled.transfer_syntax_uid,
                "path": spooled.path,
                "sha256": spooled.sha256,
                "size_bytes": spooled.size_bytes,
                "received_at": now,
            }
            if study is None:
                connection.execute(studies.insert().values(**_first_round(instance, now)))
            else:
                _note_arrival(connection, study, instance.patient_id, outcome, now)
            if outcome is RecordOutcome.CHANGED:
                connection.execute(instances.update().where(is_this).values(**values))
            else:
                connection.execute(
                    instances.insert().values(
                        study_instance_uid=uid, sop_instance_uid=spooled.sop_instance_uid, **values
                    )
                )
            _hold(connection, association, uid, hold_until)
            return outcome

    def extend_holds(self, association: str, *, until: float) -> None:
        """Keep the studies of an open association from being called complete."""
        with self.writing() as connection:
            connection.execute(
                holds.update().where(holds.c.association == association).values(hold_until=until)
            )

    def release_holds(self, association: str) -> None:
        """Say that an association is over."""
        with self.writing() as connection:
            connection.execute(holds.delete().where(holds.c.association == association))


def _hold(connection: Connection, association: str, uid: str, until: float) -> None:
    is_this = (holds.c.association == association) & (holds.c.study_instance_uid == uid)
    if connection.execute(holds.update().where(is_this).values(hold_until=until)).rowcount == 0:
        connection.execute(
            holds.insert().values(association=association, study_instance_uid=uid, hold_until=until)
        )


def _first_round(instance: ReceivedInstance, now: float) -> dict[str, Any]:
    return {
        "study_instance_uid": instance.study_instance_uid,
        "patient_id": instance.patient_id,
        "state": StudyState.RECEIVING,
        "revision": 1,
        "first_received_at": now,
        "last_received_at": now,
        "receiving_since": now,
        "attempts": 0,
    }


def _note_arrival(
    connection: Connection, study: RowMapping, patient_id: str, outcome: RecordOutcome, now: float
) -> None:
    values: dict[str, Any] = {"last_received_at": now}
    if patient_id:
        values["patient_id"] = patient_id  # archives correct it by sending again: the newest is right
    state = study["state"]
    if state == StudyState.CLAIMED:
        if study["revision"] == study["claimed_revision"]:
            values |= {"revision": study["revision"] + 1, "receiving_since": now}
    elif state != StudyState.RECEIVING:
        values |= {
            "state": StudyState.RECEIVING,
            "revision": study["revision"] + 1,
            "receiving_since": now,
            "attempts": 0,
        }
    elif outcome is RecordOutcome.CHANGED:
        values["revision"] = study["revision"] + 1
    connection.execute(
        studies.update().where(studies.c.study_instance_uid == study["study_instance_uid"]).values(**values)
    )


def _note_conflicts(
    connection: Connection,
    instance: ReceivedInstance,
    outcome: RecordOutcome,
    study: RowMapping | None,
    now: float,
) -> None:
    kinds = []
    if outcome is RecordOutcome.CHANGED:
        kinds.append(ConflictKind.CHANGED_CONTENT)
    elsewhere = (instances.c.sop_instance_uid == instance.spooled.sop_instance_uid) & (
        instances.c.study_instance_uid != instance.study_instance_uid
    )
    if connection.scalar(sa.select(sa.exists().where(elsewhere))):
        kinds.append(ConflictKind.OTHER_STUDY)
    if study is not None and instance.patient_id and instance.patient_id != study["patient_id"] != "":
        kinds.append(ConflictKind.OTHER_PATIENT)
    for kind in kinds:
        connection.execute(
            conflicts.insert().values(
                study_instance_uid=instance.study_instance_uid,
                sop_instance_uid=instance.spooled.sop_instance_uid,
                kind=kind,
                seen_at=now,
            )
        )
