"""DICOM files → de-identified frames in one Parquet file: what people label, and public DICOM sets.

The files go through the same door as received studies (`beam_jobs.deid`, `beam_jobs.frames`). Clips that the
door wants a person to look at first are left out unless they are asked for.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom

from beam_jobs.deid import Pseudonymizer, RejectedError, deidentify_instance, read_instance
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.errors import BeamJobsError
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Placement, Reason
from beam_jobs.schemas import A4C_SCHEMA
from echo_models.errors import TableError
from echo_models.tables import read_table

FRAMES_FILE: Final = "frames.parquet"
NEEDS_REVIEW: Final = "needs_review"
"""Why a clip was left out that a person should look at first."""

_COLUMNS: Final = ("subject_key", "study_key", "instance_key", "frame_index", "frame")
_SCHEMA: Final = pa.schema([A4C_SCHEMA.field(name) for name in _COLUMNS])
_ROWS_PER_GROUP: Final = 256
_MIMIC_COLUMNS: Final = ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath")


class NoFramesError(BeamJobsError):
    """Nothing came of the files that were given."""


@dataclass(frozen=True, slots=True)
class FramesWritten:
    """What was written.

    Attributes:
        file: the Parquet file.
        frames: how many.
        clips: of how many instances.
        subjects: of how many people.
        left_out: instances left out, by reason.
    """

    file: Path
    frames: int
    clips: int
    subjects: int
    left_out: dict[str, int]


def find_files(folder: Path) -> list[Path]:
    """List the DICOM files below a folder, by their first bytes; a file is itself.

    Raises:
        NoFramesError: if there is no such file or folder.
    """
    if not folder.exists():
        raise NoFramesError(f"{folder} is not there; name a DICOM file, or a folder of them")
    if folder.is_file():
        return [folder]
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_dicom(path)]


def read_mimic_list(file: Path) -> list[Path]:
    """Read `echo-record-list.csv` of MIMIC-IV-ECHO: the files it lists that are there.

    Its paths are relative to its own folder. A part of the set may be downloaded: what is absent is
    passed over.

    Raises:
        DatasetError: if the list is absent.
        TableError: if a column or value is missing, or a path leads out of the folder.
    """
    files = []
    for row in read_table(file, _MIMIC_COLUMNS):
        path = Path(row.text("dicom_filepath"))
        if path.is_absolute() or ".." in path.parts:
            raise row.fault("dicom_filepath", "expected a path below the list's own folder")
        if (file.parent / path).is_file():
            files.append(file.parent / path)
    if not files:
        raise TableError([f"{file}, column dicom_filepath: none of the listed files is below {file.parent}"])
    return files


def write_frames(
    files: Sequence[Path],
    out: Path,
    pseudonymizer: Pseudonymizer,
    *,
    frames_per_clip: int,
    include_unreviewed: bool = False,
) -> FramesWritten:
    """Write frames spread over each clip, under the keys that the pipeline would give them.

    Args:
        files: DICOM instances.
        out: folder; `frames.parquet` in it is replaced whole.
        pseudonymizer: of the site, so that keys are those of its tables.
        frames_per_clip: at most; the first is always among them (end-diastole, as clips are stored).
        include_unreviewed: take clips that a person should look at first.

    Raises:
        NoFramesError: if no frame came of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    target, unfinished = out / FRAMES_FILE, out / f".{FRAMES_FILE}.unfinished"
    left_out: Counter[str] = Counter()
    subjects: set[str] = set()
    frames = clips = 0
    with pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd") as writer:
        # Names may be numbered by patient or by day: the order of the rows must not tell.
        for path in sorted(files, key=lambda it: hashlib.sha256(str(it).encode()).digest()):
            try:
                rows = _rows_of(path, pseudonymizer, frames_per_clip, include_unreviewed=include_unreviewed)
            except RejectedError as error:
                left_out[error.reason.value] += 1
                continue
            if not rows:
                left_out[NEEDS_REVIEW] += 1
                continue
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), row_group_size=_ROWS_PER_GROUP)
            subjects.add(rows[0]["subject_key"])
            frames, clips = frames + len(rows), clips + 1
    if not frames:
        unfinished.unlink()
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise NoFramesError(f"there must be ultrasound to make frames of; left out: {reasons or 'no file'}")
    unfinished.replace(target)
    return FramesWritten(target, frames, clips, len(subjects), dict(left_out))


def _rows_of(
    path: Path, pseudonymizer: Pseudonymizer, frames_per_clip: int, *, include_unreviewed: bool
) -> list[dict[str, Any]]:
    """Bring one file through the door: a row a frame; none where a person must look at it first."""
    placement = _place(path, pseudonymizer)
    clean = deidentify_instance(read_instance(path), placement, pseudonymizer)
    chunks = list(flatten_frames(clean))
    if any(chunk.header.needs_review for chunk in chunks) and not include_unreviewed:
        return []
    frames = np.concatenate([chunk.frames for chunk in chunks])
    indices = np.unique(np.linspace(0, len(frames) - 1, frames_per_clip).round().astype(int))
    return [
        {
            "subject_key": placement.subject_key,
            "study_key": placement.study_key,
            "instance_key": placement.instance_key,
            "frame_index": int(index),
            "frame": frames[index].tobytes(),
        }
        for index in indices
    ]


def _place(path: Path, pseudonymizer: Pseudonymizer) -> Placement:
    """Make the keys of a file as the pipeline does.

    Raises:
        RejectedError: UNREADABLE_HEADER, if it has no UIDs that can be read.
    """
    keywords = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    placement = None
    try:
        with quiet_pydicom():
            ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords)
            study = str(ds.StudyInstanceUID)
            placement = Placement(
                claim_token="",  # nothing is claimed: the ledger knows nothing of these files
                study_key=pseudonymizer.study_key(study),
                subject_key=pseudonymizer.subject_key(str(ds.get("PatientID") or ""), study),
                revision=0,
                instances_in_study=1,
                series_key=pseudonymizer.series_key(str(ds.get("SeriesInstanceUID") or "")),
                instance_key=pseudonymizer.instance_key(str(ds.SOPInstanceUID)),
            )
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    if placement is None:  # raised outside the handler, so that nothing keeps pydicom's message
        raise RejectedError(Reason.UNREADABLE_HEADER)
    return placement


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
