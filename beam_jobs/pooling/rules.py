"""Decide which stored frames go into the pool: what a frame must be by itself, and who of many stays.

The rules apply in the order of `Rule`. Exactly the lowest `References.ranks` of a study and of a subject
stay under a cap. Of a machine there may be millions: there whole ranges of rank stay, from the lowest up, so
that counting by range is enough; a cap is never exceeded, and may be missed by the few frames of one range.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_jobs.pooling.references import References
from beam_jobs.selection import SelectionRules

RANK_RANGES: Final = 1 << 16
"""Equal ranges of rank, in which the frames of a machine are counted."""
_RANGE_SHIFT: Final = np.uint64(48)

UNKNOWN_MACHINE: Final = "unknown"
"""Machine of a study whose manufacturer is not in the tables."""

Dropped = Mapping[str, int]
"""How many frames each rule dropped, by its name."""


class Rule(StrEnum):
    """The rules in the order they apply: a frame is counted under the first that drops it."""

    NOT_IN_RESULTS = "not_in_results"
    """The frames table has no such apical four-chamber frame: its study was redone or removed."""
    HELD_OUT_SUBJECT = "held_out_subject"
    """Labeled frames of the subject judge models: none may learn from any of its frames."""
    UNKNOWN_VIEW = "unknown_view"
    """The open-set filter says that the frame is none of the views."""
    LOW_CONFIDENCE = "low_confidence"
    SMALL_FIELD_OF_VIEW = "small_field_of_view"
    SMALL_LEFT_VENTRICLE = "small_left_ventricle"
    DUPLICATE = "duplicate"
    OVER_STUDY_CAP = "over_study_cap"
    OVER_SUBJECT_CAP = "over_subject_cap"
    OVER_MACHINE_CAP = "over_machine_cap"
    OVER_BALANCED_SHARE = "over_balanced_share"
    """The pool is full, and the machine has its share of it."""
    CHANGED_MEANWHILE = "changed_meanwhile"
    """The file was replaced by a new revision between the choice and the copy."""


@dataclass(frozen=True, slots=True)
class PoolRules(SelectionRules):
    """What a frame must satisfy to be in the pool.

    A machine is the manufacturer of the scanner as the tables have it, from a closed list: the only thing
    about the device that is in the de-identified zone.

    Attributes:
        known_only: whether to leave out frames that the open-set filter does not know; a frame of a table
            without its column counts as known.
        min_lv_area_ratio: least part of the frame inside the left ventricle, 0 to 1; 0 takes frames without
            a visible one too.
        max_frames_per_machine: most frames of one machine; None for no cap.
        max_frames: most frames in all; None for no cap. Where more pass, each machine gets an equal share,
            and what one does not fill goes to the others.
    """

    known_only: bool = True
    min_lv_area_ratio: float = 0.0
    max_frames_per_machine: int | None = None
    max_frames: int | None = 200_000

    def __post_init__(self) -> None:
        """Refuse rules that cannot be meant.

        Raises:
            ValueError: a ratio outside 0 to 1, or a cap below 1.
        """
        SelectionRules.__post_init__(self)  # super() does not know a class with slots
        if not 0 <= self.min_lv_area_ratio <= 1:
            raise ValueError(f"min_lv_area_ratio must be from 0 to 1, received {self.min_lv_area_ratio}")
        for name in ("max_frames_per_machine", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")

    @classmethod
    def extend(cls, rules: SelectionRules) -> "PoolRules":
        """Take rules as they are; what they do not say has its default."""
        return rules if isinstance(rules, cls) else cls(**asdict(rules))


@dataclass(frozen=True, slots=True, eq=False)
class FrameFacts:
    """What is known of stored frames beside their references: columns of N.

    Attributes:
        in_results: bool; the frames table calls it apical four chamber, or unknown.
        held_out: bool; its subject judges models.
        known: bool; the open-set filter knows it.
        view_confidence: float32, probability of apical four chamber.
        fov_area_ratio: float32, 0 to 1.
        lv_area_ratio: float32, 0 to 1; NaN counts as none.
    """

    in_results: npt.NDArray[np.bool_]
    held_out: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    view_confidence: npt.NDArray[np.float32]
    fov_area_ratio: npt.NDArray[np.float32]
    lv_area_ratio: npt.NDArray[np.float32]


def satisfy(facts: FrameFacts, rules: PoolRules) -> tuple[npt.NDArray[np.bool_], Dropped]:
    """Apply the rules that look at one frame at a time.

    Returns:
        which frames satisfy them, [N], bool, and how many each rule dropped first.
    """
    lv_area_ratio = np.nan_to_num(facts.lv_area_ratio, nan=0.0)
    passing = np.ones(len(facts.in_results), bool)
    dropped: dict[str, int] = {}
    for rule, satisfied in (
        (Rule.NOT_IN_RESULTS, facts.in_results),
        (Rule.HELD_OUT_SUBJECT, ~facts.held_out),
        (Rule.UNKNOWN_VIEW, facts.known if rules.known_only else np.ones_like(passing)),
        (Rule.LOW_CONFIDENCE, facts.view_confidence >= np.float32(rules.min_view_confidence)),
        (Rule.SMALL_FIELD_OF_VIEW, facts.fov_area_ratio >= np.float32(rules.min_fov_area_ratio)),
        (Rule.SMALL_LEFT_VENTRICLE, lv_area_ratio >= np.float32(rules.min_lv_area_ratio)),
    ):
        dropped[rule] = int((passing & ~satisfied).sum())
        passing &= satisfied
    return passing, dropped


def cap(references: References, rules: PoolRules) -> tuple[References, Dropped]:
    """Apply the caps per study and then per subject to all frames of some subjects."""
    by_study = references.take(references.lowest("study_key", rules.max_frames_per_study))
    by_subject = by_study.take(by_study.lowest("subject_key", rules.max_frames_per_subject))
    return by_subject, {
        Rule.OVER_STUDY_CAP: len(references) - len(by_study),
        Rule.OVER_SUBJECT_CAP: len(by_study) - len(by_subject),
    }


# --- machines ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Up to which range of rank the frames of each machine stay.

    Attributes:
        cap: by machine; at and over this range a frame is over the machine's cap.
        share: by machine; at and over this one the machine has its share.
        frames: how many frames stay of all machines.
    """

    cap: Mapping[str, int]
    share: Mapping[str, int]
    frames: int


def ranges_by_machine(references: References) -> dict[str, npt.NDArray[np.uint16]]:
    """Give the range of rank of each frame, by machine: [N of that machine], uint16."""
    ranges = _ranges(references)
    return {
        machine.decode(): ranges[references.rows["machine"] == machine]
        for machine in np.unique(references.rows["machine"])
    }


def count_ranges(blocks: Iterable[npt.NDArray[np.uint16]]) -> npt.NDArray[np.int64]:
    """Count the frames of a machine by range of rank: [RANK_RANGES], int64."""
    counts = np.zeros(RANK_RANGES, np.int64)
    for ranges in blocks:
        counts += np.bincount(ranges, minlength=RANK_RANGES)
    return counts


def set_limits(counts: Mapping[str, npt.NDArray[np.int64]], rules: PoolRules) -> Limits:
    """Find the limits that keep each machine's cap, and share out the pool where more frames pass.

    Args:
        counts: by machine, as `count_ranges` gives them.
        rules: the caps.
    """
    stay = {machine: np.cumsum(by_range) for machine, by_range in counts.items()}
    capped = {machine: _whole_ranges(up_to, rules.max_frames_per_machine) for machine, up_to in stay.items()}
    shares = share_out({machine: _up_to(stay[machine], limit) for machine, limit in capped.items()}, rules)
    shared = {machine: _whole_ranges(up_to, shares[machine]) for machine, up_to in stay.items()}
    return Limits(capped, shared, sum(_up_to(stay[machine], limit) for machine, limit in shared.items()))


def share_out(available: Mapping[str, int], rules: PoolRules) -> dict[str, int]:
    """Share out the pool in equal parts; what a machine does not fill goes to those that have more."""
    if rules.max_frames is None:
        return dict(available)
    shares: dict[str, int] = {}
    left = rules.max_frames
    for number, machine in enumerate(sorted(available, key=lambda name: (available[name], name))):
        shares[machine] = min(available[machine], left // (len(available) - number))
        left -= shares[machine]
    return shares


def keep_within(references: References, limits: Limits) -> tuple[References, Dropped]:
    """Drop what is over the limit of its machine."""
    ranges = _ranges(references)
    machines, which = np.unique(references.rows["machine"], return_inverse=True)
    caps, shares = (
        np.array([by_machine[machine.decode()] for machine in machines], np.int64)[which]
        for by_machine in (limits.cap, limits.share)
    )
    under_cap, within_share = ranges < caps, ranges < shares  # no share is over its cap
    return references.take(within_share), {
        Rule.OVER_MACHINE_CAP: int((~under_cap).sum()),
        Rule.OVER_BALANCED_SHARE: int((under_cap & ~within_share).sum()),
    }


def _ranges(references: References) -> npt.NDArray[np.uint16]:
    return (references.ranks() >> _RANGE_SHIFT).astype(np.uint16)


def _whole_ranges(up_to: npt.NDArray[np.int64], limit: int | None) -> int:
    """Count the leading ranges that together have at most so many frames."""
    return RANK_RANGES if limit is None else int(np.searchsorted(up_to, limit, side="right"))


def _up_to(up_to: npt.NDArray[np.int64], ranges: int) -> int:
    """Count the frames of so many leading ranges."""
    return int(up_to[ranges - 1]) if ranges else 0
