"""What travels through the pipeline: small, immutable and without a patient.

Everything here is in the de-identified zone: keys are keyed hashes, dates are shifted, paths are
made of content digests. A record that closes an instance says how many parts the instance had, and
every record says how many instances its study has, so the end of a study is known without a window.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

FRAME_ROWS: Final = 120
FRAME_COLUMNS: Final = 160
CHUNK_FRAMES: Final = 512
"""The most frames one chunk holds; longer cines travel as several chunks (10 MB each at most)."""


class Reason(StrEnum):
    """Why an instance, or the rest of one, was not processed."""

    MISSING_FILE = "missing_file"
    DIGEST_MISMATCH = "digest_mismatch"
    UNREADABLE_HEADER = "unreadable_header"
    NO_PIXELS = "no_pixels"
    NOT_ULTRASOUND = "not_ultrasound"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_LARGE = "too_large"
    NO_IMAGE_REGION = "no_image_region"
    CORRUPT_PIXELS = "corrupt_pixels"
    TRUNCATED_PIXELS = "truncated_pixels"


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """One instance of a claimed study, by keys and by its place in the spool.

    Attributes:
        path: relative to the spool's root; made of a digest, never of a UID.
        sha256: hexadecimal digest of the file, as the ledger has it.
    """

    series_key: str
    instance_key: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class StudyClaim:
    """A study this worker holds under a lease.

    Attributes:
        claim_token: names this claim in the ledger; a newer claim of the same study has another.
    """

    claim_token: str
    study_key: str
    subject_key: str
    revision: int
    instances: tuple[InstanceReference, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a record belongs: its claim, study, series and instance.

    Attributes:
        instances_in_study: how many instances must close before the study can be written.
    """

    claim_token: str
    study_key: str
    subject_key: str
    revision: int
    instances_in_study: int
    series_key: str
    instance_key: str


@dataclass(frozen=True, slots=True)
class ClipHeader:
    """What is kept of an instance's header: allow-listed, de-identified, typed.

    Attributes:
        study_date: ISO date shifted by the subject's own number of days, or None.
        patient_age_years: whole years, 90 stands for 90 and over, or None.
        patient_sex: "M", "F", "O" or None.
        dicom_mode: "2d", "colour", "pw", "cw", "mmode" or "unknown", from regions and ImageType.
        number_of_frames: as declared by the header.
        frame_time_ms: time between frames in milliseconds, or None for a still.
        rows: height of a decoded frame in pixels.
        columns: width of a decoded frame in pixels.
    """

    study_date: str | None
    patient_age_years: int | None
    patient_sex: str | None
    sop_class: str
    transfer_syntax: str
    manufacturer: str | None
    dicom_mode: str
    number_of_frames: int
    frame_time_ms: float | None
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Consecutive frames of one instance, clean and small.

    Attributes:
        first_frame_index: index within the instance of `frames[0]`.
        frames: [N, 120, 160], uint8, 0 is black; N is at most `CHUNK_FRAMES`. Pixels outside the
            ultrasound regions and the image fan are 0.
        parts: 0, or on the record that closes the instance the number of its records.
    """

    placement: Placement
    header: ClipHeader
    first_frame_index: int
    frames: npt.NDArray[np.uint8]
    parts: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """An instance, or the rest of one, that was not processed.

    Attributes:
        stage: the transform that rejected it.
        frames_kept: how many of its frames had been read before.
        parts: always the number of records of the instance: a rejection closes it.
    """

    placement: Placement
    stage: str
    reason: Reason
    frames_kept: int
    parts: int
