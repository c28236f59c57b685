"""What is asked of a frame before it goes into an unlabeled pool, and how a set of frames is named.

Pure and small. `beam_jobs.pooling.rules` applies the rules to any number of stored apical four-chamber
frames, `beam_jobs.nightly.view_pool` to the clips of the archive.
"""

from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Final

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS

FRAME_BYTES: Final = FRAME_ROWS * FRAME_COLUMNS


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
        return f"{self.instance_key}/{self.frame_index:06d}"


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
