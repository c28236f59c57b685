"""Claims: complete studies are given out under leases, and come back done, failed or unfinished."""

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger.database.schema import batches, instances, studies
from dicom_listener.ledger.database.transactions import Database, all_rows, first_row
from dicom_listener.ledger.records import ClaimedStudy, SpooledInstance, StudyState

_MAXIMUM_ERROR_LENGTH: Final = 500

_UNCLAIMED: Final[Mapping[str, None]] = {
    "claim_token": None,
    "claimed_revision": None,
    "lease_until": None,
    "begun_at": None,
}


class Claims(Database):
    """What the workers write."""

    def claim_studies(
        self,
        *,
        worker: str,
        limit: int,
        lease_s: float,
        max_attempts: int,
        now: float,
        is_idle: bool = True,
        only: Collection[str] | None = None,
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
            is_idle: whether the worker has no other study; else it gets none that failed before.
            only: Study Instance UIDs, some hundreds at most; None for any study.

        Returns:
            The claimed studies, none if there is nothing to do.
        """
        with self.writing() as connection:
            expired = sa.select(studies).where(studies.c.lease_until <= now)
            for study in all_rows(connection, expired.with_for_update(skip_locked=True)):
                end_attempt(connection, study, "the worker's lease ended", max_attempts, now)
            waiting = _waiting(connection, limit, now, only)
            taken = _fit_to_run_together(waiting, is_idle=is_idle)
            if not taken:
                return []
            batch_id = uuid.uuid4().hex
            connection.execute(
                batches.insert().values(batch_id=batch_id, worker=worker, claimed_at=now, studies=len(taken))
            )
            return [_claim(connection, study, batch_id, now + lease_s) for study in taken]

    def extend_claims(
        self, tokens: Iterable[str], *, lease_s: float, now: float, is_waiting: bool = False
    ) -> set[str]:
        """Renew leases: the heartbeat of a worker.

        Args:
            tokens: the claims.
            lease_s: seconds from now for which they are held.
            now: seconds since the epoch.
            is_waiting: whether only claims whose work has not begun are meant.

        Returns:
            The tokens that are still held; work for the others should stop.
        """
        statement = held(list(tokens))
        if is_waiting:
            statement = statement.where(studies.c.begun_at.is_(None))
        with self.writing() as connection:
            still = [study["claim_token"] for study in all_rows(connection, statement)]
            connection.execute(
                studies.update().where(studies.c.claim_token.in_(still)).values(lease_until=now + lease_s)
            )
            return set(still)

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
        with self.writing() as connection:
            study = first_row(
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
        with self.writing() as connection:
            for study in all_rows(connection, held(list(tokens))):
                end_attempt(connection, study, error, max_attempts, now)


def held(tokens: list[str]) -> sa.Select[Any]:
    """Select the studies of claims and lock them, always in the same order."""
    return (
        sa.select(studies)
        .where(studies.c.claim_token.in_(tokens))
        .order_by(studies.c.study_instance_uid)
        .with_for_update()
    )


def _waiting(
    connection: Connection, limit: int, now: float, only: Collection[str] | None
) -> list[RowMapping]:
    """Lock the head of the queue, and fail what would lose results that it has."""
    head = (
        sa.select(studies)
        .where(studies.c.state == StudyState.COMPLETE)
        .order_by(studies.c.completed_at, studies.c.study_instance_uid)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if only is not None:
        head = head.where(studies.c.study_instance_uid.in_(only))
    while True:
        waiting = all_rows(connection, head)
        unfit = [study for study in waiting if _fail_without_files(connection, study, now)]
        if not unfit:
            return waiting


def _fail_without_files(connection: Connection, study: RowMapping, now: float) -> bool:
    """Fail a study with results whose next ones would miss instances, because their files are gone.

    A study without results is not failed: its worker rejects what is missing, and the rest is processed.
    """
    if study["done_revision"] is None:
        return False
    of_study = instances.c.study_instance_uid == study["study_instance_uid"]
    count, gone = connection.execute(
        sa.select(sa.func.count(), sa.func.count(instances.c.file_state)).where(of_study)
    ).one()
    if not gone:
        return False
    connection.execute(
        studies.update()
        .where(studies.c.study_instance_uid == study["study_instance_uid"])
        .values(
            state=StudyState.FAILED,
            last_error=f"{gone} of {count} files are pruned, missing or damaged, and new results would "
            "replace those that were made of them: send the whole study again",
            last_error_at=now,
        )
    )
    return True


def _fit_to_run_together(waiting: list[RowMapping], *, is_idle: bool) -> list[RowMapping]:
    """Take the head of the queue alone if it failed before, else all up to the first that did."""
    taken: list[RowMapping] = []
    for study in waiting:
        if study["last_error"] is not None:
            return taken or ([study] if is_idle else [])
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
    claimed = all_rows(
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


def end_attempt(
    connection: Connection, study: RowMapping, error: str | None, max_attempts: int, now: float
) -> None:
    """Take a claim away: back to the queue, to its next round, or to the failed ones."""
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
