from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from echo_models.phantom import (
    InvalidRequestError,
    PhantomClip,
    UnknownViewError,
    generate_frames,
    random_subject,
    render_clip,
)
from echo_models.views import B_MODE_VIEWS, VIEWS


def clip_of(view: str, seed: int = 0, number_of_frames: int = 1, **options: Any) -> PhantomClip:
    return render_clip(random_subject(seed), view, seed=seed, number_of_frames=number_of_frames, **options)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_gives_frames_and_masks_of_the_raster(view: str) -> None:
    clip = clip_of(view, number_of_frames=2)
    assert clip.view == view
    assert clip.frames.shape == clip.lv_masks.shape == (2, 120, 160)
    assert clip.frames.dtype == np.uint8
    assert clip.fov_mask.shape == (120, 160)
    assert clip.fov_mask.dtype == clip.lv_masks.dtype == np.bool_
    assert 0.04 < clip.fov_mask.mean() < 0.95
    assert clip.frames[0][clip.fov_mask].max() > 60


@pytest.mark.parametrize("view", ["a4c", "pw", "mmode"])
def test_the_same_seed_gives_the_same_bytes(view: str) -> None:
    first, second, other = clip_of(view), clip_of(view), clip_of(view, seed=1)
    assert first.frames.tobytes() == second.frames.tobytes()
    assert first.fov_mask.tobytes() == second.fov_mask.tobytes()
    assert first.frames.tobytes() != other.frames.tobytes()


@pytest.mark.parametrize("view", ["a4c", "plax", "cw", "mmode"])
def test_a_small_raster_is_the_down_sampling_of_the_screen(view: str) -> None:
    subject = random_subject(11)
    small = render_clip(subject, view, seed=3, number_of_frames=1, severity=0)
    full = render_clip(subject, view, seed=3, number_of_frames=1, rows=600, columns=800, severity=0)
    assert np.array_equal(small.frames, full.frames[:, 2::5, 2::5])
    assert np.array_equal(small.fov_mask, full.fov_mask[2::5, 2::5])
    assert np.array_equal(small.lv_masks, full.lv_masks[:, 2::5, 2::5])


def test_the_left_ventricle_is_outlined_in_apical_views_only() -> None:
    for view in VIEWS:
        assert clip_of(view, severity=0).lv_masks.any() == (view in {"a2c", "a3c", "a4c", "a5c"})


def test_the_outline_lies_in_the_field_of_view_and_shrinks_in_systole() -> None:
    subject = random_subject(5)
    areas = []
    for phase in (0.0, 0.36):
        clip = render_clip(subject, "a4c", seed=1, number_of_frames=1, severity=0, start_phase=phase)
        assert not np.any(clip.lv_masks[0] & ~clip.fov_mask)
        areas.append(int(clip.lv_masks.sum()))
    assert areas[1] < 0.95 * areas[0]


def test_a_thicker_wall_makes_a_larger_outline_around_the_same_cavity() -> None:
    thin = replace(random_subject(5), septum_mm=8.0, posterior_wall_mm=8.0)
    thick = replace(thin, septum_mm=18.0, posterior_wall_mm=18.0)
    areas = [
        render_clip(subject, "a4c", seed=1, number_of_frames=1, severity=0).lv_masks.sum()
        for subject in (thin, thick)
    ]
    assert areas[1] > 1.15 * areas[0]


def test_tissue_moves_from_frame_to_frame_but_not_the_screen() -> None:
    clip = clip_of("a4c", seed=4, number_of_frames=6, severity=0)
    assert np.any(clip.frames[0][clip.fov_mask] != clip.frames[5][clip.fov_mask])
    assert clip.fov_mask.ndim == 2


def test_speckle_follows_the_tissue() -> None:
    subject = replace(random_subject(9), heart_rate_bpm=60.0)
    near, far = (
        render_clip(subject, "psax_mid", seed=2, number_of_frames=1, severity=0, start_phase=phase).frames[0]
        for phase in (0.003, 0.30)
    )
    clip = render_clip(subject, "psax_mid", seed=2, number_of_frames=1, severity=0, start_phase=0.0)
    inside = clip.fov_mask
    still = np.corrcoef(clip.frames[0][inside], near[inside])[0, 1]
    moved = np.corrcoef(clip.frames[0][inside], far[inside])[0, 1]
    assert still > 0.9
    assert moved < still - 0.1


def test_a_clip_starts_near_end_diastole_as_the_r_wave_triggers_it() -> None:
    clip = clip_of("a4c", number_of_frames=12)
    assert min(clip.phases[0], 1 - clip.phases[0]) < 0.09
    assert clip.end_diastole_index <= 2
    late = clip_of("a4c", number_of_frames=30, start_phase=0.6)
    assert late.phases[0] == pytest.approx(0.6)
    distance = [min(phase, 1 - phase) for phase in late.phases]
    assert late.end_diastole_index == int(np.argmin(distance))


@pytest.mark.parametrize(
    ("view", "formats"), [("a4c", {1}), ("pw", {1, 3}), ("cw", {1, 3}), ("mmode", {1, 2})]
)
def test_regions_lie_in_the_raster_and_say_what_is_shown(view: str, formats: set[int]) -> None:
    seen = set()
    for seed in range(6):
        for region in clip_of(view, seed=seed).regions:
            assert 0 <= region.min_x0 < region.max_x1 < 160
            assert 0 <= region.min_y0 < region.max_y1 < 120
            assert region.physical_delta_x > 0
            assert region.physical_delta_y > 0
            seen.add(region.spatial_format)
    assert seen == formats


def test_a_region_covers_the_field_of_view_and_scales_with_the_raster() -> None:
    subject = random_subject(3)
    small = render_clip(subject, "a4c", seed=0, number_of_frames=1, severity=0)
    full = render_clip(subject, "a4c", seed=0, number_of_frames=1, rows=600, columns=800, severity=0)
    rows, columns = np.nonzero(full.fov_mask)
    region = full.regions[0]
    assert region.min_x0 <= columns.min()
    assert columns.max() <= region.max_x1
    assert region.min_y0 <= rows.min()
    assert rows.max() <= region.max_y1
    assert small.regions[0].physical_delta_x == pytest.approx(5 * region.physical_delta_x)
    # A left ventricle is some 7 to 11 cm long.
    tall = np.nonzero(full.lv_masks[0].any(axis=1))[0]
    assert 6 < (tall.max() - tall.min()) * region.physical_delta_y < 12.5


def test_continuous_wave_is_filled_and_pulsed_wave_is_hollow() -> None:
    shares = {}
    for view in ("pw", "cw"):
        lit = []
        for seed in range(12):
            clip = clip_of(view, seed=seed)
            strip = next(region for region in clip.regions if region.spatial_format == 3)
            box = clip.frames[0][strip.min_y0 : strip.max_y1, strip.min_x0 : strip.max_x1]
            lit.append(float(np.mean(box > 60)))
        shares[view] = float(np.median(lit))
    assert shares["cw"] > 1.2 * shares["pw"]


def test_frames_have_the_grey_statistics_of_real_clips() -> None:
    # Measured on two public clips at 120 x 160 in the sector: neighbour correlation 0.84 and 0.94; after a
    # 5 x 5 mean is taken off 0.41 and 0.56; median 12 and 38; a quarter to a third of all pixels black.
    neighbours, medians, dark = [], [], []
    for seed in range(24):
        clip = clip_of(("a4c", "plax")[seed % 2], seed=seed)
        frame, inside = clip.frames[0].astype(float), clip.fov_mask
        pairs = inside[:, 1:] & inside[:, :-1]
        neighbours.append(np.corrcoef(frame[:, 1:][pairs], frame[:, :-1][pairs])[0, 1])
        medians.append(np.median(frame[inside]))
        dark.append(np.mean(frame[inside] <= 4))
    assert 0.75 < np.median(neighbours) < 0.95
    assert 8 < np.median(medians) < 60
    assert 0.05 < np.median(dark) < 0.55


def test_generated_sets_go_subject_by_subject_and_share_nobody() -> None:
    first = list(
        generate_frames(seed=1, subjects=2, views=("a4c", "pw"), frames_per_clip=1, clips_per_subject_view=2)
    )
    other = list(generate_frames(seed=2, subjects=2, views=("a4c",), frames_per_clip=1))
    assert [clip.view for clip in first] == ["a4c", "a4c", "pw", "pw"] * 2
    assert len({clip.subject_id for clip in first}) == 2
    assert not {clip.subject_id for clip in first} & {clip.subject_id for clip in other}
    assert first[0].frames.tobytes() != first[1].frames.tobytes()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_share_of_lvh_can_be_set(ratio: float) -> None:
    clips = generate_frames(seed=3, subjects=4, views=("pw",), frames_per_clip=1, lvh_ratio=ratio)
    assert {clip.hypertrophy.is_lvh for clip in clips} == {bool(ratio)}


def test_clips_start_at_end_diastole_when_asked_for() -> None:
    clips = list(generate_frames(seed=3, subjects=5, views=("pw",), frames_per_clip=1, any_phase=False))
    assert all(min(clip.phases[0], 1 - clip.phases[0]) < 0.09 for clip in clips)
    anywhere = list(generate_frames(seed=3, subjects=5, views=("pw",), frames_per_clip=1))
    assert any(min(clip.phases[0], 1 - clip.phases[0]) > 0.09 for clip in anywhere)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(UnknownViewError, match="got 'a6c'"):
        clip_of("a6c")


@pytest.mark.parametrize("options", [{"rows": 0}, {"columns": 0}, {"severity": -0.1}, {"severity": 2.1}])
def test_sizes_and_strengths_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="must"):
        clip_of(B_MODE_VIEWS[0], **options)


def test_a_clip_without_frames_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="must be 1 or more"):
        clip_of("a4c", number_of_frames=0)


@pytest.mark.parametrize(
    "options", [{"subjects": 0}, {"lvh_ratio": 1.5}, {"frames_per_clip": 0}, {"clips_per_subject_view": 0}]
)
def test_a_set_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="must"):
        next(generate_frames(**{"seed": 0, "subjects": 1, **options}))
