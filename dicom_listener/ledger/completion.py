"""When a study is complete: a pure function of times and counts.

DICOM has no message that says a study is over, so it is inferred: no open association holds the study
and nothing came for a while, or it has been open for too long. An archive that can be asked how many
instances the study has makes this evidence: with as many here the study is complete at once, and with
fewer it is waited for.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CompletionRule:
    """The two bounds of the rule.

    Attributes:
        quiet_period_s: seconds without an instance after which an unheld study is complete.
        max_age_s: seconds after its first instance after which any study is complete.
    """

    quiet_period_s: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class ArchiveEvidence:
    """What the query peer said of a study: Number of Study Related Instances (0020,1208).

    Attributes:
        expected_instances: how many instances the archive has.
        asked_at: when it said so, seconds since the epoch.
    """

    expected_instances: int
    asked_at: float


def completion_reason(
    rule: CompletionRule,
    *,
    receiving_since: float,
    last_received_at: float,
    open_associations: int,
    now: float,
    instances: int = 0,
    evidence: ArchiveEvidence | None = None,
) -> str | None:
    """Say why a study is complete, or None while it is not.

    Args:
        rule: the bounds.
        receiving_since: when the first instance of this round came, seconds since the epoch.
        last_received_at: when the newest instance came, seconds since the epoch.
        open_associations: how many open associations brought instances of the study.
        now: seconds since the epoch.
        instances: how many instances of the study are here.
        evidence: what the archive said; None if it was not asked, does not know the study, or does not
            count.

    Returns:
        A sentence for the operator, or None.
    """
    compared = (
        "" if evidence is None else f"; {instances} came, the archive has {evidence.expected_instances}"
    )
    if now - receiving_since >= rule.max_age_s:
        return f"open for {rule.max_age_s:g} s, the longest allowed{compared}"
    if open_associations > 0:
        return None
    if evidence is not None and evidence.expected_instances > instances:
        return None  # more is to come, whenever it was asked
    # Asked before the newest instance, it may have counted one fewer than it has now.
    if (
        evidence is not None
        and evidence.expected_instances == instances
        and evidence.asked_at >= last_received_at
    ):
        return f"the archive has {instances} instances of it, and all of them are here"
    if now - last_received_at >= rule.quiet_period_s:
        return f"nothing came for {rule.quiet_period_s:g} s and no open association holds it{compared}"
    return None
