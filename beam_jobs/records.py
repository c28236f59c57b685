"""What travels through the pipeline: small, immutable and without a patient.

Everything here is in the de-identified zone: keys are keyed hashes, dates are shifted, paths are
made of content digests. A record that closes an instance says how many parts the instance had, and
every record says how many instances its study has, so the end of a study is known without a window.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

FRAME_ROWS: Final = 120
FRAME_COLUMNS: Final = 160
CHUNK_FRAMES: Final = 512
"""The most frames one chunk holds; longer cines travel as several chunks (10 MB each at most)."""


Precision = Literal["float32", "bfloat16"]
"""What networks compute in."""

EndDiastole = Literal["first_frames", "largest_lv"]
"""Which frames of a clip show end-diastole: its first two, as the R wave triggers it and the paper has it, or
the two in which the left ventricle is largest."""


class Reason(StrEnum):
    """Why an instance, or the rest of one, was not processed."""

    MISSING_FILE = "missing_file"
    DIGEST_MISMATCH = "digest_mismatch"
    UNREADABLE_HEADER = "unreadable_header"
    NO_PIXELS = "no_pixels"
    NOT_ULTRASOUND = "not_ultrasound"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    NO_VIDEO_DECODER = "no_video_decoder"
    TOO_LARGE = "too_large"
    NO_IMAGE_REGION = "no_image_region"
    CORRUPT_PIXELS = "corrupt_pixels"
    TRUNCATED_PIXELS = "truncated_pixels"
    UNREAD_TEXT = "unread_text"


class QuarantineReason(StrEnum):
    """Why nothing of a study was released, though it was processed."""

    ORIGINAL_FOUND = "original_found"  # an identifier of its headers is in what was written
    UNEXPECTED_VALUE = "unexpected_value"  # a column holds what it may not
    TEXT_IN_PIXELS = "text_in_pixels"  # a frame to be released shows words
    NEEDS_REVIEW = "needs_review"  # the configuration wants a person to look at such a clip first
    VERIFIER_FAILED = "verifier_failed"  # it could not be checked


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
        path: of the instance, relative to the spool's root; made of a digest, never of a UID.
    """

    claim_token: str
    study_key: str
    subject_key: str
    revision: int
    instances_in_study: int
    series_key: str
    instance_key: str
    path: str = ""


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
        needs_review: whether the header's regions are missing or odd, so that what is kept of the
            screen rests on its pixels alone, or there may be text in it that could not be read: a person
            should look at such a clip.
        text_boxes: boxes of text within the image that were blacked out, as left, top, right and bottom in
            pixels of a full-size frame; None where nobody looked.
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
    needs_review: bool = False
    text_boxes: tuple[tuple[int, int, int, int], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Consecutive frames of one instance, clean and small.

    Attributes:
        first_frame_index: index within the instance of `frames[0]`.
        frames: [N, 120, 160], uint8, 0 is black; N is at most `CHUNK_FRAMES`. Pixels outside the
            ultrasound regions and the image fan are 0.
        parts: 0, or on the record that closes the instance the number of its records.
        frame_times_ms: [N], float64: time from each frame to the next, NaN where unknown.
    """

    placement: Placement
    header: ClipHeader
    first_frame_index: int
    frames: npt.NDArray[np.uint8]
    parts: int
    frame_times_ms: npt.NDArray[np.float64] = field(kw_only=True)


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


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedChunk(Chunk):
    """A chunk whose field of view is known.

    Attributes:
        fov_masks: [1, 120, 160] where one mask serves every frame, or [N, 120, 160], bool.
        fov_model: name of the bundle that drew them.
    """

    fov_masks: npt.NDArray[np.bool_]
    fov_model: str


@dataclass(frozen=True, slots=True, eq=False)
class ClassifiedChunk(SegmentedChunk):
    """A segmented chunk whose views are known.

    Attributes:
        view_probabilities: [N, 15], float32, in the order of `VIEWS`; each row sums to 1.
        view_known: [N], bool, False where a frame is like none of the views.
        view_model: name of the bundle that named the views.
    """

    view_probabilities: npt.NDArray[np.float32]
    view_known: npt.NDArray[np.bool_]
    view_model: str


@dataclass(frozen=True, slots=True, eq=False)
class OutlinedChunk(ClassifiedChunk):
    """A classified chunk with the left ventricle of its apical four-chamber frames.

    Attributes:
        a4c_indexes: [M], int64, ascending: which of the chunk's frames are known to be apical four chamber.
        lv_masks: [M, 120, 160], bool: the left ventricle within the epicardium of those frames.
        lv_model: name of the bundle that drew them, or None where M is 0.
    """

    a4c_indexes: npt.NDArray[np.int64]
    lv_masks: npt.NDArray[np.bool_]
    lv_model: str | None


@dataclass(frozen=True, slots=True, eq=False)
class AssessedChunk(OutlinedChunk):
    """An outlined chunk with everything the models say about it.

    Attributes:
        lvh_probabilities: [N], float32, NaN where a frame was not assessed.
        lvh_model: name of the bundle that assessed them, or None where no frame was.
    """

    lvh_probabilities: npt.NDArray[np.float32]
    lvh_model: str | None


@dataclass(frozen=True, slots=True, eq=False)
class PredictedChunk:
    """What is left of a chunk once the models have seen it: the only record that crosses a shuffle.

    Attributes:
        first_frame_index: index within the instance of the first of its N frames.
        parts: 0, or on the record that closes the instance the number of its records.
        frame_times_ms: [N], float64: time from each frame to the next, NaN where unknown.
        fov_area_ratios: [N], float32: share of the picture inside the field of view.
        view_probabilities: [N, 15], float32, in the order of `VIEWS`.
        view_known: [N], bool, False where a frame is like none of the views.
        lv_area_ratios: [N], float32: share of the picture inside the left ventricle, NaN where the
            frame is not apical four chamber.
        lvh_probabilities: [N], float32, NaN where a frame was not assessed.
        pool_indexes: [P], int64, ascending: which frames travel on to the pool.
        pool_frames: [P, 120, 160], uint8: those frames, 0 outside the field of view.
    """

    placement: Placement
    header: ClipHeader
    first_frame_index: int
    parts: int
    frame_times_ms: npt.NDArray[np.float64]
    fov_area_ratios: npt.NDArray[np.float32]
    view_probabilities: npt.NDArray[np.float32]
    view_known: npt.NDArray[np.bool_]
    lv_area_ratios: npt.NDArray[np.float32]
    lvh_probabilities: npt.NDArray[np.float32]
    fov_model: str
    view_model: str
    lv_model: str | None
    lvh_model: str | None
    pool_indexes: npt.NDArray[np.int64]
    pool_frames: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class CollectedStudy:
    """Every record of one study under one claim, in an order that does not depend on arrival."""

    claim_token: str
    study_key: str
    subject_key: str
    revision: int
    chunks: tuple[PredictedChunk, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """What was written of one study, for its log line and the metrics.

    A log line has the real time, so the study's key is not in it: together they would tell by how much
    the study's dates were shifted.

    Attributes:
        committed: False where the claim had been lost meanwhile, so that nothing was written.
        quarantined: why nothing was released, None where everything was.
        frames_by_view: number of frames of each view that occurs.
        confidence_counts: number of frames by tenth of their view confidence, ten entries.
        confidence_sum: sum of the view confidences of all frames.
        rejections_by_reason: number of rejections of each reason that occurs.
        models: names of the bundles that were used, sorted.
    """

    claim_token: str
    revision: int
    committed: bool
    quarantined: QuarantineReason | None
    clips: int
    frames: int
    frames_by_view: dict[str, int]
    confidence_counts: tuple[int, ...]
    confidence_sum: float
    rejections_by_reason: dict[str, int]
    models: tuple[str, ...]
