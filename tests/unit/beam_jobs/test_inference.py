"""With bundles that do arithmetic, so that what each step must give is known."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from beam_jobs.inference import (
    classify_hypertrophy,
    classify_views,
    clip_view,
    keep_predictions,
    segment_field_of_view,
    segment_left_ventricle,
    spread,
)
from beam_jobs.records import AssessedChunk, Chunk, EndDiastole
from echo_models.bundle import Bundle, Prediction
from echo_models.views import VIEWS
from tests.unit.beam_jobs.predictions import HEADER, placement

A4C, PLAX = VIEWS.index("a4c"), VIEWS.index("plax")
Frames = npt.NDArray[np.uint8]
Predicted = npt.NDArray[np.float32]


def bundle(task: str, mask: str, predict: Callable[[Frames], Predicted]) -> Bundle:
    fed: list[Frames] = []

    def recorded(frames: Frames, **_: int) -> Predicted:
        fed.append(frames)
        return predict(frames).astype(np.float32)

    def recorded_known(frames: Frames, **_: int) -> Prediction:
        """Say of a black frame that it is unknown."""
        return Prediction(recorded(frames), frames.reshape(len(frames), -1).max(axis=1) > 0)

    fake = SimpleNamespace(
        manifest=SimpleNamespace(name=f"{task}-1", mask=mask, task=task),
        predict=recorded,
        predict_known=recorded_known,
        fed=fed,
    )
    return cast("Bundle", fake)


def fed(model: Bundle) -> Frames:
    (frames,) = cast("Any", model).fed
    return cast("Frames", frames)


def left_half(frames: Frames) -> Predicted:
    masks = np.zeros(frames.shape, np.float32)
    masks[:, :, :80] = 1
    return masks


def bright_is_a4c(frames: Frames) -> Predicted:
    """By the brightest pixel: over 100 is a4c, else plax."""
    probabilities = np.zeros((len(frames), len(VIEWS)), np.float32)
    bright = frames.reshape(len(frames), -1).max(axis=1) > 100
    probabilities[np.arange(len(frames)), np.where(bright, A4C, PLAX)] = 1
    return probabilities


def top_half(frames: Frames) -> Predicted:
    masks = np.zeros(frames.shape, np.float32)
    masks[:, :60] = 1
    return masks


def lit_ratio(frames: Frames) -> Predicted:
    ratios: Predicted = np.mean(frames > 0, axis=(1, 2), dtype=np.float32)
    return ratios


FOV = ("fov", "none", left_half)
VIEW = ("view", "fov", bright_is_a4c)
LVH = ("lvh", "lv", lit_ratio)


def clip(*greys: int, first: int = 0) -> Chunk:
    frames = np.stack([np.full((120, 160), grey, np.uint8) for grey in greys])
    return Chunk(placement("i"), HEADER, first, frames, 1, frame_times_ms=np.full(len(frames), 33.3))


def ventricle_as_wide_as_bright(frames: Frames) -> Predicted:
    """Outline columns from the left: as many as the brightest pixel is over 200."""
    brightest = frames.reshape(len(frames), -1).max(axis=1).astype(int)
    inside = np.arange(160) < (brightest - 200)[:, None, None]
    return np.broadcast_to(inside, frames.shape).astype(np.float32)


def assess(
    *chunks: Chunk,
    frames_per_clip: int | None = 2,
    end_diastole: EndDiastole = "first_frames",
    ventricle: Callable[[Frames], Predicted] = top_half,
) -> list[AssessedChunk]:
    segmented = segment_field_of_view(chunks, bundle(*FOV), frames_per_clip=frames_per_clip, batch_size=8)
    classified = classify_views(segmented, bundle(*VIEW), batch_size=8)
    outlined = segment_left_ventricle(classified, bundle("lv", "fov", ventricle), batch_size=8)
    return classify_hypertrophy(outlined, bundle(*LVH), batch_size=8, end_diastole=end_diastole)


def test_a_few_frames_give_one_mask_for_all() -> None:
    model = bundle(*FOV)
    (segmented,) = segment_field_of_view([clip(10, 20, 30, 40)], model, frames_per_clip=2, batch_size=8)
    assert [frame.max() for frame in fed(model)] == [20, 40]
    assert segmented.fov_masks.shape == (1, 120, 160)
    assert segmented.fov_masks[0, :, :80].all()
    assert not segmented.fov_masks[0, :, 80:].any()


def test_the_papers_way_gives_each_frame_its_own_mask() -> None:
    def darker_than_thirty(frames: Frames) -> Predicted:
        return (frames < 30).astype(np.float32)

    model = bundle("fov", "none", darker_than_thirty)
    (segmented,) = segment_field_of_view([clip(10, 40)], model, frames_per_clip=None, batch_size=8)
    assert segmented.fov_masks.mean(axis=(1, 2)).tolist() == [1, 0]


def test_what_the_frames_disagree_on_is_decided_by_their_mean() -> None:
    model = bundle("fov", "none", lambda frames: np.where(frames > 15, np.float32(0.9), np.float32(0.2)))
    (segmented,) = segment_field_of_view([clip(10, 20)], model, frames_per_clip=2, batch_size=8)
    assert segmented.fov_masks.all()  # (0.9 + 0.2) / 2 is over one half


def test_views_are_named_from_what_is_inside_the_field_of_view() -> None:
    frames = np.zeros((1, 120, 160), np.uint8)
    frames[:, :, 80:] = 255  # bright, but outside
    chunk = Chunk(placement("i"), HEADER, 0, frames, 1, frame_times_ms=np.array([33.3]))
    (classified,) = classify_views(
        segment_field_of_view([chunk], bundle(*FOV), frames_per_clip=1, batch_size=8),
        bundle(*VIEW),
        batch_size=8,
    )
    assert classified.view_probabilities.argmax(axis=1).tolist() == [PLAX]


def test_a_view_model_that_wants_plain_frames_gets_them() -> None:
    plain = bundle("view", "none", bright_is_a4c)
    segmented = segment_field_of_view([clip(200)], bundle(*FOV), frames_per_clip=1, batch_size=8)
    classify_views(segmented, plain, batch_size=8)
    assert fed(plain).min() == 200


def test_the_ventricle_is_outlined_in_four_chamber_frames_only() -> None:
    outlined = assess(clip(200, 10, 200), clip(10, 10))
    assert outlined[0].a4c_indexes.tolist() == [0, 2]
    assert outlined[0].lv_masks.shape == (2, 120, 160)
    assert (outlined[0].lv_model, outlined[1].lv_model) == ("lv-1", None)
    assert outlined[1].lv_masks.shape == (0, 120, 160)


def test_hypertrophy_is_read_from_the_masked_first_two_frames_of_a_four_chamber_clip() -> None:
    (assessed,) = assess(clip(200, 200, 200))
    np.testing.assert_allclose(assessed.lvh_probabilities, [0.5, 0.5, np.nan])  # the top half is lit
    assert assessed.lvh_model == "lvh-1"


@pytest.mark.parametrize(
    "chunk",
    [
        clip(200, 10, 10, 10),  # one frame looks like it, the clip does not
        clip(200, 200, first=2),  # not the beginning
        Chunk(
            placement("i"),
            HEADER.__class__(**{**{n: getattr(HEADER, n) for n in HEADER.__slots__}, "number_of_frames": 1}),
            0,
            np.full((1, 120, 160), 200, np.uint8),
            1,
            frame_times_ms=np.array([np.nan]),
        ),  # a still
    ],
    ids=["another view", "later frames", "a still"],
)
def test_nothing_else_is_assessed(chunk: Chunk) -> None:
    (assessed,) = assess(chunk)
    assert np.isnan(assessed.lvh_probabilities).all()
    assert assessed.lvh_model is None


def test_hypertrophy_is_read_where_the_ventricle_is_largest_if_the_site_says_so() -> None:
    # 250 stands alone among small neighbours: an outline that went wrong.
    greys = clip(205, 250, 205, 220, 225, 222, 210)
    (assessed,) = assess(greys, end_diastole="largest_lv", ventricle=ventricle_as_wide_as_bright)
    assert np.flatnonzero(~np.isnan(assessed.lvh_probabilities)).tolist() == [4, 5]


def test_a_clip_without_a_ventricle_has_no_largest_one() -> None:
    (assessed,) = assess(clip(150, 150), end_diastole="largest_lv", ventricle=ventricle_as_wide_as_bright)
    assert np.isnan(assessed.lvh_probabilities).all()


def test_what_is_like_no_view_is_neither_outlined_nor_assessed() -> None:
    def all_a4c(frames: Frames) -> Predicted:
        return bright_is_a4c(np.full_like(frames, 200))

    (segmented,) = segment_field_of_view([clip(0, 200, 0)], bundle(*FOV), frames_per_clip=1, batch_size=8)
    classified = classify_views([segmented], bundle("view", "fov", all_a4c), batch_size=8)
    assert classified[0].view_known.tolist() == [False, True, False]
    outlined = segment_left_ventricle(classified, bundle("lv", "fov", top_half), batch_size=8)
    assert outlined[0].a4c_indexes.tolist() == [1]
    (assessed,) = classify_hypertrophy(outlined, bundle(*LVH), batch_size=8)
    assert np.isnan(assessed.lvh_probabilities).all()  # one known frame of three makes no known clip
    kept = keep_predictions(assessed, pool_frames_per_clip=9)
    assert kept.pool_indexes.tolist() == [1]
    assert kept.view_known.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("known", "view"),
    [((True, True, True, True), PLAX), ((True, True, False, True), A4C), ((True, True, False, False), None)],
    ids=["all", "without the surest", "no more than half"],
)
def test_a_clip_is_of_the_view_of_its_known_frames(known: tuple[bool, ...], view: int | None) -> None:
    probabilities = np.zeros((4, len(VIEWS)), np.float32)
    probabilities[:, A4C] = (0.6, 0.6, 0.0, 0.4)
    probabilities[:, PLAX] = (0.4, 0.4, 1.0, 0.6)
    assert clip_view(probabilities, np.array(known)) == view


def test_a_chunk_is_told_the_same_whoever_comes_with_it() -> None:
    clips = [clip(200, 10, 200), clip(10), clip(200, 200)]
    together = [keep_predictions(c, pool_frames_per_clip=9) for c in assess(*clips)]
    alone = [keep_predictions(assess(c)[0], pool_frames_per_clip=9) for c in clips]
    for one, other in zip(together, alone, strict=True):
        for name in (
            "fov_area_ratios",
            "view_probabilities",
            "lv_area_ratios",
            "lvh_probabilities",
            "pool_frames",
        ):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_no_chunks_are_no_work() -> None:
    assert assess() == []


@pytest.mark.parametrize("frames_per_clip", [2, None])
def test_areas_and_stored_frames_are_those_of_the_masks(frames_per_clip: int | None) -> None:
    (assessed,) = assess(clip(200, 10, 200, 200), frames_per_clip=frames_per_clip)
    kept = keep_predictions(assessed, pool_frames_per_clip=2)
    np.testing.assert_allclose(kept.fov_area_ratios, [0.5] * 4)
    np.testing.assert_allclose(kept.lv_area_ratios, [0.5, np.nan, 0.5, 0.5])
    assert kept.pool_indexes.tolist() == [0, 3]
    assert kept.pool_frames[:, :, :80].min() == 200
    assert kept.pool_frames[:, :, 80:].max() == 0


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 3, []),
        (2, 3, [0, 1]),
        (3, 3, [0, 1, 2]),
        (10, 1, [5]),
        (10, 2, [2, 7]),
        (9, 3, [1, 4, 7]),
        (5, 0, []),
    ],
)
def test_spread_takes_the_middles_of_equal_stretches(count: int, most: int, expected: list[int]) -> None:
    assert spread(count, most).tolist() == expected
