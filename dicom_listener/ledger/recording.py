"""Recording: what one received instance changes in the ledger, within somebody's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.errors import ConflictingInstanceError, ListenerError, SpoolUnavailableError
from dicom_listener.ledger.database import first_row, lock_study
from dicom_listener.ledger.records import (
    ConflictKind,
    ConflictPolicy,
    FileState,
    ReceivedInstance,
    RecordOutcome,
    Resolution,
    StudyState,
)
from dicom_listener.schema import conflicts, holds, instances, other_contents, studies

_CONTENT: Final = (
    "series_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "path",
    "sha256",
    "size_bytes",
)
"""The columns of a content, by the names that `SpooledInstance` has for them."""

_COLUMNS_OF_OTHER: Final = tuple(column.name for column in other_contents.columns)

_LOST: Final = frozenset({FileState.MISSING, FileState.DAMAGED})

# What every instance takes, built once: building a statement takes several times as long as running it.
_IS_THIS: Final = (instances.c.study_instance_uid == sa.bindparam("of_study")) & (
    instances.c.sop_instance_uid == sa.bindparam("of_instance")
)
_KNOWN: Final = sa.select(instances).where(_IS_THIS)
_IS_ELSEWHERE: Final = sa.select(
    sa.exists().where(
        (instances.c.sop_instance_uid == sa.bindparam("of_instance"))
        & (instances.c.study_instance_uid != sa.bindparam("of_study"))
    )
)
_ENTER: Final = instances.insert()
_CHANGE_STUDY: Final = studies.update().where(studies.c.study_instance_uid == sa.bindparam("of_study"))
_EXTEND_HOLD: Final = (
    holds.update()
    .where(holds.c.association == sa.bindparam("of_association"))
    .where(holds.c.study_instance_uid == sa.bindparam("of_study"))
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance that is in the spool and wants to be in the ledger.

    Attributes:
        association: names the open association that brought it.
        hold_until: its study is not complete before, unless the hold is released.
        now: seconds since the epoch.
    """

    instance: ReceivedInstance
    association: str
    hold_until: float
    now: float


@dataclass(frozen=True, slots=True)
class SpoolFiles:
    """The files of the spool as far as the ledger must see them.

    Attributes:
        root: folder of the spool; None for a ledger that is not asked to look at files.
    """

    root: Path | None

    def have(self, path: str) -> bool:
        """Say whether the file of a path is there, as far as can be seen."""
        return self.root is None or (self.root / path).exists()

    def delete(self, path: str) -> None:
        """Delete a file, if it can be seen."""
        if self.root is not None:
            (self.root / path).unlink(missing_ok=True)


def record(
    connection: Connection, arrival: Arrival, *, policy: ConflictPolicy, files: SpoolFiles
) -> RecordOutcome | ListenerError:
    """Enter one instance.

    The study's row is locked first. Whoever deletes a file of the spool does so under the same lock, so
    that a file that is there now is there when the transaction ends.

    Args:
        connection: in a transaction that writes.
        arrival: what came.
        policy: what becomes of a second content.
        files: asked whether the file is there; told to delete that of a content that is refused.

    Returns:
        What the instance was; or the error that its sender gets, and the study is as it was:
        `SpoolUnavailableError` if the file went away meanwhile, `ConflictingInstanceError`.
    """
    instance, spooled = arrival.instance, arrival.instance.spooled
    study = lock_study(connection, instance.study_instance_uid)
    if not files.have(spooled.path):
        return SpoolUnavailableError("The file was deleted while it was being received: send it again")
    if study is None:
        connection.execute(studies.insert().values(**_first_round(arrival)))
    known = first_row(connection, _KNOWN, _of(arrival))
    if known is None:
        outcome = _enter(connection, arrival, study)
    elif known["sha256"] == spooled.sha256:
        outcome = _meet_again(connection, arrival, known, study)
    else:
        kept = first_row(
            connection,
            sa.select(other_contents)
            .where(_is_this(other_contents, arrival))
            .where(other_contents.c.sha256 == spooled.sha256),
        )
        if policy is ConflictPolicy.REPLACE or known["file_state"] in _LOST:
            outcome = _replace(connection, arrival, known, study)
        elif kept is not None:
            outcome = _meet_aside(connection, arrival, kept)
        elif policy is ConflictPolicy.KEEP_FIRST:
            outcome = _set_aside(connection, arrival)
        else:
            _note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.REJECTED)
            files.delete(spooled.path)
            return ConflictingInstanceError(
                "Another content has this SOP Instance UID: send it under a UID of its own, or set "
                "conflict_policy to replace or keep_first"
            )
    _hold(connection, arrival)
    return outcome


# ---------------------------------------------------------------------- what an instance was


def _enter(connection: Connection, arrival: Arrival, study: RowMapping | None) -> RecordOutcome:
    if connection.scalar(_IS_ELSEWHERE, _of(arrival)):
        _note_conflict(connection, arrival, ConflictKind.OTHER_STUDY)
    _note_arrival(connection, arrival, study)
    row = {**_key(arrival), **_content(arrival.instance.spooled), "received_at": arrival.now}
    connection.execute(_ENTER, row)
    return RecordOutcome.NEW


def _meet_again(
    connection: Connection, arrival: Arrival, known: RowMapping, study: RowMapping | None
) -> RecordOutcome:
    if known["file_state"] is None:
        connection.execute(
            studies.update()
            .where(studies.c.study_instance_uid == arrival.instance.study_instance_uid)
            .values(duplicates=studies.c.duplicates + 1)
        )
        return RecordOutcome.DUPLICATE
    connection.execute(
        instances.update()
        .where(_is_this(instances, arrival))
        .values(file_state=None, file_state_at=None, received_at=arrival.now)
    )
    # What was pruned is in the tables already; what was lost may not be.
    if known["file_state"] != FileState.PRUNED or study is None or not _is_done_with(study):
        _note_arrival(connection, arrival, study)
    return RecordOutcome.RESTORED


def _replace(
    connection: Connection, arrival: Arrival, known: RowMapping, study: RowMapping | None
) -> RecordOutcome:
    spooled = arrival.instance.spooled
    _note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.REPLACED)
    connection.execute(
        other_contents.delete()
        .where(_is_this(other_contents, arrival))
        .where(other_contents.c.sha256.in_([spooled.sha256, known["sha256"]]))
    )
    connection.execute(other_contents.insert().values(**{name: known[name] for name in _COLUMNS_OF_OTHER}))
    connection.execute(
        instances.update()
        .where(_is_this(instances, arrival))
        .values(**_content(spooled), received_at=arrival.now, file_state=None, file_state_at=None)
    )
    _note_arrival(connection, arrival, study, is_changed=True)
    return RecordOutcome.CHANGED


def _set_aside(connection: Connection, arrival: Arrival) -> RecordOutcome:
    _note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.SET_ASIDE)
    connection.execute(
        other_contents.insert().values(
            **_key(arrival), **_content(arrival.instance.spooled), received_at=arrival.now
        )
    )
    return RecordOutcome.SET_ASIDE


def _meet_aside(connection: Connection, arrival: Arrival, kept: RowMapping) -> RecordOutcome:
    if kept["file_state"] is None:
        connection.execute(
            studies.update()
            .where(studies.c.study_instance_uid == arrival.instance.study_instance_uid)
            .values(duplicates=studies.c.duplicates + 1)
        )
        return RecordOutcome.DUPLICATE
    connection.execute(
        other_contents.update()
        .where(_is_this(other_contents, arrival))
        .where(other_contents.c.sha256 == kept["sha256"])
        .values(file_state=None, file_state_at=None, received_at=arrival.now)
    )
    return RecordOutcome.SET_ASIDE


# ---------------------------------------------------------------------- the study it belongs to


def _first_round(arrival: Arrival) -> dict[str, Any]:
    return {
        "study_instance_uid": arrival.instance.study_instance_uid,
        "patient_id": _patient_id(arrival),
        "state": StudyState.RECEIVING,
        "revision": 1,
        "first_received_at": arrival.now,
        "last_received_at": arrival.now,
        "receiving_since": arrival.now,
        "attempts": 0,
    }


def _patient_id(arrival: Arrival) -> str:
    return arrival.instance.patient_id.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL has no NUL


def _is_done_with(study: RowMapping) -> bool:
    return bool(study["state"] == StudyState.DONE and study["done_revision"] == study["revision"])


def _note_arrival(
    connection: Connection, arrival: Arrival, study: RowMapping | None, *, is_changed: bool = False
) -> None:
    if study is None:
        return  # its first round has just begun
    patient_id, now = _patient_id(arrival), arrival.now
    if patient_id and patient_id != study["patient_id"] != "":
        _note_conflict(connection, arrival, ConflictKind.OTHER_PATIENT)
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
    connection.execute(_CHANGE_STUDY, {"of_study": study["study_instance_uid"], **values})


def _note_conflict(
    connection: Connection, arrival: Arrival, kind: ConflictKind, resolution: Resolution | None = None
) -> None:
    spooled = arrival.instance.spooled
    described = {
        "kind": kind,
        "sha256": spooled.sha256 if resolution else None,
        "resolution": resolution,
    }
    seen_before = conflicts.update().where(
        *(conflicts.c[name] == value for name, value in (_key(arrival) | described).items())
    )
    again = connection.execute(seen_before.values(seen_at=arrival.now, times=conflicts.c.times + 1))
    if again.rowcount == 0:
        connection.execute(
            conflicts.insert().values(
                **_key(arrival),
                **described,
                size_bytes=spooled.size_bytes if resolution else None,
                seen_at=arrival.now,
            )
        )


def _hold(connection: Connection, arrival: Arrival) -> None:
    uid = arrival.instance.study_instance_uid
    which = {"of_association": arrival.association, "of_study": uid}
    extended = connection.execute(_EXTEND_HOLD, {**which, "hold_until": arrival.hold_until})
    if extended.rowcount == 0:
        connection.execute(
            holds.insert().values(
                association=arrival.association, study_instance_uid=uid, hold_until=arrival.hold_until
            )
        )


# ---------------------------------------------------------------------- rows


def _key(arrival: Arrival) -> dict[str, str]:
    return {
        "study_instance_uid": arrival.instance.study_instance_uid,
        "sop_instance_uid": arrival.instance.spooled.sop_instance_uid,
    }


def _of(arrival: Arrival) -> dict[str, str]:
    return {
        "of_study": arrival.instance.study_instance_uid,
        "of_instance": arrival.instance.spooled.sop_instance_uid,
    }


def _is_this(table: sa.Table, arrival: Arrival) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in _key(arrival).items()))


def _content(spooled: Any) -> Mapping[str, Any]:
    return {name: getattr(spooled, name) for name in _CONTENT}
