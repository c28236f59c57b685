"""Deleting files of the spool that nobody needs any more, by age or by size.

Only of studies whose latest revision is done: their results are in the tables. The rows stay, so that
an instance which comes again is known, and kept anew. Never a file that a storage commitment promises to
keep, nor one that a commitment was just asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from dicom_listener.ledger import Ledger
from dicom_listener.ledger.arrivals import SpoolFiles
from dicom_listener.ledger.pruning import PruneChoice, PruneRule
from dicom_listener.settings import ListenerSettings

DAY_S: Final = 86400.0
_EVERY_S: Final = 3600.0
_STUDIES_AT_ONCE: Final = 20
"""So few that the housekeeper's other chores do not wait."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """What may go.

    Attributes:
        older_than_s: files of studies that were done, and files that came, so long ago; None for no age.
        down_to_bytes: as many more, of the studies that were done first, as make the spool this small;
            None for no size.
        requires_commitment: only files whose storage commitment was asked for and reported.
        commitment_keep_s: how long a file is kept after its commitment; None for ever.
    """

    older_than_s: float | None = None
    down_to_bytes: int | None = None
    requires_commitment: bool = False
    commitment_keep_s: float | None = None

    @classmethod
    def of(cls, settings: ListenerSettings) -> "RetentionRule":
        """Take the rule from the configuration."""
        return cls(
            older_than_s=_seconds(settings.prune_after_days),
            down_to_bytes=settings.prune_above_bytes,
            requires_commitment=settings.retention_requires_commitment,
            commitment_keep_s=_seconds(settings.commitment_keep_days),
        )

    def received_before(self, received_before: float, *, now: float) -> PruneRule:
        """Narrow the rule to files that came before."""
        keep_s = self.commitment_keep_s
        return PruneRule(
            received_before=received_before,
            requires_commitment=self.requires_commitment,
            promised_before=None if keep_s is None else now - keep_s,
        )


@dataclass(frozen=True, slots=True)
class PrunedStudy:
    """What was deleted, or would be, of one study."""

    study_instance_uid: str
    done_at: float
    files: int
    size_bytes: int


@dataclass(slots=True)
class PruneReport:
    """What was deleted, or would be.

    Attributes:
        studies: those that lost files, in the order of their deletion.
        kept_for_commitment: files that were old enough, or needed for the size, and are kept because of
            a commitment or for want of one.
        spool_bytes: size of the spool afterwards.
    """

    studies: list[PrunedStudy] = field(default_factory=list)
    kept_for_commitment: int = 0
    spool_bytes: int = 0

    @property
    def files(self) -> int:
        """How many files were deleted."""
        return sum(study.files for study in self.studies)

    @property
    def size_bytes(self) -> int:
        """How large they were together."""
        return sum(study.size_bytes for study in self.studies)


def prune(
    root: Path, ledger: Ledger, rule: RetentionRule, *, now: float, dry_run: bool = False
) -> PruneReport:
    """Delete what may go, study by study. Killed at any moment it can be run again.

    Args:
        root: the spool.
        ledger: the ledger.
        rule: what may go.
        now: seconds since the epoch.
        dry_run: delete nothing, and say what would be.

    Raises:
        LedgerUnavailableError: if the ledger cannot be read or written.
        OSError: if a file cannot be deleted; it is found again at the next start.
    """
    run = _Run(root, ledger, rule, now=now, dry_run=dry_run)
    for _ in run.steps():
        pass
    return run.report


class _Run:
    """One pass over the studies that are done, a study at a step."""

    def __init__(self, root: Path, ledger: Ledger, rule: RetentionRule, *, now: float, dry_run: bool) -> None:
        self.report = PruneReport()
        self._files = SpoolFiles(root)
        self._ledger = ledger
        self._rule = rule
        self._now = now
        self._dry_run = dry_run
        self._counted: set[str] = set()  # paths that a dry run has chosen already

    def steps(self) -> Iterator[PrunedStudy | None]:
        """Go on by one study at a time, and give what was deleted of it."""
        rule, now = self._rule, self._now
        self.report.spool_bytes = self._ledger.spool_bytes()
        if rule.older_than_s is not None:
            yield from self._prune_studies(before=now - rule.older_than_s, down_to_bytes=0)
        if rule.down_to_bytes is not None:
            yield from self._prune_studies(before=now, down_to_bytes=rule.down_to_bytes)

    def _prune_studies(self, *, before: float, down_to_bytes: int) -> Iterator[PrunedStudy | None]:
        rule = self._rule.received_before(before, now=self._now)
        after: tuple[float, str] | None = None
        kept = 0
        while page := self._ledger.done_studies(done_before=before, after=after):
            for done_at, uid in page:
                if self.report.spool_bytes <= down_to_bytes:
                    return
                choice = self._choose(uid, rule)
                kept += choice.kept_for_commitment
                # The pass by size sees again what the pass by age kept.
                self.report.kept_for_commitment = max(kept, self.report.kept_for_commitment)
                yield self._count(uid, done_at, choice)
            after = page[-1]

    def _choose(self, uid: str, rule: PruneRule) -> PruneChoice:
        choice = self._ledger.choose_prunable(uid, rule)
        if choice.chosen and not self._dry_run:
            choice = self._ledger.mark_pruned(uid, rule, now=self._now)
            self._ledger.delete_pruned(choice.chosen, rule, self._files)
        return choice

    def _count(self, uid: str, done_at: float, choice: PruneChoice) -> PrunedStudy | None:
        gone = [content for content in choice.chosen if content.path not in self._counted]
        if not gone:
            return None
        if self._dry_run:
            self._counted.update(content.path for content in gone)
        pruned = PrunedStudy(uid, done_at, len(gone), sum(content.size_bytes for content in gone))
        self.report.studies.append(pruned)
        self.report.spool_bytes -= pruned.size_bytes
        return pruned


def pruning(
    root: Path, ledger: Ledger, rule: RetentionRule, observe: Callable[[PrunedStudy], None]
) -> Callable[[float], None]:
    """Make the chore that prunes the spool, once an hour, a few studies each time it is done.

    Args:
        root: the spool.
        ledger: the ledger.
        rule: what may go; without an age and a size nothing does.
        observe: told of each study that lost files.
    """
    is_on = rule.older_than_s is not None or rule.down_to_bytes is not None
    due_at = 0.0
    run: _Run | None = None
    steps: Iterator[PrunedStudy | None] = iter(())

    def do(now: float) -> None:
        nonlocal due_at, run, steps
        if run is None:
            if not is_on or now < due_at:
                return
            due_at = now + _EVERY_S
            run = _Run(root, ledger, rule, now=now, dry_run=False)
            steps = run.steps()
        current, run = run, None  # whatever is raised ends the pass, until the next hour
        for _ in range(_STUDIES_AT_ONCE):
            try:
                pruned = next(steps)
            except StopIteration:
                _tell(current.report)
                return
            except OSError as error:
                _log.error("spool_not_pruned", error=error.strerror)
                return
            if pruned is not None:
                observe(pruned)
        run = current

    return do


def _tell(report: PruneReport) -> None:
    if report.studies:
        _log.info(
            "spool_pruned",
            studies=len(report.studies),
            files=report.files,
            pruned_bytes=report.size_bytes,
            kept_for_commitment=report.kept_for_commitment,
            spool_bytes=report.spool_bytes,
        )


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_S
