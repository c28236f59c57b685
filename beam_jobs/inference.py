"""What the models say about chunks: the paper's four steps as plain functions.

Chunks in, the same chunks with more known out, in the same order. Frames of several chunks go
through a network together, because a network is fed best with full batches of one shape; a chunk's
result never depends on which others came with it. The Beam model handlers and the contact sheet
call these same functions.

Source: paper, "The whole pipeline": frame → field of view → masked frame → view → if apical four
chamber: left ventricle → masked frame → hypertrophy.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from beam_jobs.records import (
    FRAME_COLUMNS,
    FRAME_ROWS,
    AssessedChunk,
    Chunk,
    ClassifiedChunk,
    EndDiastole,
    OutlinedChunk,
    PredictedChunk,
    SegmentedChunk,
)
from echo_models.bundle import Bundle, Prediction
from echo_models.preprocessing import apply_mask
from echo_models.views import A4C, VIEWS

MASK_PROBABILITY: Final = 0.5
"""A pixel belongs to what was segmented from this probability on."""

LVH_FRAMES: Final = 2
"""Hypertrophy is read from two frames of a clip that show diastole (paper, Data, "LVH")."""

KNOWN_SHARE: Final = 0.5
"""A clip is of a known view if more of its frames are."""

Scalar = TypeVar("Scalar", np.float32, np.bool_)

_A4C_INDEX: Final = VIEWS.index(A4C)
_PICTURE: Final = (FRAME_ROWS, FRAME_COLUMNS)


def segment_field_of_view(
    chunks: Sequence[Chunk], bundle: Bundle, *, frames_per_clip: int | None, batch_size: int
) -> list[SegmentedChunk]:
    """Find the field of view of each chunk.

    The field of view does not move within a clip, so a few frames, evenly spread, are segmented and
    their mean probability gives one mask for all.

    Args:
        chunks: what came out of `flatten_frames`, of any instances.
        bundle: a field-of-view model.
        frames_per_clip: how many frames of a chunk to segment; None segments every frame and gives
            each its own mask, as the paper does.
        batch_size: frames in one call of the network.
    """
    samples = [_sampled(len(chunk.frames), frames_per_clip) for chunk in chunks]
    frames = _join([chunk.frames[sample] for chunk, sample in zip(chunks, samples, strict=True)])
    parts = _split(_predict(bundle, frames, _PICTURE, batch_size), [len(sample) for sample in samples])
    segmented = []
    for chunk, part in zip(chunks, parts, strict=True):
        probabilities = part if frames_per_clip is None else part.mean(axis=0, keepdims=True)
        segmented.append(
            SegmentedChunk(
                **_known(chunk), fov_masks=probabilities >= MASK_PROBABILITY, fov_model=bundle.manifest.name
            )
        )
    return segmented


def classify_views(
    chunks: Sequence[SegmentedChunk], bundle: Bundle, *, batch_size: int
) -> list[ClassifiedChunk]:
    """Name the view of every frame, and say whether it is like a view at all."""
    frames = _join([_masked(chunk, slice(None), bundle.manifest.mask) for chunk in chunks])
    counts = [len(chunk.frames) for chunk in chunks]
    said = Prediction(np.empty((0, len(VIEWS)), np.float32), np.empty(0, np.bool_))
    if len(frames):  # a model that is asked about nothing runs on padding
        said = bundle.predict_known(frames, batch_size=batch_size)
    return [
        ClassifiedChunk(
            **_known(chunk), view_probabilities=part, view_known=known, view_model=bundle.manifest.name
        )
        for chunk, part, known in zip(
            chunks, _split(said.probabilities, counts), _split(said.known, counts), strict=True
        )
    ]


def segment_left_ventricle(
    chunks: Sequence[ClassifiedChunk], bundle: Bundle, *, batch_size: int
) -> list[OutlinedChunk]:
    """Outline the left ventricle in the frames that show the apical four-chamber view."""
    indexes = [a4c_indexes(chunk.view_probabilities, chunk.view_known) for chunk in chunks]
    frames = _join(
        [
            _masked(chunk, index, bundle.manifest.mask)
            for chunk, index in zip(chunks, indexes, strict=True)
            if len(index)
        ]
    )
    parts = _split(_predict(bundle, frames, _PICTURE, batch_size), [len(index) for index in indexes])
    return [
        OutlinedChunk(
            **_known(chunk),
            a4c_indexes=index,
            lv_masks=part >= MASK_PROBABILITY,
            lv_model=bundle.manifest.name if len(index) else None,
        )
        for chunk, index, part in zip(chunks, indexes, parts, strict=True)
    ]


def classify_hypertrophy(
    chunks: Sequence[OutlinedChunk],
    bundle: Bundle,
    *,
    batch_size: int,
    end_diastole: EndDiastole = "first_frames",
) -> list[AssessedChunk]:
    """Estimate hypertrophy from the end-diastolic frames of apical four-chamber clips.

    A still is not assessed: nothing says which phase of the heart it shows.

    Args:
        chunks: with the left ventricle outlined.
        bundle: a hypertrophy model.
        batch_size: frames in one call of the network.
        end_diastole: which frames those are.
    """
    indexes = [hypertrophy_indexes(chunk, end_diastole) for chunk in chunks]
    frames = _join(
        [
            _ventricles(chunk, index)
            if bundle.manifest.mask == "lv"
            else _masked(chunk, index, bundle.manifest.mask)
            for chunk, index in zip(chunks, indexes, strict=True)
            if len(index)
        ]
    )
    parts = _split(_predict(bundle, frames, (), batch_size), [len(index) for index in indexes])
    assessed = []
    for chunk, index, part in zip(chunks, indexes, parts, strict=True):
        probabilities = np.full(len(chunk.frames), np.nan, np.float32)
        probabilities[index] = part
        assessed.append(
            AssessedChunk(
                **_known(chunk),
                lvh_probabilities=probabilities,
                lvh_model=bundle.manifest.name if len(index) else None,
            )
        )
    return assessed


def keep_predictions(chunk: AssessedChunk, *, pool_frames_per_clip: int) -> PredictedChunk:
    """Let go of a chunk's frames, except those apical four-chamber ones that may go to the pool.

    Args:
        chunk: a chunk that has been through every model.
        pool_frames_per_clip: the most frames to keep, evenly spread over those there are.
    """
    pooled = chunk.a4c_indexes[spread(len(chunk.a4c_indexes), pool_frames_per_clip)]
    lv_area_ratios = np.full(len(chunk.frames), np.nan, np.float32)
    lv_area_ratios[chunk.a4c_indexes] = _area_ratios(chunk.lv_masks)
    return PredictedChunk(
        placement=chunk.placement,
        header=chunk.header,
        first_frame_index=chunk.first_frame_index,
        parts=chunk.parts,
        frame_times_ms=chunk.frame_times_ms,
        fov_area_ratios=np.broadcast_to(_area_ratios(chunk.fov_masks), len(chunk.frames)).copy(),
        view_probabilities=chunk.view_probabilities,
        view_known=chunk.view_known,
        lv_area_ratios=lv_area_ratios,
        lvh_probabilities=chunk.lvh_probabilities,
        fov_model=chunk.fov_model,
        view_model=chunk.view_model,
        lv_model=chunk.lv_model,
        lvh_model=chunk.lvh_model,
        pool_indexes=pooled,
        pool_frames=_masked(chunk, pooled, "fov"),
    )


def a4c_indexes(
    view_probabilities: npt.NDArray[np.float32], view_known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Say which frames show the apical four-chamber view.

    Args:
        view_probabilities: [N, 15], float32.
        view_known: [N], bool.

    Returns:
        [M], int64, ascending.
    """
    return np.flatnonzero(view_known & (view_probabilities.argmax(axis=1) == _A4C_INDEX))


def clip_view(view_probabilities: npt.NDArray[np.float32], view_known: npt.NDArray[np.bool_]) -> int | None:
    """Name the view of a clip: that of the highest mean probability over its known frames.

    Args:
        view_probabilities: [N, 15], float32.
        view_known: [N], bool.

    Returns:
        index into `VIEWS`; None if no more than half of the frames are known.
    """
    if not len(view_known) or view_known.mean() <= KNOWN_SHARE:
        return None
    return int(view_probabilities[view_known].mean(axis=0, dtype=np.float64).argmax())


def hypertrophy_indexes(
    chunk: OutlinedChunk, end_diastole: EndDiastole = "first_frames"
) -> npt.NDArray[np.int64]:
    """Say which frames of a chunk tell of hypertrophy.

    They are two apical four-chamber frames at most, of the first chunk of a clip that is of this view as a
    whole. "first_frames": those of the clip's first two that show the view. "largest_lv": those in which the
    left ventricle covers most, by the median of each frame and its neighbours, so that one outline that went
    wrong does not count; of equals the earlier.

    Returns:
        [L], int64, ascending; L is at most `LVH_FRAMES`.
    """
    is_a4c_clip = (
        chunk.header.number_of_frames > 1
        and chunk.first_frame_index == 0
        and clip_view(chunk.view_probabilities, chunk.view_known) == _A4C_INDEX
    )
    if not is_a4c_clip:
        return np.empty(0, np.int64)
    if end_diastole == "first_frames":
        return chunk.a4c_indexes[chunk.a4c_indexes < LVH_FRAMES]
    areas = _area_ratios(chunk.lv_masks)
    steady = np.median(np.stack([np.r_[areas[:1], areas[:-1]], areas, np.r_[areas[1:], areas[-1:]]]), axis=0)
    largest = np.argsort(-steady, kind="stable")[:LVH_FRAMES]
    return np.sort(chunk.a4c_indexes[largest[areas[largest] > 0]])


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Choose at most `most` of `count` places, evenly spread, ascending.

    Returns:
        [min(count, most)], int64: the middles of as many equal stretches.
    """
    chosen = min(count, most)
    return (2 * np.arange(chosen, dtype=np.int64) + 1) * count // max(2 * chosen, 1)


def _sampled(count: int, frames_per_clip: int | None) -> npt.NDArray[np.int64]:
    return np.arange(count) if frames_per_clip is None else spread(count, frames_per_clip)


def _masked(chunk: SegmentedChunk, index: Any, mask: str) -> npt.NDArray[np.uint8]:
    """Take some frames as a network wants them: plain, or 0 outside the field of view."""
    frames: npt.NDArray[np.uint8] = chunk.frames[index]
    if mask == "none":
        return frames
    return apply_mask(frames, chunk.fov_masks[0] if len(chunk.fov_masks) == 1 else chunk.fov_masks[index])


def _ventricles(chunk: OutlinedChunk, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Take some apical four-chamber frames, 0 outside the left ventricle."""
    return apply_mask(chunk.frames[index], chunk.lv_masks[np.searchsorted(chunk.a4c_indexes, index)])


def _area_ratios(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Share of each picture that its mask covers: [N, 120, 160], bool → [N], float32."""
    ratios: npt.NDArray[np.float32] = masks.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    return ratios


def _predict(
    bundle: Bundle, frames: npt.NDArray[np.uint8], shape: tuple[int, ...], batch_size: int
) -> npt.NDArray[np.float32]:
    """Ask a model, but not about nothing: it would run on padding. Gives [N, *shape], float32."""
    if not len(frames):
        return np.empty((0, *shape), np.float32)
    return bundle.predict(frames, batch_size=batch_size)


def _join(parts: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    return np.concatenate(parts) if parts else np.empty((0, *_PICTURE), np.uint8)


def _split(values: npt.NDArray[Scalar], counts: Sequence[int]) -> list[npt.NDArray[Scalar]]:
    return np.split(values, np.cumsum(counts[:-1])) if counts else []


def _known(chunk: Chunk) -> dict[str, Any]:
    """All that a chunk holds, to build one that holds more: references, no copy."""
    return {field.name: getattr(chunk, field.name) for field in fields(chunk)}
