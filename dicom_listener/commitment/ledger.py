"""What the ledger keeps of storage commitment: requests, their instances, and whether they were reported.

A request is pending until its requester has taken the report, then reported; or failed, when that did
not succeed in time (`echobeam commitments retry`).
"""

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from dicom_listener.commitment.records import (
    Commitment,
    CommitmentState,
    HeldInstance,
    Reference,
    RequestOutcome,
    Verdict,
)
from dicom_listener.errors import CommitmentNotFoundError
from dicom_listener.ledger import FileState, Ledger
from dicom_listener.ledger.database.schema import commitment_instances, commitments, instances
from dicom_listener.ledger.database.transactions import all_rows, first_row

_CHUNK: Final = 500
"""UIDs asked for at once; SQLite limits the parameters of a statement."""

_MAXIMUM_ERROR_LENGTH: Final = 500


class CommitmentLedger:
    """The part of a ledger that is about storage commitment. Threads and processes may share it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # ------------------------------------------------------------------ requests

    def request(
        self, *, transaction_uid: str, requester: str, references: Sequence[Reference], now: float
    ) -> RequestOutcome:
        """Enter a request, durably.

        The same request again, because its answer or its report was lost, is verified and reported
        again. A transaction UID that the requester used for other instances is entered as a duplicate.

        Args:
            transaction_uid: names the request for the requester.
            requester: AE title.
            references: one for each SOP Instance UID.
            now: seconds since the epoch.

        Raises:
            LedgerUnavailableError: if it cannot be entered; nothing of it is then.
        """
        digest = _digest(references)
        with self._ledger.writing() as connection:
            known = all_rows(
                connection,
                sa.select(commitments)
                .where(commitments.c.transaction_uid == transaction_uid)
                .where(commitments.c.requester == requester),
            )
            same = next((row for row in known if row["references_sha256"] == digest), None)
            if same is not None:
                if same["state"] != CommitmentState.PENDING:
                    _make_pending(connection, same["commitment_id"], now)
                return RequestOutcome.REPEATED
            commitment_id = uuid.uuid4().hex
            connection.execute(
                commitments.insert().values(
                    commitment_id=commitment_id,
                    transaction_uid=transaction_uid,
                    requester=requester,
                    references_sha256=digest,
                    is_duplicate=bool(known),
                    state=CommitmentState.PENDING,
                    requested_at=now,
                    next_attempt_at=now,
                    attempts=0,
                )
            )
            connection.execute(
                commitment_instances.insert(),
                [
                    {
                        "commitment_id": commitment_id,
                        "sop_instance_uid": reference.sop_instance_uid,
                        "sop_class_uid": reference.sop_class_uid,
                    }
                    for reference in references
                ],
            )
        return RequestOutcome.DUPLICATE if known else RequestOutcome.NEW

    # ------------------------------------------------------------------ verifying and reporting

    def take_due(self, *, lease_s: float, limit: int, now: float) -> list[Commitment]:
        """Take requests that are to be reported, the oldest first.

        Nobody else gets them for `lease_s`; if this process dies meanwhile they come back then.
        """
        due = (
            sa.select(commitments.c.commitment_id)
            .where(commitments.c.state == CommitmentState.PENDING)
            .where(commitments.c.next_attempt_at <= now)
            .order_by(commitments.c.next_attempt_at, commitments.c.commitment_id)
            .limit(limit)
        )
        with self._ledger.reading() as connection:
            if not connection.scalars(due).all():
                return []  # without the write lock, which reception needs
        with self._ledger.writing() as connection:
            taken = list(connection.scalars(due.with_for_update()))
            connection.execute(
                commitments.update()
                .where(commitments.c.commitment_id.in_(taken))
                .values(next_attempt_at=now + lease_s)
            )
            return [_commitment(row) for row in all_rows(connection, _summaries(taken))]

    def verdicts(self, commitment_id: str) -> list[Verdict]:
        """Give the references of a request with their latest verdicts, in the order of their UIDs."""
        statement = (
            sa.select(commitment_instances)
            .where(commitment_instances.c.commitment_id == commitment_id)
            .order_by(commitment_instances.c.sop_instance_uid)
        )
        with self._ledger.reading() as connection:
            return [
                Verdict(
                    Reference(row["sop_class_uid"], row["sop_instance_uid"]),
                    row["failure_reason"],
                    row["sha256"],
                )
                for row in all_rows(connection, statement)
            ]

    def held(self, sop_instance_uids: Sequence[str]) -> Mapping[str, list[HeldInstance]]:
        """Give what is kept under each UID; several where the same UID came in several studies."""
        found: dict[str, list[HeldInstance]] = {}
        with self._ledger.reading() as connection:
            for start in range(0, len(sop_instance_uids), _CHUNK):
                wanted = sop_instance_uids[start : start + _CHUNK]
                # What is marked as pruned may still have its file, and will not for long.
                statement = (
                    sa.select(instances)
                    .where(instances.c.sop_instance_uid.in_(wanted))
                    .where(instances.c.file_state.is_distinct_from(FileState.PRUNED))
                )
                for row in all_rows(connection, statement):
                    found.setdefault(row["sop_instance_uid"], []).append(
                        HeldInstance(row["sop_class_uid"], row["path"], row["sha256"], row["size_bytes"])
                    )
        return found

    def enter_verdicts(self, commitment_id: str, verdicts: Iterable[Verdict], *, now: float) -> None:
        """Write down what the request's instances were found to be."""
        table = commitment_instances
        statement = (
            table.update()
            .where(table.c.commitment_id == commitment_id)
            .where(table.c.sop_instance_uid == sa.bindparam("uid"))
            .values(verified_at=now, failure_reason=sa.bindparam("reason"), sha256=sa.bindparam("digest"))
        )
        rows = [
            {
                "uid": verdict.reference.sop_instance_uid,
                "reason": None if verdict.failure_reason is None else int(verdict.failure_reason),
                "digest": verdict.sha256,
            }
            for verdict in verdicts
        ]
        with self._ledger.writing() as connection:
            connection.execute(statement, rows)

    def note_reported(self, commitment_id: str, *, now: float) -> None:
        """Say that the requester has taken the report."""
        self._update(
            commitment_id,
            state=CommitmentState.REPORTED,
            reported_at=now,
            attempts=commitments.c.attempts + 1,
            last_error=None,
        )

    def release(self, commitment_id: str, *, now: float) -> None:
        """Give a request that was taken back, to be due at once."""
        self._update(commitment_id, next_attempt_at=now)

    def note_failure(self, commitment: Commitment, error: str, *, next_attempt_at: float | None) -> None:
        """Say that the report did not get through.

        Args:
            commitment: the request.
            error: why, free of patients' data.
            next_attempt_at: when it is tried again; None gives up.
        """
        state = CommitmentState.FAILED if next_attempt_at is None else CommitmentState.PENDING
        self._update(
            commitment.commitment_id,
            state=state,
            attempts=commitment.attempts + 1,
            last_error=error[:_MAXIMUM_ERROR_LENGTH],
            next_attempt_at=commitment.next_attempt_at if next_attempt_at is None else next_attempt_at,
        )

    # ------------------------------------------------------------------ questions and retries

    def list(self, *, state: str | None = None, limit: int = 100) -> list[Commitment]:
        """List requests, the newest first."""
        statement = _summaries(None).order_by(commitments.c.requested_at.desc(), commitments.c.commitment_id)
        if state is not None:
            statement = statement.where(commitments.c.state == state)
        with self._ledger.reading() as connection:
            return [_commitment(row) for row in all_rows(connection, statement.limit(limit))]

    def show(self, name: str) -> Commitment:
        """Show one request.

        Args:
            name: its commitment id, or its transaction UID (then the newest of that UID).

        Raises:
            CommitmentNotFoundError: if there is none.
        """
        is_it = (commitments.c.commitment_id == name) | (commitments.c.transaction_uid == name)
        statement = _summaries(None).where(is_it).order_by(commitments.c.requested_at.desc())
        with self._ledger.reading() as connection:
            row = first_row(connection, statement)
        if row is None:
            raise CommitmentNotFoundError(
                "The ledger has no request of this id or transaction UID: see `echobeam commitments list`"
            )
        return _commitment(row)

    def retry(self, name: str, *, now: float) -> Commitment:
        """Verify and report a request again, now.

        Raises:
            CommitmentNotFoundError: if there is none.
        """
        commitment_id = self.show(name).commitment_id
        with self._ledger.writing() as connection:
            _make_pending(connection, commitment_id, now)
        return self.show(commitment_id)

    def counts_by_state(self) -> dict[str, int]:
        """Count the requests in each state; every state is a key."""
        statement = sa.select(commitments.c.state, sa.func.count()).group_by(commitments.c.state)
        with self._ledger.reading() as connection:
            rows = connection.execute(statement).all()
        counts = {state.value: 0 for state in CommitmentState}
        return counts | {str(state): int(count) for state, count in rows}

    def oldest_pending_age_s(self, *, now: float) -> float:
        """Give how long the oldest pending request has waited in seconds, 0 for none."""
        statement = sa.select(sa.func.min(commitments.c.requested_at)).where(
            commitments.c.state == CommitmentState.PENDING
        )
        with self._ledger.reading() as connection:
            oldest = connection.scalar(statement)
        return 0.0 if oldest is None else max(0.0, now - float(oldest))

    def _update(self, commitment_id: str, **values: Any) -> None:
        with self._ledger.writing() as connection:
            connection.execute(
                commitments.update().where(commitments.c.commitment_id == commitment_id).values(**values)
            )


def _digest(references: Iterable[Reference]) -> str:
    lines = sorted(f"{one.sop_instance_uid} {one.sop_class_uid}" for one in references)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _make_pending(connection: Connection, commitment_id: str, now: float) -> None:
    connection.execute(
        commitments.update()
        .where(commitments.c.commitment_id == commitment_id)
        .values(
            state=CommitmentState.PENDING, requested_at=now, next_attempt_at=now, attempts=0, last_error=None
        )
    )
    connection.execute(
        commitment_instances.update()
        .where(commitment_instances.c.commitment_id == commitment_id)
        .values(verified_at=None, failure_reason=None, sha256=None)
    )


def _summaries(commitment_ids: Sequence[str] | None) -> sa.Select[Any]:
    table = commitment_instances
    is_verified = table.c.verified_at.is_not(None)
    committed = is_verified & table.c.failure_reason.is_(None)
    summary = (
        sa.select(
            commitments,
            sa.func.count(table.c.sop_instance_uid).label("instances"),
            sa.func.coalesce(sa.func.sum(sa.case((committed, 1), else_=0)), 0).label("committed"),
            sa.func.count(table.c.failure_reason).label("failed_instances"),
            sa.func.min(table.c.verified_at).label("verified_at"),
        )
        .join_from(commitments, table)
        .group_by(commitments.c.commitment_id)
    )
    if commitment_ids is None:
        return summary
    return summary.where(commitments.c.commitment_id.in_(commitment_ids))


def _commitment(row: RowMapping) -> Commitment:
    values = {name: row[name] for name in Commitment.__slots__}
    return Commitment(**(values | {"state": CommitmentState(row["state"])}))
