"""The ledger: what was received, and where each study is on its way to the tables.

A study goes receiving → complete → claimed → done, or to failed after too many attempts:

    receiving   instances come; `complete_studies` applies the completion rule
    complete    waits for a worker, oldest first
    claimed     a worker holds it under a lease; a lease that ends gives it back
    done        its tables are written
    failed      out of attempts; waits for an operator (`echobeam studies retry`)

What comes after a study is complete raises its revision and sends it round again. A worker that is
at it meanwhile may still commit: its results stand until those of the next revision replace them.

Every change is one transaction that takes the write lock at its start (BEGIN IMMEDIATE), so that two
workers never read the same study as free. Times are seconds since the epoch and are passed in. No
statement's parameters appear in an error: they hold patients' identifiers.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from dicom_listener.completion import CompletionRule, completion_reason
from dicom_listener.errors import (
    ClaimLostError,
    LedgerUnavailableError,
    StudyNotFailedError,
    StudyNotFoundError,
)
from dicom_listener.schema import batches, conflicts, holds, instances, metadata, open_engine, studies

_MAXIMUM_ERROR_LENGTH: Final = 500


class StudyState(StrEnum):
    """Where a study is."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"


class RecordOutcome(StrEnum):
    """What an instance was to the ledger."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CHANGED = "changed"


class ConflictKind(StrEnum):
    """What did not fit together in what was sent."""

    CHANGED_CONTENT = "changed_content"  # one SOP Instance UID, two contents
    OTHER_STUDY = "other_study"  # one SOP Instance UID in two studies
    OTHER_PATIENT = "other_patient"  # one study, two patient IDs


@dataclass(frozen=True, slots=True)
class SpooledInstance:
    """An instance and its file.

    Attributes:
        path: relative to the spool.
        sha256: hexadecimal digest of the whole file.
    """

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """A spooled instance with what it belongs to.

    Attributes:
        patient_id: as sent, "" where there is none.
    """

    study_instance_uid: str
    patient_id: str
    spooled: SpooledInstance


@dataclass(frozen=True, slots=True)
class ClaimedStudy:
    """A study that one worker holds under a lease.

    Attributes:
        claim_token: names this claim; a later claim of the study has another.
        patient_id: as sent, "" where there is none.
        revision: of the content that was claimed.
        attempts: how often this revision has been claimed, with this time.
        instances: in the order of their UIDs.
    """

    claim_token: str
    study_instance_uid: str
    patient_id: str
    revision: int
    attempts: int
    instances: tuple[SpooledInstance, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that did not fit together."""

    sop_instance_uid: str
    kind: ConflictKind
    seen_at: float


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """Everything the ledger knows about a study, but not whose it is.

    Times are seconds since the epoch; None where it has not happened.
    """

    study_instance_uid: str
    state: StudyState
    revision: int
    instances: int
    size_bytes: int
    first_received_at: float
    last_received_at: float
    completed_at: float | None
    completed_because: str | None
    attempts: int
    last_error: str | None
    last_error_at: float | None
    worker: str | None
    lease_until: float | None
    done_at: float | None
    done_revision: int | None
    open_associations: int
    conflicts: tuple[Conflict, ...]


class Ledger:
    """The ledger behind a database URL. Threads and processes may share it."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Open the ledger and create its tables where they are absent.

        Args:
            url: SQLAlchemy URL.
            must_exist: refuse to create a SQLite file, for those who only ask questions.

        Raises:
            LedgerUnavailableError: if the database cannot be opened.
        """
        try:
            self._engine = open_engine(url, must_exist=must_exist)
        except FileNotFoundError as error:
            raise LedgerUnavailableError(
                "There is no ledger yet: start `echobeam listen` or `echobeam up`, or give the --root it uses"
            ) from error
        except OSError as error:
            raise LedgerUnavailableError(
                f"The ledger's folder cannot be made ({error.strerror}): give this user the right to "
                "write there, or set another ledger_url"
            ) from error
        self._reader = self._engine.execution_options(echobeam_reading=True)
        with self._writing() as connection:
            metadata.create_all(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # ------------------------------------------------------------------ receiving

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
        with self._writing() as connection:
            study = _row(connection, sa.select(studies).where(studies.c.study_instance_uid == uid))
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
        with self._writing() as connection:
            connection.execute(
                holds.update().where(holds.c.association == association).values(hold_until=until)
            )

    def release_holds(self, association: str) -> None:
        """Say that an association is over."""
        with self._writing() as connection:
            connection.execute(holds.delete().where(holds.c.association == association))

    def complete_studies(self, rule: CompletionRule, *, now: float) -> int:
        """Call the studies complete that are so by the rule, and record why.

        Returns:
            How many.
        """
        with self._reading() as connection:
            if not _due(connection, rule, now):
                return 0
        with self._writing() as connection:
            connection.execute(holds.delete().where(holds.c.hold_until <= now))
            due = _due(connection, rule, now)
            for uid, reason in due.items():
                connection.execute(
                    studies.update()
                    .where(studies.c.study_instance_uid == uid)
                    .values(state=StudyState.COMPLETE, completed_at=now, completed_because=reason)
                )
            return len(due)

    # ------------------------------------------------------------------ claims

    def claim_studies(
        self, *, worker: str, limit: int, lease_s: float, max_attempts: int, now: float
    ) -> list[ClaimedStudy]:
        """Take complete studies under a lease, oldest first.

        Claims whose lease has ended return first; they count as failed attempts. A study that failed
        before is given out alone, so that it spoils the batch of others once at most.

        Args:
            worker: who claims, for the operator.
            limit: the most studies to take.
            lease_s: seconds the claim is this worker's unless it is extended.
            max_attempts: attempts after which a study is failed.
            now: seconds since the epoch.

        Returns:
            The claimed studies, none if there is nothing to do.
        """
        with self._writing() as connection:
            expired = studies.c.lease_until <= now
            for study in _rows(connection, sa.select(studies).where(expired)):
                _end_attempt(connection, study, "the worker's lease ended", max_attempts, now)
            waiting = _rows(
                connection,
                sa.select(studies)
                .where(studies.c.state == StudyState.COMPLETE)
                .order_by(studies.c.completed_at, studies.c.study_instance_uid)
                .limit(limit),
            )
            taken = _fit_to_run_together(waiting)
            if not taken:
                return []
            batch_id = uuid.uuid4().hex
            connection.execute(
                batches.insert().values(batch_id=batch_id, worker=worker, claimed_at=now, studies=len(taken))
            )
            return [_claim(connection, study, batch_id, now + lease_s) for study in taken]

    def extend_claims(self, tokens: Iterable[str], *, lease_s: float, now: float) -> set[str]:
        """Renew leases: the heartbeat of a worker.

        Returns:
            The tokens that are still held; work for the others should stop.
        """
        wanted = list(tokens)
        with self._writing() as connection:
            connection.execute(
                studies.update().where(studies.c.claim_token.in_(wanted)).values(lease_until=now + lease_s)
            )
            held = connection.scalars(
                sa.select(studies.c.claim_token).where(studies.c.claim_token.in_(wanted))
            )
            return {token for token in held if token is not None}

    @contextmanager
    def committing(self, claim_token: str, *, now: float) -> Iterator[None]:
        """Hold a claimed study while its files are put in place, then call it done.

        Nobody can take, change or finish the study during the block, so keep it short: rename files
        that are already written. The ledger must not be used inside. If the block raises, or the
        process dies in it, the study stays claimed. If something came meanwhile, the study starts its
        next round at once.

        Raises:
            ClaimLostError: before the block, if the claim is no longer this one's.
        """
        with self._writing() as connection:
            study = _row(
                connection,
                sa.select(studies).where(studies.c.claim_token == claim_token).with_for_update(),
            )
            if study is None:
                raise ClaimLostError(
                    "The claim is not in the ledger: its lease ended and the study went to somebody else. "
                    "Drop the results; raise lease_s if batches take that long"
                )
            yield
            stale = study["revision"] != study["claimed_revision"]
            connection.execute(
                studies.update()
                .where(studies.c.claim_token == claim_token)
                .values(
                    state=StudyState.RECEIVING if stale else StudyState.DONE,
                    done_at=now,
                    done_revision=study["claimed_revision"],
                    last_error=None,
                    last_error_at=None,
                    attempts=0 if stale else study["attempts"],
                    **_UNCLAIMED,
                )
            )

    def release_claims(
        self, tokens: Iterable[str], *, error: str | None, max_attempts: int, now: float
    ) -> None:
        """Give claims back.

        Args:
            tokens: the claims; those that are lost already are passed over.
            error: why the attempt failed, free of patients' data; None if nothing failed and the worker
                only stops, which is not counted as an attempt.
            max_attempts: attempts after which a study is failed.
            now: seconds since the epoch.
        """
        with self._writing() as connection:
            held = sa.select(studies).where(studies.c.claim_token.in_(list(tokens)))
            for study in _rows(connection, held):
                _end_attempt(connection, study, error, max_attempts, now)

    # ------------------------------------------------------------------ questions and retries

    def counts_by_state(self) -> dict[str, int]:
        """Count the studies in each state; every state is a key."""
        with self._reading() as connection:
            rows = connection.execute(
                sa.select(studies.c.state, sa.func.count()).group_by(studies.c.state)
            ).all()
        return {state.value: 0 for state in StudyState} | {str(state): int(count) for state, count in rows}

    def oldest_complete_age_s(self, *, now: float) -> float:
        """Give the age of the head of the queue in seconds, 0 if nothing waits."""
        with self._reading() as connection:
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
        with self._reading() as connection:
            return [_study_record(connection, row) for row in _rows(connection, statement.limit(limit))]

    def show_study(self, study_instance_uid: str) -> StudyRecord:
        """Show all about one study.

        Raises:
            StudyNotFoundError: if there is no such study.
        """
        with self._reading() as connection:
            return _study_record(connection, _existing(connection, study_instance_uid))

    def retry_study(self, study_instance_uid: str, *, now: float) -> None:
        """Put a failed study back into the queue, with all its attempts.

        Raises:
            StudyNotFoundError: if there is no such study.
            StudyNotFailedError: if it is not failed.
        """
        with self._writing() as connection:
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

    def check_writable(self) -> None:
        """Take the write lock and let it go.

        Raises:
            LedgerUnavailableError: if that fails.
        """
        with self._writing() as connection:
            connection.execute(holds.delete().where(sa.false()))

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _translated(), self._reader.begin() as connection:
            yield connection


_UNCLAIMED: Final[Mapping[str, None]] = {
    "claim_token": None,
    "claimed_revision": None,
    "lease_until": None,
}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        cause = error.orig
        name = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
        raise LedgerUnavailableError(
            f"The ledger cannot be used ({name}): check its URL, its disk, its permissions and that "
            "nothing else locks it"
        ) from error


def _row(connection: Connection, statement: sa.Select[Any]) -> RowMapping | None:
    return connection.execute(statement).mappings().first()


def _rows(connection: Connection, statement: sa.Select[Any]) -> list[RowMapping]:
    return list(connection.execute(statement).mappings().all())


def _existing(connection: Connection, uid: str) -> RowMapping:
    study = _row(connection, sa.select(studies).where(studies.c.study_instance_uid == uid))
    if study is None:
        raise StudyNotFoundError("The ledger has no study of this UID: see `echobeam studies list`")
    return study


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


def _due(connection: Connection, rule: CompletionRule, now: float) -> dict[str, str]:
    open_associations = (
        sa.select(sa.func.count())
        .where(holds.c.study_instance_uid == studies.c.study_instance_uid)
        .where(holds.c.hold_until > now)
        .scalar_subquery()
    )
    receiving = sa.select(
        studies.c.study_instance_uid,
        studies.c.receiving_since,
        studies.c.last_received_at,
        open_associations.label("open_associations"),
    ).where(studies.c.state == StudyState.RECEIVING)
    due = {}
    for row in _rows(connection, receiving):
        reason = completion_reason(
            rule,
            receiving_since=row["receiving_since"],
            last_received_at=row["last_received_at"],
            open_associations=row["open_associations"],
            now=now,
        )
        if reason is not None:
            due[str(row["study_instance_uid"])] = reason
    return due


def _fit_to_run_together(waiting: list[RowMapping]) -> list[RowMapping]:
    """Take the head of the queue alone if it failed before, else all up to the first that did."""
    taken: list[RowMapping] = []
    for study in waiting:
        if study["last_error"] is not None:
            return taken or [study]
        taken.append(study)
    return taken


def _claim(connection: Connection, study: RowMapping, batch_id: str, lease_until: float) -> ClaimedStudy:
    uid = study["study_instance_uid"]
    token = uuid.uuid4().hex
    attempts = study["attempts"] + 1
    connection.execute(
        studies.update()
        .where(studies.c.study_instance_uid == uid)
        .values(
            state=StudyState.CLAIMED,
            claim_token=token,
            claimed_revision=study["revision"],
            batch_id=batch_id,
            lease_until=lease_until,
            attempts=attempts,
        )
    )
    claimed = _rows(
        connection,
        sa.select(instances)
        .where(instances.c.study_instance_uid == uid)
        .order_by(instances.c.series_instance_uid, instances.c.sop_instance_uid),
    )
    return ClaimedStudy(
        claim_token=token,
        study_instance_uid=uid,
        patient_id=study["patient_id"],
        revision=study["revision"],
        attempts=attempts,
        instances=tuple(
            SpooledInstance(**{name: row[name] for name in SpooledInstance.__slots__}) for row in claimed
        ),
    )


def _end_attempt(
    connection: Connection, study: RowMapping, error: str | None, max_attempts: int, now: float
) -> None:
    attempts = study["attempts"] if error is not None else study["attempts"] - 1
    if study["revision"] != study["claimed_revision"]:
        state, attempts = StudyState.RECEIVING, 0  # the next round begins whatever became of this one
    elif error is not None and attempts >= max_attempts:
        state = StudyState.FAILED
    else:
        state = StudyState.COMPLETE
    values: dict[str, Any] = {"state": state, "attempts": attempts, **_UNCLAIMED}
    if error is not None:
        values |= {"last_error": error[:_MAXIMUM_ERROR_LENGTH], "last_error_at": now}
    connection.execute(
        studies.update().where(studies.c.study_instance_uid == study["study_instance_uid"]).values(**values)
    )


def _study_record(connection: Connection, study: RowMapping) -> StudyRecord:
    uid = study["study_instance_uid"]
    of_study = instances.c.study_instance_uid == uid
    count, size_bytes = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(instances.c.size_bytes), 0)).where(of_study)
    ).one()
    odd = _rows(
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
