"""Recording: what one received instance changes in the ledger, within somebody's transaction."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.errors import ConflictingInstanceError, ListenerError, SpoolUnavailableError
from dicom_listener.ledger.arrivals import Arrival, SpoolFiles
from dicom_listener.ledger.database.prepared import Prepared
from dicom_listener.ledger.database.schema import instances, other_contents, studies
from dicom_listener.ledger.database.transactions import first_row, lock_study
from dicom_listener.ledger.records import (
    ConflictKind,
    ConflictPolicy,
    FileState,
    RecordOutcome,
    Resolution,
    SpooledInstance,
    StudyState,
)
from dicom_listener.ledger.rounds import first_round, hold, note_arrival, note_conflict

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
_KNOWN: Final = Prepared(sa.select(instances).where(_IS_THIS))
_ELSEWHERE: Final = Prepared(
    sa.select(instances.c.study_instance_uid)
    .where(instances.c.sop_instance_uid == sa.bindparam("of_instance"))
    .where(instances.c.study_instance_uid != sa.bindparam("of_study"))
)
_ENTER: Final = Prepared(instances.insert())


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
        connection.execute(studies.insert().values(**first_round(arrival)))
    known = _KNOWN.first(connection, **arrival.parameters)
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
            note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.REJECTED)
            files.delete(spooled.path)
            return ConflictingInstanceError(
                "Another content has this SOP Instance UID: send it under a UID of its own, or set "
                "conflict_policy to replace or keep_first"
            )
    hold(connection, arrival)
    return outcome


# ---------------------------------------------------------------------- what an instance was


def _enter(connection: Connection, arrival: Arrival, study: RowMapping | None) -> RecordOutcome:
    if _ELSEWHERE.first(connection, **arrival.parameters) is not None:
        note_conflict(connection, arrival, ConflictKind.OTHER_STUDY)
    note_arrival(connection, arrival, study)
    content = _content(arrival.instance.spooled)
    _ENTER.change(connection, **arrival.key, **content, received_at=arrival.now)
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
        note_arrival(connection, arrival, study)
    return RecordOutcome.RESTORED


def _replace(
    connection: Connection, arrival: Arrival, known: RowMapping, study: RowMapping | None
) -> RecordOutcome:
    spooled = arrival.instance.spooled
    note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.REPLACED)
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
    note_arrival(connection, arrival, study, is_changed=True)
    return RecordOutcome.CHANGED


def _set_aside(connection: Connection, arrival: Arrival) -> RecordOutcome:
    note_conflict(connection, arrival, ConflictKind.CHANGED_CONTENT, Resolution.SET_ASIDE)
    connection.execute(
        other_contents.insert().values(
            **arrival.key, **_content(arrival.instance.spooled), received_at=arrival.now
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


def _is_done_with(study: RowMapping) -> bool:
    return bool(study["state"] == StudyState.DONE and study["done_revision"] == study["revision"])


def _is_this(table: sa.Table, arrival: Arrival) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in arrival.key.items()))


def _content(spooled: SpooledInstance) -> dict[str, Any]:
    return {name: getattr(spooled, name) for name in _CONTENT}
