"""Pruning: which files of the spool may be deleted, and in which order that is safe.

The ledger is told first and the file deleted after: a crash between the two leaves a file too many,
which the next start deletes, never a file that is thought to be there. Both are done while the study's
row is locked, under which an instance is entered too, and only if the file is there. So an instance
that comes again meanwhile is either kept anew or answered "try again", never acknowledged and lost.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.ledger.arrivals import SpoolFiles
from dicom_listener.ledger.contents import content_of, content_table, update_content
from dicom_listener.ledger.database.schema import (
    commitment_instances,
    commitments,
    instances,
    other_contents,
    studies,
)
from dicom_listener.ledger.database.transactions import Database, all_rows, first_row, lock_study
from dicom_listener.ledger.records import Content, FileState, StudyState

_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class PruneRule:
    """Which files of a study that is done may go.

    Attributes:
        received_before: only what was received before, seconds since the epoch.
        requires_commitment: only what a reported storage commitment was given for.
        promised_before: of what a commitment was given for, only what was promised before; None keeps it
            for ever.
    """

    received_before: float
    requires_commitment: bool = False
    promised_before: float | None = None


@dataclass(frozen=True, slots=True)
class PruneChoice:
    """What a rule chose in one study.

    Attributes:
        chosen: what may go.
        kept_for_commitment: how many files are kept only because of a commitment, or for want of one.
    """

    chosen: tuple[Content, ...]
    kept_for_commitment: int


class Pruning(Database):
    """What retention asks and writes."""

    def done_studies(self, *, done_before: float, after: tuple[float, str] | None) -> list[tuple[float, str]]:
        """List studies that are done and have files left, those that were done first first, a page at a time.

        Args:
            done_before: only those done before, seconds since the epoch.
            after: the last of the page before; None for the first page.

        Returns:
            When each was done, and its Study Instance UID; empty behind the last.
        """
        has_files = sa.or_(
            *(
                sa.exists()
                .where(table.c.study_instance_uid == studies.c.study_instance_uid)
                .where(table.c.file_state.is_distinct_from(FileState.PRUNED))
                for table in (instances, other_contents)
            )
        )
        page = (
            sa.select(studies.c.done_at, studies.c.study_instance_uid)
            .where(_IS_DONE)
            .where(studies.c.done_at <= done_before)
            .where(has_files)
            .order_by(studies.c.done_at, studies.c.study_instance_uid)
            .limit(_PAGE)
        )
        if after is not None:
            done_at, uid = after
            page = page.where(
                sa.or_(
                    studies.c.done_at > done_at,
                    sa.and_(studies.c.done_at == done_at, studies.c.study_instance_uid > uid),
                )
            )
        with self.reading() as connection:
            return [(float(done_at), str(uid)) for done_at, uid in connection.execute(page)]

    def choose_prunable(self, study_instance_uid: str, rule: PruneRule) -> PruneChoice:
        """Say what of a study may go, and change nothing; nothing may unless the study is done."""
        with self.reading() as connection:
            return _choose(connection, study_instance_uid, rule)

    def mark_pruned(self, study_instance_uid: str, rule: PruneRule, *, now: float) -> PruneChoice:
        """Say in the ledger that what may go of a study is gone; its files are to be deleted next."""
        return self.write(partial(_mark, uid=study_instance_uid, rule=rule, now=now))

    def delete_pruned(self, contents: tuple[Content, ...], rule: PruneRule, files: SpoolFiles) -> int:
        """Delete the files of contents of one study that are marked as pruned.

        One that came again since it was marked is kept. So is one that a commitment was asked for since:
        its mark is taken back.

        Returns:
            How many files were deleted.
        """
        if not contents:
            return 0
        return self.write(partial(_delete, contents=contents, rule=rule, files=files))


_IS_DONE: Final = (studies.c.state == StudyState.DONE) & (studies.c.done_revision == studies.c.revision)


@dataclass(frozen=True, slots=True)
class _Commitments:
    """What storage commitment says of the instances of one study.

    Attributes:
        asked: SOP Instance UIDs of requests that are not verified yet.
        promised_at: when last, by SOP Instance UID and digest.
        reported: of which of these the requester knows.
    """

    asked: frozenset[str]
    promised_at: dict[tuple[str, str], float]
    reported: frozenset[tuple[str, str]]

    def keep(self, content: Content, rule: PruneRule) -> bool:
        """Say whether a file is kept for a commitment, or for want of one."""
        if content.sop_instance_uid in self.asked:
            return True
        key = (content.sop_instance_uid, content.sha256)
        promised_at = self.promised_at.get(key)
        # Nobody can ask for a content that is not at work, so its want keeps none of these.
        if rule.requires_commitment and content.is_at_work and key not in self.reported:
            return True
        return promised_at is not None and (
            rule.promised_before is None or promised_at >= rule.promised_before
        )


def _commitments_of(connection: Connection, uid: str) -> _Commitments:
    uids = sa.select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == uid)
    rows = all_rows(
        connection,
        sa.select(commitment_instances, commitments.c.reported_at)
        .join_from(commitment_instances, commitments)
        .where(commitment_instances.c.sop_instance_uid.in_(uids)),
    )
    promised = [row for row in rows if row["verified_at"] is not None and row["failure_reason"] is None]
    promised_at: dict[tuple[str, str], float] = {}
    for row in promised:
        key = (row["sop_instance_uid"], row["sha256"])
        promised_at[key] = max(promised_at.get(key, 0.0), row["verified_at"])
    return _Commitments(
        asked=frozenset(row["sop_instance_uid"] for row in rows if row["verified_at"] is None),
        promised_at=promised_at,
        reported=frozenset(
            (row["sop_instance_uid"], row["sha256"]) for row in promised if row["reported_at"] is not None
        ),
    )


def _choose(connection: Connection, uid: str, rule: PruneRule) -> PruneChoice:
    is_done = sa.select(studies.c.study_instance_uid).where(_IS_DONE, studies.c.study_instance_uid == uid)
    if first_row(connection, is_done) is None:
        return PruneChoice((), 0)
    candidates = [
        content_of(row, is_at_work=table is instances)
        for table in (instances, other_contents)
        for row in all_rows(
            connection,
            sa.select(table)
            .where(table.c.study_instance_uid == uid)
            .where(table.c.received_at <= rule.received_before)
            .where(table.c.file_state.is_distinct_from(FileState.PRUNED))
            .order_by(table.c.sop_instance_uid),
        )
    ]
    commitments_of_study = _commitments_of(connection, uid)
    chosen = tuple(content for content in candidates if not commitments_of_study.keep(content, rule))
    return PruneChoice(chosen, len(candidates) - len(chosen))


def _mark(connection: Connection, *, uid: str, rule: PruneRule, now: float) -> PruneChoice:
    lock_study(connection, uid)
    choice = _choose(connection, uid, rule)
    for content in choice.chosen:
        connection.execute(update_content(content).values(file_state=FileState.PRUNED, file_state_at=now))
    return choice


def _delete(
    connection: Connection, *, contents: tuple[Content, ...], rule: PruneRule, files: SpoolFiles
) -> int:
    uid = contents[0].study_instance_uid
    lock_study(connection, uid)
    commitments_of_study = _commitments_of(connection, uid)
    deleted = 0
    for content in contents:
        is_pruned = content_table(content).c.file_state == FileState.PRUNED
        if commitments_of_study.keep(content, rule):
            connection.execute(
                update_content(content).where(is_pruned).values(file_state=None, file_state_at=None)
            )
            continue
        still = connection.execute(
            update_content(content).where(is_pruned).values(file_state=FileState.PRUNED)
        )
        if still.rowcount:
            files.delete(content.path)
            deleted += 1
    return deleted
