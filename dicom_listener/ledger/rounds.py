"""What an arrival does to its study: a first round or another, a conflict that is noted, a hold."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.ledger.arrivals import Arrival
from dicom_listener.ledger.database.prepared import Prepared
from dicom_listener.ledger.database.schema import conflicts, holds, studies
from dicom_listener.ledger.records import ConflictKind, Resolution, StudyState

# Built once: building a statement takes several times as long as running it.
_CHANGE_STUDY: Final = Prepared(
    studies.update().where(studies.c.study_instance_uid == sa.bindparam("of_study"))
)
_EXTEND_HOLD: Final = Prepared(
    holds.update()
    .where(holds.c.association == sa.bindparam("of_association"))
    .where(holds.c.study_instance_uid == sa.bindparam("of_study"))
)


def first_round(arrival: Arrival) -> dict[str, Any]:
    """Give the row of a study of which the first instance arrives."""
    return {
        "study_instance_uid": arrival.instance.study_instance_uid,
        "patient_id": arrival.patient_id,
        "state": StudyState.RECEIVING,
        "revision": 1,
        "first_received_at": arrival.now,
        "last_received_at": arrival.now,
        "receiving_since": arrival.now,
        "attempts": 0,
    }


def note_arrival(
    connection: Connection, arrival: Arrival, study: RowMapping | None, *, is_changed: bool = False
) -> None:
    """Let the study of an arrival wait for what else may come, from the start if it was past receiving.

    Args:
        connection: in a transaction that has the study locked.
        arrival: something that is to be processed.
        study: its row before; None for a study whose first round has just begun.
        is_changed: whether it replaced another content.
    """
    if study is None:
        return
    patient_id, now = arrival.patient_id, arrival.now
    if patient_id and patient_id != study["patient_id"] != "":
        note_conflict(connection, arrival, ConflictKind.OTHER_PATIENT)
    # Archives correct a patient's ID by sending again: the newest is right.
    values = {"patient_id": patient_id} if patient_id else {}
    send_round_again(connection, study, now=now, is_changed=is_changed, last_received_at=now, **values)


def send_round_again(
    connection: Connection, study: RowMapping, *, now: float, is_changed: bool = False, **values: Any
) -> None:
    """Raise the revision of a study that was past receiving, and let it be received again.

    Args:
        connection: in a transaction that has the study locked.
        study: its row.
        now: seconds since the epoch.
        is_changed: whether something that may have been processed is different now.
        values: what else to write into the row.
    """
    values["query_attempts"] = 0
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
    elif is_changed:
        values["revision"] = study["revision"] + 1
    _CHANGE_STUDY.change(connection, of_study=study["study_instance_uid"], **values)


def note_conflict(
    connection: Connection, arrival: Arrival, kind: ConflictKind, resolution: Resolution | None = None
) -> None:
    """Note that something did not fit together, or that it came once more.

    Args:
        connection: in a transaction that has the study locked.
        arrival: what came.
        kind: what it does not fit.
        resolution: what became of it, where two contents conflict.
    """
    spooled = arrival.instance.spooled
    described = {
        "kind": kind,
        "sha256": spooled.sha256 if resolution else None,
        "resolution": resolution,
    }
    seen_before = conflicts.update().where(
        *(conflicts.c[name] == value for name, value in (arrival.key | described).items())
    )
    again = connection.execute(seen_before.values(seen_at=arrival.now, times=conflicts.c.times + 1))
    if again.rowcount == 0:
        connection.execute(
            conflicts.insert().values(
                **arrival.key,
                **described,
                size_bytes=spooled.size_bytes if resolution else None,
                seen_at=arrival.now,
            )
        )


def hold(connection: Connection, arrival: Arrival) -> None:
    """Let the arrival's association hold its study."""
    uid = arrival.instance.study_instance_uid
    extended = _EXTEND_HOLD.change(
        connection, of_association=arrival.association, of_study=uid, hold_until=arrival.hold_until
    )
    if not extended:
        connection.execute(
            holds.insert().values(
                association=arrival.association, study_instance_uid=uid, hold_until=arrival.hold_until
            )
        )
