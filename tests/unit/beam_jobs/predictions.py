"""Predicted chunks made by hand."""

import dataclasses

import numpy as np

from beam_jobs.records import (
    ClipHeader,
    CollectedStudy,
    Placement,
    PredictedChunk,
    Reason,
    Rejection,
)
from echo_models.views import VIEWS

HEADER = ClipHeader(
    study_date="2021-03-04",
    patient_age_years=60,
    patient_sex="F",
    sop_class="Ultrasound Multi-frame Image Storage",
    transfer_syntax="JPEG Baseline (Process 1)",
    manufacturer=None,
    dicom_mode="2d",
    number_of_frames=4,
    frame_time_ms=33.3,
    rows=600,
    columns=800,
)


def placement(instance: str, *, instances: int = 1, study: str = "5" * 32) -> Placement:
    return Placement("token", study, "6" * 32, 1, instances, "series", instance)


def chunk(
    instance: str,
    views: tuple[str, ...],
    *,
    first: int = 0,
    parts: int = 1,
    instances: int = 1,
    header: ClipHeader = HEADER,
    study: str = "5" * 32,
    known: tuple[bool, ...] | None = None,
) -> PredictedChunk:
    """Predict each frame's view with 0.8; every known a4c frame is stored and the first two are assessed."""
    count = len(views)
    view_known = np.ones(count, np.bool_) if known is None else np.array(known)
    probabilities = np.full((count, len(VIEWS)), 0.2 / (len(VIEWS) - 1), np.float32)
    probabilities[np.arange(count), [VIEWS.index(view) for view in views]] = 0.8
    a4c = np.flatnonzero((np.array(views) == "a4c") & view_known)
    lv, lvh = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    lv[a4c] = 0.1
    lvh[[index for index in a4c if first + index < 2]] = 0.25
    return PredictedChunk(
        placement=placement(instance, instances=instances, study=study),
        header=header,
        first_frame_index=first,
        parts=parts,
        frame_times_ms=np.full(count, np.nan if header.frame_time_ms is None else header.frame_time_ms),
        fov_area_ratios=np.full(count, 0.5, np.float32),
        view_probabilities=probabilities,
        view_known=view_known,
        lv_area_ratios=lv,
        lvh_probabilities=lvh,
        fov_model="fov-1",
        view_model="view-1",
        lv_model="lv-1" if len(a4c) else None,
        lvh_model="lvh-1" if not np.isnan(lvh).all() else None,
        pool_indexes=a4c,
        pool_frames=np.stack([np.full((120, 160), first + index, np.uint8) for index in a4c])
        if len(a4c)
        else np.empty((0, 120, 160), np.uint8),
    )


def rejection(instance: str, *, parts: int = 1, kept: int = 0, instances: int = 1) -> Rejection:
    return Rejection(
        placement(instance, instances=instances), "FlattenFrames", Reason.CORRUPT_PIXELS, kept, parts
    )


def study(*records: PredictedChunk | Rejection, revision: int = 1) -> CollectedStudy:
    return CollectedStudy(
        claim_token="token",  # noqa: S106 - names a claim, opens nothing
        study_key=records[0].placement.study_key,
        subject_key="6" * 32,
        revision=revision,
        chunks=tuple(record for record in records if isinstance(record, PredictedChunk)),
        rejections=tuple(record for record in records if isinstance(record, Rejection)),
    )


def dated(date: str | None) -> ClipHeader:
    return dataclasses.replace(HEADER, study_date=date)
