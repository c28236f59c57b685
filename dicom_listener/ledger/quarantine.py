"""Fail a claimed study at once, because nothing of it may be released."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.database.schema import studies
from dicom_listener.ledger.database.transactions import first_row

_MAXIMUM_REASON_LENGTH: Final = 500


@contextmanager
def quarantining(ledger: Ledger, claim_token: str, *, reason: str, now: float) -> Iterator[None]:
    """Hold a claimed study while what was released of it is withdrawn, then call it failed.

    It is `Ledger.committing`'s counterpart, with the same promises: nobody can take, change or finish the
    study during the block, and if the block raises the study stays claimed. Other attempts would find
    the same, so none are made; `Ledger.retry_study` gives it another once the cause is gone. If something
    came meanwhile, the study starts its next round at once.

    Args:
        ledger: not to be used inside the block.
        claim_token: of the study.
        reason: kept as its last error; free of patients' data.
        now: seconds since the epoch.

    Raises:
        ClaimLostError: before the block, if the claim is no longer this one's.
    """
    with ledger.writing() as connection:
        held = sa.select(studies).where(studies.c.claim_token == claim_token)
        study = first_row(connection, held.with_for_update())
        if study is None:
            raise ClaimLostError(
                "The claim is not in the ledger: its lease ended and the study went to somebody else, who "
                "will find what was found here. Raise lease_s if batches take that long"
            )
        yield
        stale = study["revision"] != study["claimed_revision"]
        connection.execute(
            studies.update()
            .where(studies.c.claim_token == claim_token)
            .values(
                state=StudyState.RECEIVING if stale else StudyState.FAILED,
                attempts=0 if stale else study["attempts"],
                last_error=reason[:_MAXIMUM_REASON_LENGTH],
                last_error_at=now,
                claim_token=None,
                claimed_revision=None,
                lease_until=None,
            )
        )
