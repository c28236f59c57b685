"""The instances of a study as its examination knows them: real headers, and what became of them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydicom.tag import Tag

from beam_jobs.deid.archive import StagedArchive
from beam_jobs.deid.audit import AuditedAction, table_actions
from beam_jobs.deid.originals import Originals, SourceHeader, keyword_of, read_source_header
from beam_jobs.records import CollectedStudy, Placement
from beam_jobs.staging import ARCHIVE


class Instances:
    """What is known of each instance of a study, by its key.

    Args:
        study: its records.
        spool: folder of the received instances.
    """

    def __init__(self, study: CollectedStudy, spool: Path) -> None:
        self._study = study
        self._spool = spool
        self._headers: dict[str, SourceHeader] = {}
        self._archived: dict[str, tuple[AuditedAction, ...]] = {}
        self._reencoded: dict[str, bool] = {}

    def read_headers(self) -> None:
        """Read every real header once more.

        Raises:
            OSError: if the file of an instance that is to be released cannot be read.
        """
        released = {chunk.placement.instance_key for chunk in self._study.chunks}
        for placement in placements_of(self._study):
            try:
                self._headers[placement.instance_key] = read_source_header(self._spool / placement.path)
            except OSError:
                # Of what was rejected unread nothing was written that could be searched.
                if placement.instance_key in released:
                    raise

    def originals(self) -> Originals:
        """Give the identifiers of all headers."""
        joined = Originals()
        for header in self._headers.values():
            joined |= header.originals
        return joined

    def note_archive(self, archive: StagedArchive) -> None:
        """Take over what was done to the instances of the archive."""
        for instance in archive.instances:
            key = instance.placement.instance_key
            counts = Counter(
                (keyword_of(Tag(action.path[-1])), action.rule, action.code) for action in instance.actions
            )
            self._archived[key] = tuple(
                AuditedAction(ARCHIVE, element, rule, code, count)
                for (element, rule, code), count in sorted(counts.items())
            )
            self._reencoded[key] = instance.is_reencoded

    def actions(self, instance_key: str, *, frames: int) -> Iterator[AuditedAction]:
        """List what was done to an instance, for the tables and for the archive."""
        header = self._headers.get(instance_key)
        if header is not None:
            yield from table_actions(header.elements, frames=frames)
        yield from self._archived.get(instance_key, ())

    def is_reencoded(self, instance_key: str) -> bool | None:
        """Say whether the archive's copy was encoded again; None where there is none."""
        return self._reencoded.get(instance_key)


def placements_of(study: CollectedStudy) -> list[Placement]:
    """List the instances of a study, each once, in order."""
    placements = {record.placement.instance_key: record.placement for record in study.chunks}
    placements |= {record.placement.instance_key: record.placement for record in study.rejections}
    return sorted(placements.values(), key=lambda placement: (placement.series_key, placement.instance_key))
