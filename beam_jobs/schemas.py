"""The Arrow schemas of everything that is written, with a description and a unit for each column.

The data dictionary is generated from these. A column is here or it does not exist: no value reaches
a file under another name, and none of these names belongs to the identified zone.
"""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, EndDiastole
from echo_models.views import VIEWS

NO_STUDY_YEAR: Final = 0
"""The partition `study_year=0` holds studies of which no date was kept."""

LVH_RULES: Final[Mapping[EndDiastole, str]] = {
    "first_frames": "mean over a4c clips of the mean over the a4c frames among their first two",
    "largest_lv": "mean over a4c clips of the mean over the two frames with the largest left ventricle",
}
"""How `studies.lvh_probability` is made; named in the table, because it is a setting and rules change."""

UNKNOWN_VIEW: Final = "unknown"
"""View of a frame, or clip, that is like none of the fifteen."""

CONFIDENCE_TENTHS: Final = 10
"""Confidences are counted by tenths in metrics."""

VIEW_RULE: Final = (
    "highest mean probability over the known frames of the clip; unknown if no more than half are known"
)
"""How `clips.view` is made."""


def _field(
    name: str, kind: pa.DataType, description: str, unit: str = "", *, nullable: bool = False
) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description, "unit": unit})


def _schema(description: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"description": description})


_RATIO: Final = "ratio 0 to 1"
_PROBABILITY: Final = "probability 0 to 1"

_SUBJECT: Final = (
    _field("subject_key", pa.string(), "Keyed hash that names the subject; the same in all its studies."),
    _field("study_key", pa.string(), "Keyed hash that names the study."),
)
_KEYS: Final = (
    *_SUBJECT,
    _field("series_key", pa.string(), "Keyed hash that names the series."),
    _field("instance_key", pa.string(), "Keyed hash that names the instance (the clip or still)."),
)
_VIEW_PROBABILITIES: Final = pa.list_(pa.field("item", pa.float32(), nullable=False), len(VIEWS))
_MODELS: Final = (
    _field("fov_model", pa.string(), "Bundle that drew the field of view, as task-version."),
    _field("view_model", pa.string(), "Bundle that named the view, as task-version."),
    _field(
        "lv_model",
        pa.string(),
        "Bundle that outlined the left ventricle, as task-version; null where none was asked.",
        nullable=True,
    ),
    _field(
        "lvh_model",
        pa.string(),
        "Bundle that estimated hypertrophy, as task-version; null where none was asked.",
        nullable=True,
    ),
)
_DICOM_MODE: Final = _field(
    "dicom_mode",
    pa.string(),
    "What the header says the picture is: 2d, colour, pw, cw, mmode or unknown. A free label, not a result.",
)
_NEEDS_REVIEW: Final = (
    "the header's regions are missing or odd, or text could not be read: a person should look."
)
_MANUFACTURER: Final = _field(
    "manufacturer",
    pa.string(),
    "Maker of the scanner, from a closed list; null if none was kept.",
    nullable=True,
)

FRAMES_SCHEMA: Final = _schema(
    "One row for each frame that was read.",
    *_KEYS,
    _field("frame_index", pa.int32(), "Index of the frame within its instance, from 0."),
    _field(
        "frame_time_ms",
        pa.float64(),
        "Time from this frame to the next; null for a still or where the header does not say.",
        "ms",
        nullable=True,
    ),
    _DICOM_MODE,
    _field(
        "view",
        pa.string(),
        "The view with the highest probability, one of "
        + ", ".join(VIEWS)
        + f"; or {UNKNOWN_VIEW}, where the frame is like none of them.",
    ),
    _field(
        "view_confidence",
        pa.float32(),
        "The highest of `view_probabilities`: the probability of `view`, where that is known.",
        _PROBABILITY,
    ),
    _field(
        "view_probabilities",
        _VIEW_PROBABILITIES,
        "Probability of each view if it is one of them, in the order listed at `view`; calibrated if the "
        "model is.",
        _PROBABILITY,
    ),
    _field(
        "is_known",
        pa.bool_(),
        f"Whether the frame is like a view that the model knows; `view` is {UNKNOWN_VIEW} where not. Always "
        "true of a model that is not calibrated.",
    ),
    _field("fov_area_ratio", pa.float32(), "Share of the frame inside the field of view.", _RATIO),
    _field(
        "lv_area_ratio",
        pa.float32(),
        "Share of the frame inside the epicardium of the left ventricle; null unless the view is a4c.",
        _RATIO,
        nullable=True,
    ),
    _field(
        "lvh_probability",
        pa.float32(),
        "Probability of left ventricular hypertrophy; only for the two end-diastolic frames of an a4c clip.",
        _PROBABILITY,
        nullable=True,
    ),
    *_MODELS,
)

CLIPS_SCHEMA: Final = _schema(
    "One row for each instance of which at least one frame was read; a still is a clip of one frame.",
    *_KEYS,
    _field("sop_class", pa.string(), "Name of the SOP class."),
    _field("transfer_syntax", pa.string(), "Name of the transfer syntax it came in."),
    _MANUFACTURER,
    _DICOM_MODE,
    _field("rows", pa.int32(), "Height of a frame before it was shrunk.", "px"),
    _field("columns", pa.int32(), "Width of a frame before it was shrunk.", "px"),
    _field("number_of_frames_declared", pa.int32(), "Frames the header promises."),
    _field("number_of_frames", pa.int32(), "Frames that were read, which are the rows in `frames`."),
    _field(
        "frame_time_ms",
        pa.float64(),
        "Usual time from one frame to the next; null for a still or where the header does not say.",
        "ms",
        nullable=True,
    ),
    _field("needs_review", pa.bool_(), f"Whether {_NEEDS_REVIEW}"),
    _field("view", pa.string(), f"View of the clip: {VIEW_RULE}."),
    _field(
        "view_confidence",
        pa.float32(),
        "The highest of `view_probabilities`: the probability of `view`, where that is known.",
        _PROBABILITY,
    ),
    _field(
        "view_probabilities",
        _VIEW_PROBABILITIES,
        "Mean probability of each view over the known frames, over all if none is; in the order of "
        "`frames.view`.",
        _PROBABILITY,
    ),
    _field("known_ratio", pa.float32(), "Share of the frames with `is_known`.", _RATIO),
    _field(
        "view_agreement_ratio",
        pa.float32(),
        "Share of the frames whose own view is that of the clip.",
        _RATIO,
    ),
    _field("fov_area_ratio", pa.float32(), "Mean share of the frame inside the field of view.", _RATIO),
    _field("number_of_a4c_frames", pa.int32(), "Frames whose view is a4c."),
    _field(
        "lv_area_ratio",
        pa.float32(),
        "Mean of `lv_area_ratio` over the a4c frames; null without any.",
        _RATIO,
        nullable=True,
    ),
    _field(
        "lvh_probability",
        pa.float32(),
        "Mean of `lvh_probability` over the assessed frames; null without any.",
        _PROBABILITY,
        nullable=True,
    ),
    *_MODELS,
)

STUDIES_SCHEMA: Final = _schema(
    "One row for each study that was processed, also where all of it was rejected.",
    *_SUBJECT,
    _field("revision", pa.int32(), "How often the study has changed at its sender; the newest replaces."),
    _field(
        "study_date",
        pa.date32(),
        "Earliest date of its clips, shifted by the subject's own number of days; null if none was kept.",
        "day",
        nullable=True,
    ),
    _field("patient_age_years", pa.int32(), "Age; 90 stands for 90 and over.", "year", nullable=True),
    _field("patient_sex", pa.string(), "M, F or O; null if none was kept.", nullable=True),
    _MANUFACTURER,
    _field("number_of_instances", pa.int32(), "Instances received."),
    _field("number_of_clips", pa.int32(), "Instances of which at least one frame was read."),
    _field("number_of_frames", pa.int32(), "Frames read."),
    _field("number_of_rejections", pa.int32(), "Rows in `rejections`."),
    _field(
        "clips_by_view",
        pa.map_(pa.string(), pa.int32()),
        "Number of clips of each view that occurs, by view.",
    ),
    _field("number_of_lvh_clips", pa.int32(), "Clips with an `lvh_probability`."),
    _field(
        "lvh_probability",
        pa.float32(),
        "Probability of left ventricular hypertrophy of the study, by `lvh_rule`; null without an assessed "
        "clip.",
        _PROBABILITY,
        nullable=True,
    ),
    _field(
        "lvh_rule",
        pa.string(),
        "The rule that made `lvh_probability`; null where that is null.",
        nullable=True,
    ),
)

REJECTIONS_SCHEMA: Final = _schema(
    "One row for each instance that was not processed, or not to its end.",
    *_KEYS,
    _field("stage", pa.string(), "The step that rejected it."),
    _field("reason", pa.string(), "Reason code."),
    _field("frames_kept", pa.int32(), "Frames read before; they are in `frames`."),
)

_COUNT: Final = pa.field("count", pa.int32(), nullable=False)
_ACTION: Final = pa.struct(
    [
        pa.field("output", pa.string(), nullable=False),
        pa.field("element", pa.string(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("action", pa.string(), nullable=False),
        pa.field("elements", pa.int32(), nullable=False),
    ]
)
_FINDING: Final = pa.struct(
    [pa.field("kind", pa.string(), nullable=False), pa.field("place", pa.string(), nullable=False), _COUNT]
)

AUDIT_SCHEMA: Final = _schema(
    "One row for each instance of a study that was processed or quarantined: what was done to its header "
    "and pixels, by which rules, and what the verifier found.",
    *_KEYS,
    _field("revision", pa.int32(), "Of the study, as in `studies`."),
    _field("outcome", pa.string(), "released or quarantined; a whole study has one."),
    _field("reason", pa.string(), "Why it was quarantined, as a code; null where not.", nullable=True),
    _field(
        "findings",
        pa.list_(_FINDING),
        "What kind of thing the verifier found where in the study, and how often; never what it found.",
    ),
    _field("profile", pa.string(), "De-identification profile and edition."),
    _field("code_version", pa.string(), "Version of the program."),
    _field("key_id", pa.string(), "Public fingerprint of the secret that made the keys."),
    _field(
        "actions",
        pa.list_(_ACTION),
        "For each output (tables, or deid_archive), element of the header and rule: the action, and how many "
        "elements it was taken on. Private elements are counted together.",
    ),
    _field("number_of_frames", pa.int32(), "Frames that were decoded and cleaned."),
    _field(
        "is_reencoded",
        pa.bool_(),
        "Whether the archive's copy was encoded again, as something was hidden in it; null without a copy.",
        nullable=True,
    ),
    _field("needs_review", pa.bool_(), f"Whether {_NEEDS_REVIEW}", nullable=True),
    _field("ocr", pa.string(), "Whether frames were read for words: done, off or not_installed."),
    _field("text_boxes", pa.int32(), "Boxes of text that were blacked out within the image.", nullable=True),
)

A4C_SCHEMA: Final = _schema(
    "Stored apical four-chamber frames, the raw material of the nightly pool; under `pool/a4c`.",
    *_SUBJECT,
    _field("instance_key", pa.string(), "Keyed hash that names the instance (the clip or still)."),
    _field("frame_index", pa.int32(), "Index of the frame within its instance, from 0."),
    _field("view_confidence", pa.float32(), "Probability of apical four chamber.", _PROBABILITY),
    _field("fov_area_ratio", pa.float32(), "Share of the frame inside the field of view.", _RATIO),
    _field(
        "lv_area_ratio", pa.float32(), "Share of the frame inside the left ventricle's epicardium.", _RATIO
    ),
    _field(
        "frame",
        pa.binary(FRAME_ROWS * FRAME_COLUMNS),
        f"Grey frame, {FRAME_ROWS} x {FRAME_COLUMNS}, row by row, 0 outside the field of view.",
        "grey level 0 to 255",
    ),
)

RESULT_SCHEMAS: Final = {
    "frames": FRAMES_SCHEMA,
    "clips": CLIPS_SCHEMA,
    "studies": STUDIES_SCHEMA,
    "rejections": REJECTIONS_SCHEMA,
    "audit": AUDIT_SCHEMA,
}
"""The tables under the results folder, by name."""

PARTITION_SCHEMA: Final = _schema(
    "Columns that the path of a result file gives; every view of `echobeam query` has them too.",
    _field("bucket", pa.string(), "First two hexadecimal digits of a hash of the study key."),
    _field(
        "study_year",
        pa.int32(),
        f"Year of the shifted study date; {NO_STUDY_YEAR} where there is none.",
        "year",
    ),
)
