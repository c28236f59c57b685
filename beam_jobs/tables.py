"""Make the rows of one study's tables out of its records; `beam_jobs.staging` makes files of them."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.inference import a4c_indexes, clip_view, spread
from beam_jobs.records import (
    CollectedStudy,
    EndDiastole,
    PredictedChunk,
    QuarantineReason,
    Rejection,
    WrittenStudy,
)
from beam_jobs.schemas import (
    A4C_SCHEMA,
    CLIPS_SCHEMA,
    CONFIDENCE_TENTHS,
    FRAMES_SCHEMA,
    LVH_RULES,
    NO_STUDY_YEAR,
    REJECTIONS_SCHEMA,
    STUDIES_SCHEMA,
    UNKNOWN_VIEW,
)
from echo_models.views import A4C, VIEWS


@dataclass(frozen=True, slots=True, eq=False)
class StudyTables:
    """The rows of one study.

    Attributes:
        study_year: year of the shifted study date, or `NO_STUDY_YEAR`.
        results: frames, clips, rejections and studies, in the order in which they are put in place.
        a4c: the frames stored for the pool.
    """

    study_key: str
    revision: int
    study_year: int
    results: Mapping[str, pa.Table]
    a4c: pa.Table


def build_tables(
    study: CollectedStudy, *, pool_frames_per_clip: int, end_diastole: EndDiastole = "first_frames"
) -> StudyTables:
    """Make the rows of a study out of its records.

    Args:
        study: its records, in order.
        pool_frames_per_clip: the most frames of one clip to store for the pool.
        end_diastole: which frames of a clip were assessed, for the name of the rule.
    """
    clips = [
        list(chunks) for _, chunks in groupby(study.chunks, key=lambda chunk: chunk.placement.instance_key)
    ]
    clip_rows = [_clip_row(chunks) for chunks in clips]
    study_row = _study_row(study, clip_rows, LVH_RULES[end_diastole])
    date = study_row["study_date"]
    return StudyTables(
        study_key=study.study_key,
        revision=study.revision,
        study_year=NO_STUDY_YEAR if date is None else date.year,
        results={
            "frames": pa.Table.from_batches([_frame_rows(chunk) for chunk in study.chunks], FRAMES_SCHEMA),
            "clips": pa.Table.from_pylist(clip_rows, CLIPS_SCHEMA),
            "rejections": pa.Table.from_pylist(
                [_rejection_row(rejection) for rejection in study.rejections], REJECTIONS_SCHEMA
            ),
            "studies": pa.Table.from_pylist([study_row], STUDIES_SCHEMA),
        },
        a4c=pa.Table.from_batches(
            [batch for chunks in clips for batch in _pool_rows(chunks, pool_frames_per_clip)], A4C_SCHEMA
        ),
    )


def summarize(
    study: CollectedStudy,
    tables: StudyTables,
    *,
    committed: bool,
    quarantined: QuarantineReason | None = None,
) -> WrittenStudy:
    """Count what was written, or would have been, for log lines and metrics."""
    frames = tables.results["frames"]
    views = frames["view"].value_counts().to_pylist()
    confidences = frames["view_confidence"].to_numpy()
    tenths = np.minimum((confidences * CONFIDENCE_TENTHS).astype(int), CONFIDENCE_TENTHS - 1)
    reasons = tables.results["rejections"]["reason"].value_counts().to_pylist()
    models = {
        model
        for chunk in study.chunks
        for model in (chunk.fov_model, chunk.view_model, chunk.lv_model, chunk.lvh_model)
        if model is not None
    }
    return WrittenStudy(
        claim_token=study.claim_token,
        revision=study.revision,
        committed=committed,
        quarantined=quarantined,
        clips=tables.results["clips"].num_rows,
        frames=frames.num_rows,
        frames_by_view={view["values"]: view["counts"] for view in views},
        confidence_counts=tuple(np.bincount(tenths, minlength=CONFIDENCE_TENTHS).tolist()),
        confidence_sum=float(confidences.sum(dtype=np.float64)),
        rejections_by_reason={reason["values"]: reason["counts"] for reason in reasons},
        models=tuple(sorted(models)),
    )


# ---------------------------------------------------------------------- rows


def _frame_rows(chunk: PredictedChunk) -> pa.RecordBatch:
    count = len(chunk.view_probabilities)

    def same(value: Any) -> pa.Array:
        """Repeat one value over all rows."""
        return pa.repeat(value, count)

    names = np.asarray(VIEWS, dtype=object)[chunk.view_probabilities.argmax(axis=1)]
    names[~chunk.view_known] = UNKNOWN_VIEW
    columns = {
        **{name: same(value) for name, value in _keys(chunk).items()},
        "frame_index": _indexes(chunk, np.arange(count)),
        "frame_time_ms": pa.array(chunk.frame_times_ms, pa.float64(), from_pandas=True),
        "dicom_mode": same(chunk.header.dicom_mode),
        "view": pa.array(names, pa.string()),
        "view_confidence": pa.array(chunk.view_probabilities.max(axis=1), pa.float32()),
        "view_probabilities": pa.FixedSizeListArray.from_arrays(
            pa.array(chunk.view_probabilities.reshape(-1), pa.float32()),
            type=FRAMES_SCHEMA.field("view_probabilities").type,
        ),
        "is_known": pa.array(chunk.view_known),
        "fov_area_ratio": pa.array(chunk.fov_area_ratios, pa.float32()),
        "lv_area_ratio": pa.array(chunk.lv_area_ratios, pa.float32(), from_pandas=True),
        "lvh_probability": pa.array(chunk.lvh_probabilities, pa.float32(), from_pandas=True),
        **{name: same(pa.scalar(value, pa.string())) for name, value in _models([chunk]).items()},
    }
    return pa.record_batch([columns[name] for name in FRAMES_SCHEMA.names], schema=FRAMES_SCHEMA)


def _clip_row(chunks: Sequence[PredictedChunk]) -> dict[str, Any]:
    """Sum up the chunks of one instance."""
    header = chunks[0].header
    probabilities = np.concatenate([chunk.view_probabilities for chunk in chunks])
    known = np.concatenate([chunk.view_known for chunk in chunks])
    mean = probabilities[known if known.any() else slice(None)].mean(axis=0, dtype=np.float64)
    view = clip_view(probabilities, known)
    return {
        **_keys(chunks[0]),
        "sop_class": header.sop_class,
        "transfer_syntax": header.transfer_syntax,
        "manufacturer": header.manufacturer,
        "dicom_mode": header.dicom_mode,
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames_declared": header.number_of_frames,
        "number_of_frames": len(probabilities),
        "frame_time_ms": header.frame_time_ms,
        "needs_review": header.needs_review,
        "view": UNKNOWN_VIEW if view is None else VIEWS[view],
        "view_confidence": mean.max(),
        "view_probabilities": mean,
        "known_ratio": known.mean(),
        "view_agreement_ratio": _agreement(probabilities, known, view),
        "fov_area_ratio": _mean([chunk.fov_area_ratios for chunk in chunks]),
        "number_of_a4c_frames": len(a4c_indexes(probabilities, known)),
        "lv_area_ratio": _mean([chunk.lv_area_ratios for chunk in chunks]),
        "lvh_probability": _mean([chunk.lvh_probabilities for chunk in chunks]),
        **_models(chunks),
    }


def _agreement(
    probabilities: npt.NDArray[np.float32], known: npt.NDArray[np.bool_], view: int | None
) -> float:
    """Give the share of frames whose own view is that of the clip, unknown included."""
    alike = ~known if view is None else known & (probabilities.argmax(axis=1) == view)
    return float(alike.mean())


def _study_row(study: CollectedStudy, clips: Sequence[Mapping[str, Any]], lvh_rule: str) -> dict[str, Any]:
    headers = [chunk.header for chunk in study.chunks]
    dates = sorted(header.study_date for header in headers if header.study_date is not None)
    assessed = [clip["lvh_probability"] for clip in clips if clip["lvh_probability"] is not None]
    views = [clip["view"] for clip in clips]
    records: list[PredictedChunk | Rejection] = [*study.chunks, *study.rejections]
    return {
        "subject_key": study.subject_key,
        "study_key": study.study_key,
        "revision": study.revision,
        "study_date": dt.date.fromisoformat(dates[0]) if dates else None,
        "patient_age_years": _first(header.patient_age_years for header in headers),
        "patient_sex": _first(header.patient_sex for header in headers),
        "manufacturer": _first(header.manufacturer for header in headers),
        "number_of_instances": records[0].placement.instances_in_study,
        "number_of_clips": len(clips),
        "number_of_frames": sum(clip["number_of_frames"] for clip in clips),
        "number_of_rejections": len(study.rejections),
        "clips_by_view": [(view, views.count(view)) for view in (*VIEWS, UNKNOWN_VIEW) if view in views],
        "number_of_lvh_clips": len(assessed),
        "lvh_probability": float(np.mean(assessed)) if assessed else None,
        "lvh_rule": lvh_rule if assessed else None,
    }


def _rejection_row(rejection: Rejection) -> dict[str, Any]:
    return {
        **_keys(rejection),
        "stage": rejection.stage,
        "reason": rejection.reason.value,
        "frames_kept": rejection.frames_kept,
    }


def _pool_rows(chunks: Sequence[PredictedChunk], most: int) -> Iterator[pa.RecordBatch]:
    """Choose evenly among the frames that the chunks of one clip offer."""
    offered = [len(chunk.pool_indexes) for chunk in chunks]
    chosen = spread(sum(offered), most)
    for chunk, end in zip(chunks, np.cumsum(offered), strict=True):
        local = chosen - (end - len(chunk.pool_indexes))
        places = local[(local >= 0) & (local < len(chunk.pool_indexes))]
        if not len(places):
            continue
        index = chunk.pool_indexes[places]
        columns = {
            **{name: pa.repeat(value, len(index)) for name, value in _keys(chunk).items()},
            "frame_index": _indexes(chunk, index),
            "view_confidence": pa.array(chunk.view_probabilities[index, VIEWS.index(A4C)], pa.float32()),
            "fov_area_ratio": pa.array(chunk.fov_area_ratios[index], pa.float32()),
            "lv_area_ratio": pa.array(chunk.lv_area_ratios[index], pa.float32()),
            "frame": pa.array(
                [frame.tobytes() for frame in chunk.pool_frames[places]], A4C_SCHEMA.field("frame").type
            ),
        }
        yield pa.record_batch([columns[name] for name in A4C_SCHEMA.names], schema=A4C_SCHEMA)


def _keys(record: PredictedChunk | Rejection) -> dict[str, str]:
    placement = record.placement
    return {
        "subject_key": placement.subject_key,
        "study_key": placement.study_key,
        "series_key": placement.series_key,
        "instance_key": placement.instance_key,
    }


def _models(chunks: Sequence[PredictedChunk]) -> dict[str, str | None]:
    return {
        name: _first(getattr(chunk, name) for chunk in chunks)
        for name in ("fov_model", "view_model", "lv_model", "lvh_model")
    }


def _indexes(chunk: PredictedChunk, local: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(chunk.first_frame_index + local, pa.int32())


def _mean(parts: Sequence[npt.NDArray[np.float32]]) -> float | None:
    """Average what is known, None if nothing is."""
    values = np.concatenate(parts)
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None


def _first(values: Iterator[Any]) -> Any:
    return next((value for value in values if value is not None), None)
