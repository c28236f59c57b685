"""When a study is complete: a pure function of times and counts.

DICOM has no message that says a study is over, so it is inferred: no open association holds the
study and nothing came for a while, or it has been open for too long.
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


def completion_reason(
    rule: CompletionRule,
    *,
    receiving_since: float,
    last_received_at: float,
    open_associations: int,
    now: float,
) -> str | None:
    """Say why a study is complete, or None while it is not.

    Args:
        rule: the bounds.
        receiving_since: when the first instance of this round came, seconds since the epoch.
        last_received_at: when the newest instance came, seconds since the epoch.
        open_associations: how many open associations brought instances of the study.
        now: seconds since the epoch.

    Returns:
        A sentence for the operator, or None.
    """
    if now - receiving_since >= rule.max_age_s:
        return f"open for {rule.max_age_s:g} s, the longest allowed"
    if open_associations == 0 and now - last_received_at >= rule.quiet_period_s:
        return f"nothing came for {rule.quiet_period_s:g} s and no open association holds it"
    return None
