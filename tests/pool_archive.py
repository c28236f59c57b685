"""A small archive as `WriteStudies` leaves it: stored frames and tables, for pool tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import Candidate, pixel_digest


def key(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame of the archive; equal `texture`, equal pixels."""

    subject: str
    study: str
    instance: str
    index: int
    texture: int
    confidence: float = 0.9
    fov_area_ratio: float = 0.4
    in_results: bool = True
    lv_area_ratio: float = 0.1
    is_known: bool = True
    manufacturer: str | None = None

    @property
    def pixels(self) -> bytes:
        return (
            np.random.default_rng(self.texture)
            .integers(0, 256, FRAME_ROWS * FRAME_COLUMNS, np.uint8)
            .tobytes()
        )

    @property
    def source(self) -> str:
        return f"bucket={bucket_of(key(self.study))}/{key(self.study)}.parquet"

    @property
    def view(self) -> str:
        if not self.in_results:
            return "a5c"
        return "a4c" if self.is_known else "unknown"

    @property
    def machine(self) -> str:
        return self.manufacturer or "unknown"

    def candidate(self) -> Candidate:
        return Candidate(
            subject_key=key(self.subject),
            study_key=key(self.study),
            instance_key=key(self.instance),
            frame_index=self.index,
            view_confidence=float(np.float32(self.confidence)),
            fov_area_ratio=float(np.float32(self.fov_area_ratio)),
            pixel_digest=pixel_digest(self.pixels),
            source=self.source,
        )


def write_archive(root: Path, frames: Iterable[StoredFrame]) -> None:
    """Write `pool/a4c` and `results/frames` under a root."""
    by_study: dict[str, list[StoredFrame]] = {}
    for frame in frames:
        by_study.setdefault(frame.source, []).append(frame)
    for source, of_study in by_study.items():
        results = root / "results"
        for path, rows in (
            (root / "pool" / "a4c" / source, _stored_rows(of_study)),
            (results / "frames" / "study_year=2019" / source, _table_rows(of_study)),
            (results / "studies" / "study_year=2019" / source, _study_rows(of_study)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, path)


def _stored_rows(frames: Sequence[StoredFrame]) -> pa.Table:
    return pa.table(
        {
            "subject_key": [key(f.subject) for f in frames],
            "study_key": [key(f.study) for f in frames],
            "instance_key": [key(f.instance) for f in frames],
            "frame_index": [f.index for f in frames],
            "view_confidence": [f.confidence for f in frames],
            "fov_area_ratio": [f.fov_area_ratio for f in frames],
            "lv_area_ratio": [f.lv_area_ratio for f in frames],
            "frame": [f.pixels for f in frames],
        },
        schema=A4C_SCHEMA,
    )


def _table_rows(frames: Sequence[StoredFrame]) -> pa.Table:
    """The frames table also has frames of other views; a frame not in results is there as another."""
    return pa.table(
        {
            "study_key": [key(f.study) for f in frames] + [key(frames[0].study)],
            "instance_key": [key(f.instance) for f in frames] + [key("other")],
            "frame_index": pa.array([f.index for f in frames] + [0], pa.int32()),
            "view": [f.view for f in frames] + ["plax"],
            "is_known": [f.is_known or not f.in_results for f in frames] + [True],
        }
    )


def _study_rows(frames: Sequence[StoredFrame]) -> pa.Table:
    """A study is recorded with one maker."""
    return pa.table(
        {
            "study_key": [key(frames[0].study)],
            "manufacturer": pa.array([frames[0].manufacturer], pa.string()),
        }
    )
