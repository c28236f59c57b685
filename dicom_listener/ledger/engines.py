"""What pipelines over named studies, and those on an engine, ask of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from dicom_listener.ledger.claims import end_attempt
from dicom_listener.ledger.database.schema import batches, studies
from dicom_listener.ledger.database.transactions import Database, all_rows, first_row
from dicom_listener.ledger.records import StudyState

WORKER_DIED: Final = "the process that worked at it died, or its engine started it again"

_ASKED_AT_ONCE: Final = 500
"""Databases bound the parameters of a statement."""


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """A claim that somebody holds.

    Attributes:
        has_begun: whether a worker process took it up.
        failed_before: whether an earlier attempt at the study failed, so that it runs alone.
    """

    claim_token: str
    has_begun: bool
    failed_before: bool


class Engines(Database):
    """What a pipeline on an engine asks and writes, beside what every worker does."""

    def begin_claim(self, claim_token: str, *, max_attempts: int, now: float) -> bool:
        """Begin the work of a claim. A claim begins once.

        An engine gives the work of a process that died to the next one, for ever if need be. Whoever begins
        a claim for the second time learns here that the first died over it, or beside it: the attempt ends
        and the study goes back to the queue, alone next time. So a study that kills every process that
        takes it up runs out of attempts.

        Returns:
            False if the work is not to be done: the claim is lost, or had begun before.
        """
        with self.writing() as connection:
            study = first_row(
                connection,
                sa.select(studies).where(studies.c.claim_token == claim_token).with_for_update(),
            )
            if study is None:
                return False
            if study["begun_at"] is not None:
                end_attempt(connection, study, WORKER_DIED, max_attempts, now)
                return False
            connection.execute(
                studies.update().where(studies.c.claim_token == claim_token).values(begun_at=now)
            )
            return True

    def claims_held_by(self, worker: str) -> list[HeldClaim]:
        """List the claims of a worker, the oldest first."""
        with self.reading() as connection:
            found = all_rows(
                connection,
                sa.select(studies)
                .join(batches, studies.c.batch_id == batches.c.batch_id)
                .where(studies.c.state == StudyState.CLAIMED, batches.c.worker == worker)
                .order_by(batches.c.claimed_at, studies.c.study_instance_uid),
            )
        return [
            HeldClaim(
                claim_token=study["claim_token"],
                has_begun=study["begun_at"] is not None,
                failed_before=study["last_error"] is not None,
            )
            for study in found
        ]

    def states_of(self, study_instance_uids: Sequence[str]) -> dict[str, str]:
        """Give the state of each study, by its UID; studies that are not here are not in it."""
        states: dict[str, str] = {}
        with self.reading() as connection:
            for start in range(0, len(study_instance_uids), _ASKED_AT_ONCE):
                named = study_instance_uids[start : start + _ASKED_AT_ONCE]
                rows = connection.execute(
                    sa.select(studies.c.study_instance_uid, studies.c.state).where(
                        studies.c.study_instance_uid.in_(named)
                    )
                )
                states |= {str(uid): str(state) for uid, state in rows}
        return states
