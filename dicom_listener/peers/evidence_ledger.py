"""What the ledger keeps of the archive's word on a study: how many instances, and when it was asked."""

from dataclasses import dataclass

import sqlalchemy as sa

from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.database.schema import holds, instances, studies
from dicom_listener.ledger.database.transactions import all_rows


@dataclass(frozen=True, slots=True)
class Patience:
    """How often the archive is asked about one study.

    Attributes:
        after_s: seconds without an instance after which it is asked.
        pause_s: seconds after which it is asked again; doubled each time, until something comes.
        longest_pause_s: what the pauses grow up to.
    """

    after_s: float
    pause_s: float
    longest_pause_s: float

    def before_attempt(self, attempts: int) -> float:
        """Give the pause after so many questions, in seconds."""
        return min(self.pause_s * 2.0 ** min(attempts - 1, 30), self.longest_pause_s)


class EvidenceLedger:
    """The part of a ledger that is about what the archive says. Threads and processes may share it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def take_questions(self, patience: Patience, *, limit: int, now: float) -> list[str]:
        """Give the studies to ask the archive about now, those that came first before the others.

        Each is counted as asked, so nobody else asks about it too, and if no answer comes it is asked
        about again after a pause.
        """
        with self._ledger.reading() as connection:
            waiting = all_rows(connection, _waiting(patience, now))
        if not any(_is_due(row, patience, now) for row in waiting):
            return []  # without the write lock, which reception needs
        with self._ledger.writing() as connection:
            due = [
                row for row in all_rows(connection, _waiting(patience, now)) if _is_due(row, patience, now)
            ]
            for row in due[:limit]:
                connection.execute(
                    studies.update()
                    .where(studies.c.study_instance_uid == row["study_instance_uid"])
                    .values(queried_at=now, query_attempts=_attempts(row) + 1)
                )
        return [str(row["study_instance_uid"]) for row in due[:limit]]

    def enter_answer(
        self, study_instance_uid: str, expected_instances: int | None, *, asked_at: float
    ) -> None:
        """Write down how many instances the archive has; None if it does not know or does not say."""
        with self._ledger.writing() as connection:
            connection.execute(
                studies.update()
                .where(studies.c.study_instance_uid == study_instance_uid)
                .values(expected_instances=expected_instances, expected_at=asked_at)
            )


def _waiting(patience: Patience, now: float) -> sa.Select[tuple[object, ...]]:
    held = sa.exists().where(
        holds.c.study_instance_uid == studies.c.study_instance_uid, holds.c.hold_until > now
    )
    received = (
        sa.select(sa.func.count())
        .where(instances.c.study_instance_uid == studies.c.study_instance_uid)
        .scalar_subquery()
    )
    return (
        sa.select(
            studies.c.study_instance_uid,
            studies.c.last_received_at,
            studies.c.expected_instances,
            studies.c.expected_at,
            studies.c.queried_at,
            studies.c.query_attempts,
            received.label("instances"),
        )
        .where(studies.c.state == StudyState.RECEIVING)
        .where(studies.c.last_received_at <= now - patience.after_s)
        .where(~held)
        .order_by(studies.c.receiving_since, studies.c.study_instance_uid)
    )


def _attempts(row: sa.RowMapping) -> int:
    """Count the questions since the newest instance came."""
    asked_since = row["queried_at"] is not None and row["queried_at"] >= row["last_received_at"]
    return int(row["query_attempts"]) if asked_since else 0


def _is_due(row: sa.RowMapping, patience: Patience, now: float) -> bool:
    attempts = _attempts(row)
    return attempts == 0 or now - row["queried_at"] >= patience.before_attempt(attempts)
