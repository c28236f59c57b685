"""Decide which stored apical four-chamber frames go into the unlabeled pool.

Pure and small: the rules, the order in which they apply, and `select`, which applies them to
candidates that fit in memory. `beam_jobs.pool` applies the same rules key by key to any number of
them, and a test holds the two together.

Every choice between frames goes to the lowest `Candidate.rank`, a hash of the frame's own identity.
So what is kept depends on the set of candidates alone, never on their order, on the clock or on how
the work was split; and within a study the choice is spread over clips and phases of the cycle
instead of taking the first frames of the first clip.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b, sha256
from typing import Final

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS

FRAME_BYTES: Final = FRAME_ROWS * FRAME_COLUMNS


class Rule(StrEnum):
    """The rules in the order they apply: a frame is counted under the first that drops it."""

    NOT_IN_RESULTS = "not_in_results"
    """The frames table has no such apical four-chamber frame: its study was redone or removed."""
    LOW_CONFIDENCE = "low_confidence"
    SMALL_FIELD_OF_VIEW = "small_field_of_view"
    DUPLICATE = "duplicate"
    OVER_STUDY_CAP = "over_study_cap"
    OVER_SUBJECT_CAP = "over_subject_cap"
    CHANGED_MEANWHILE = "changed_meanwhile"
    """The file was replaced by a new revision between the choice and the copy."""


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """What a frame must satisfy to be in the pool.

    Attributes:
        min_view_confidence: least probability of apical four chamber, 0 to 1.
        min_fov_area_ratio: least part of the frame inside the field of view, 0 to 1.
        max_frames_per_study: most frames of one study, so that long cines do not rule.
        max_frames_per_subject: most frames of one subject, over all its studies.
    """

    min_view_confidence: float = 0.6
    min_fov_area_ratio: float = 0.05
    max_frames_per_study: int = 200
    max_frames_per_subject: int = 400

    def __post_init__(self) -> None:
        """Refuse rules that cannot be meant.

        Raises:
            ValueError: a ratio outside 0 to 1, or a cap below 1.
        """
        for name in ("min_view_confidence", "min_fov_area_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, received {value}")
        for name in ("max_frames_per_study", "max_frames_per_subject"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One stored frame, without its pixels.

    Attributes:
        pixel_digest: hexadecimal digest of the frame's pixels; equal pixels, equal digest.
        source: the file that has the pixels, relative to the folder of stored frames.
    """

    subject_key: str
    study_key: str
    instance_key: str
    frame_index: int
    view_confidence: float
    fov_area_ratio: float
    pixel_digest: str
    source: str

    @property
    def frame_key(self) -> str:
        """Name this frame among all frames."""
        return frame_key(self.instance_key, self.frame_index)

    @property
    def rank(self) -> tuple[bytes, str]:
        """Order candidates by a hash of their identity; the lowest is chosen first."""
        return blake2b(self.frame_key.encode(), digest_size=8).digest(), self.frame_key


def frame_key(instance_key: str, frame_index: int) -> str:
    """Name a frame among all frames: its instance's key and its index within it."""
    return f"{instance_key}/{frame_index:06d}"


def pixel_digest(pixels: bytes) -> str:
    """Digest a frame's pixels, so that exact duplicates can be found without keeping them.

    Args:
        pixels: 120 x 160 bytes, row by row.

    Raises:
        ValueError: another number of bytes.
    """
    if len(pixels) != FRAME_BYTES:
        raise ValueError(
            f"a stored frame must have {FRAME_BYTES} bytes (120 x 160), received {len(pixels)}; "
            "the file was not written by this version"
        )
    return blake2b(pixels, digest_size=16).hexdigest()


def broken_rule(candidate: Candidate, rules: SelectionRules) -> Rule | None:
    """Name the first rule that this frame breaks by itself, whatever the others are."""
    if candidate.view_confidence < rules.min_view_confidence:
        return Rule.LOW_CONFIDENCE
    if candidate.fov_area_ratio < rules.min_fov_area_ratio:
        return Rule.SMALL_FIELD_OF_VIEW
    return None


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, and how many frames each rule dropped.

    Attributes:
        kept: sorted by study, instance and frame.
        dropped: frames by the first rule that dropped them; rules that dropped none are absent.
    """

    kept: tuple[Candidate, ...]
    dropped: Mapping[Rule, int]


def select(candidates: Iterable[Candidate], in_results: frozenset[str], rules: SelectionRules) -> Selection:
    """Apply the rules to candidates that fit in memory.

    Args:
        candidates: stored frames, in any order.
        in_results: the `frame_key` of every apical four-chamber frame in the frames table.
        rules: what a frame must satisfy.
    """
    dropped: dict[Rule, int] = defaultdict(int)
    passing: list[Candidate] = []
    for candidate in candidates:
        rule = broken_rule(candidate, rules)
        if candidate.frame_key not in in_results:
            rule = Rule.NOT_IN_RESULTS
        if rule is None:
            passing.append(candidate)
        else:
            dropped[rule] += 1

    for rule, key, limit in (
        (Rule.DUPLICATE, "pixel_digest", 1),
        (Rule.OVER_STUDY_CAP, "study_key", rules.max_frames_per_study),
        (Rule.OVER_SUBJECT_CAP, "subject_key", rules.max_frames_per_subject),
    ):
        groups: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in passing:
            groups[getattr(candidate, key)].append(candidate)
        chosen = [c for group in groups.values() for c in sorted(group, key=lambda c: c.rank)[:limit]]
        if len(passing) > len(chosen):
            dropped[rule] = len(passing) - len(chosen)
        passing = chosen
    return Selection(tuple(sorted(passing, key=place)), dict(dropped))


def place(candidate: Candidate) -> tuple[str, str, int]:
    """Order frames as they lie in a dataset: by study, instance and frame."""
    return candidate.study_key, candidate.instance_key, candidate.frame_index


class Fingerprint:
    """A digest of a set of frames: their identities and pixels, whatever their order.

    The sum of SHA-256 values modulo 2**256, so that parts made apart can be added. It tells whether
    two datasets are the same; it is no proof against someone who forges frames.
    """

    def __init__(self, value: str = "0") -> None:
        self._sum = int(value, 16)

    def add(self, candidate: Candidate) -> None:
        """Take one frame into the set."""
        line = f"{candidate.subject_key}/{candidate.study_key}/{candidate.frame_key}/{candidate.pixel_digest}"
        self.join(sha256(line.encode()).hexdigest())

    def join(self, value: str) -> None:
        """Take the set with this fingerprint into the set."""
        self._sum = (self._sum + int(value, 16)) % (1 << 256)

    def hexdigest(self) -> str:
        """Give the fingerprint as 64 hexadecimal digits."""
        return f"{self._sum:064x}"
