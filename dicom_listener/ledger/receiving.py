"""Receiving: instances are entered, and studies are held while their association is open."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import Connection

from dicom_listener.errors import ListenerError
from dicom_listener.ledger.arrivals import Arrival, SpoolFiles
from dicom_listener.ledger.database.schema import holds
from dicom_listener.ledger.database.transactions import Database
from dicom_listener.ledger.grouping import GroupCommit
from dicom_listener.ledger.recording import record
from dicom_listener.ledger.records import ConflictPolicy, ReceivedInstance, RecordOutcome


class Receiving(Database):
    """What the listener writes."""

    def __init__(
        self,
        url: str,
        *,
        must_exist: bool = False,
        spool: Path | None = None,
        conflict_policy: ConflictPolicy = ConflictPolicy.REPLACE,
    ) -> None:
        """Open the ledger; make its tables where they are absent, bring older ones up to date.

        Args:
            url: SQLAlchemy URL.
            must_exist: refuse to create a SQLite file, for those who only ask questions.
            spool: folder of the files; a listener gives it, so that an instance is entered only while
                its file is there, and the file of a refused one is deleted.
            conflict_policy: what becomes of another content with a known SOP Instance UID.

        Raises:
            LedgerUnavailableError: if the database cannot be opened.
            LedgerVersionError: if a newer release made it.
        """
        super().__init__(url, must_exist=must_exist)
        self._policy = conflict_policy
        self._files = SpoolFiles(spool)
        # SQLite has one writer at a time, and company costs it nothing. On PostgreSQL writers of different
        # studies go on beside each other, and the server waits for its disk once for several of them.
        self._group = (
            GroupCommit[Arrival, RecordOutcome](self._commit) if self._engine.name == "sqlite" else None
        )

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

        Returns:
            What it was, once that is durable.

        Raises:
            ConflictingInstanceError: if another content has its UID and the policy is to refuse.
            SpoolUnavailableError: if its file was deleted meanwhile.
            LedgerUnavailableError: if it cannot be entered; nothing of it is then.
        """
        arrival = Arrival(instance, association, hold_until, now)
        if self._group is not None:
            return self._group.submit(arrival)
        [outcome] = self._commit([arrival])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def extend_holds(self, association: str, *, until: float) -> None:
        """Keep the studies of an open association from being called complete."""
        extend = holds.update().where(holds.c.association == association).values(hold_until=until)
        self.write(lambda connection: connection.execute(extend))

    def release_holds(self, association: str) -> None:
        """Say that an association is over."""
        release = holds.delete().where(holds.c.association == association)
        self.write(lambda connection: connection.execute(release))

    def _commit(self, arrivals: Sequence[Arrival]) -> list[RecordOutcome | Exception]:
        # Everybody locks studies in this order, so that no two wait for each other.
        order = sorted(range(len(arrivals)), key=lambda i: arrivals[i].instance.study_instance_uid)

        def enter(connection: Connection) -> dict[int, RecordOutcome | ListenerError]:
            return {i: record(connection, arrivals[i], policy=self._policy, files=self._files) for i in order}

        answers = self.write(enter)
        return [answers[i] for i in range(len(arrivals))]
