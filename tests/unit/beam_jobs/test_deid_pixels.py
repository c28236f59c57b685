"""Text beside the image goes, the image stays: on made clips with marks, and on real ones."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from beam_jobs.deid import RejectedError
from beam_jobs.deid.hull import convex_hull
from beam_jobs.deid.pixels import keep_mask
from beam_jobs.deid.regions import RegionMasks
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import keep_predictions
from beam_jobs.records import CHUNK_FRAMES, FRAME_COLUMNS, FRAME_ROWS, AssessedChunk, Reason
from echo_models.preprocessing import shrink
from echo_models.views import A4C, VIEWS
from tests.made_files import (
    PLACEMENT,
    burn_in,
    clean,
    encapsulated,
    instance,
    region,
    sector_mask,
    speckle_cine,
)
from tests.real_files import real_file

SECTOR = shrink(sector_mask()[None].astype(np.uint8))[0] > 0
WHOLE_SCREEN = [region(0, 0, 399, 299)]
MARK = "DOE^JANE 4711"


def flatten(pixels: npt.NDArray[np.uint8], **elements: Any) -> npt.NDArray[np.uint8]:
    return np.concatenate([chunk.frames for chunk in flatten_frames(clean(instance(pixels, **elements)))])


def kept_of_sector(frames: npt.NDArray[np.uint8]) -> float:
    return float((frames.any(axis=0) & SECTOR).sum() / SECTOR.sum())


@pytest.mark.parametrize("number_of_frames", [1, 2, 5, 40])
@pytest.mark.parametrize("regions", [[], WHOLE_SCREEN], ids=["no_regions", "whole_screen"])
@pytest.mark.parametrize("size", [10, 18, 30])
def test_text_above_and_beside_the_sector_is_blanked(
    number_of_frames: int, regions: list[Any], size: int
) -> None:
    pixels = speckle_cine(number_of_frames)
    for frame in pixels:
        burn_in(frame, MARK, 5, 2, size)
        burn_in(frame, MARK, 5, 60, 10)
        burn_in(frame, MARK, 300, 60, 10)
        burn_in(frame, MARK, 5, 285, 12)
    frames = flatten(pixels, regions=regions)
    assert not frames[:, ~_grown(SECTOR)].any()
    assert kept_of_sector(frames) > 0.9


def test_a_mark_in_one_frame_of_many_is_blanked() -> None:
    for marked in range(30):
        pixels = speckle_cine(30)
        burn_in(pixels[marked], MARK, 5, 2, 30)
        pixels[marked, 60:120, 5:60] = 255
        frames = flatten(pixels)
        assert not frames[:, ~_grown(SECTOR)].any(), f"mark in frame {marked}"


def test_text_on_a_coloured_bar_is_blanked() -> None:
    pixels = speckle_cine(1)
    pixels[:, :40] = 55
    burn_in(pixels[0], MARK * 2, 5, 8, 20)
    assert not flatten(pixels)[:, ~_grown(SECTOR)].any()


def test_a_noisy_copy_of_a_screen_keeps_no_text() -> None:
    pixels = speckle_cine(20)
    for frame in pixels:
        burn_in(frame, MARK * 2, 5, 2, 24)
    noise = np.random.default_rng(1).integers(0, 5, pixels.shape)
    frames = flatten((pixels.astype(int) + noise).clip(0, 255).astype(np.uint8))
    assert not frames[:, ~_grown(SECTOR)].any()
    assert kept_of_sector(frames) > 0.8


def test_the_image_outside_its_region_is_blanked() -> None:
    frames = flatten(speckle_cine(5), regions=[region(0, 0, 199, 299)])
    assert not frames[:, :, FRAME_COLUMNS // 2 :].any()
    assert frames[:, :, : FRAME_COLUMNS // 2].any()


def test_a_region_of_another_screen_does_not_cut_the_image() -> None:
    frames = flatten(speckle_cine(5), regions=[region(150, 150, 799, 599)])
    assert kept_of_sector(frames) > 0.9


def test_each_of_two_images_is_found() -> None:
    both = np.concatenate([speckle_cine(5, seed=1), speckle_cine(5, seed=2)], axis=2)
    frames = flatten(both, regions=[region(0, 0, 399, 299), region(400, 0, 799, 299)])
    half = FRAME_COLUMNS // 2
    assert frames[:, :, :half].any(axis=0).mean() > 0.2
    assert frames[:, :, half:].any(axis=0).mean() > 0.2


def test_a_doppler_strip_is_kept_whole_beside_the_image() -> None:
    pixels = speckle_cine(5)
    pixels[:, 200:] = 7
    pixels[:, 230:260] = np.random.default_rng(1).integers(1, 200, (30, 400), np.uint8)
    burn_in(pixels[0], MARK, 5, 2)
    items = [region(0, 0, 399, 189), region(0, 200, 399, 299, spatial_format=3, data_type=3)]
    frames = flatten(pixels, regions=items)
    assert frames[:, 80:].all()
    assert not frames[:, :6].any()


def test_a_strip_that_shows_no_trace_is_blanked() -> None:
    pixels = speckle_cine(5)
    for frame in pixels:
        burn_in(frame, MARK * 2, 5, 2, 24)
    items = [region(0, 40, 399, 299), region(0, 0, 399, 38, spatial_format=3, data_type=3)]
    frames = flatten(pixels, regions=items)
    assert not frames[:, :14].any()
    assert kept_of_sector(frames) > 0.9


def test_a_screen_of_text_has_no_image() -> None:
    pixels = np.zeros((1, 300, 400), np.uint8)
    for line in range(20):
        burn_in(pixels[0], f"LV mass {line * 7} g   normal   {MARK}", 5, 15 * line, 12)
    with pytest.raises(RejectedError) as raised:
        flatten(pixels)
    assert raised.value.reason is Reason.NO_IMAGE_REGION
    assert raised.value.parts == 1


@pytest.mark.parametrize("number_of_frames", [1, 5])
def test_a_black_clip_has_no_image(number_of_frames: int) -> None:
    with pytest.raises(RejectedError) as raised:
        flatten(np.zeros((number_of_frames, 300, 400), np.uint8))
    assert raised.value.reason is Reason.NO_IMAGE_REGION


def test_a_keep_mask_is_one_for_all_frames_and_within_the_regions() -> None:
    frames = shrink(speckle_cine(40))
    inside = np.zeros((FRAME_ROWS, FRAME_COLUMNS), bool)
    inside[:, 20:140] = True
    nothing = np.zeros_like(inside)
    keep = keep_mask(frames, RegionMasks((inside,), (), are_of_header=True))
    assert keep.shape == (FRAME_ROWS, FRAME_COLUMNS)
    assert not (keep & ~inside).any()
    with pytest.raises(RejectedError):
        keep_mask(frames, RegionMasks((nothing,), (), are_of_header=True))


# What moves beside the fan and is no part of it: drawn into frame `place` of a clip of 40.


def ticker(frame: npt.NDArray[np.uint8], place: int) -> None:
    burn_in(frame, MARK * 4, -7 * place, 40, 20)


def clock(frame: npt.NDArray[np.uint8], place: int) -> None:
    burn_in(frame, f"{place * 37 % 60:02d}:{place * 91 % 60:02d}.{place * 53 % 100:02d}", 10, 90, 26)


def heart_trace(frame: npt.NDArray[np.uint8], place: int) -> None:
    xs = np.arange(9 * place + 5)
    ys = (282 + 12 * np.sin(xs / 3) ** 9).astype(int)
    frame[ys, xs % 400] = frame[ys + 1, xs % 400] = 255


def spinner(frame: npt.NDArray[np.uint8], place: int) -> None:
    ys, xs = np.indices(frame.shape)
    angle = np.arctan2(ys - 80, xs - 350)
    frame[(np.hypot(ys - 80, xs - 350) < 24) & (np.abs(angle - (place % 8 - 4) * np.pi / 4) < 0.6)] = 230


def flicker(frame: npt.NDArray[np.uint8], place: int) -> None:
    frame[30:70, 340:385] = np.random.default_rng(place).integers(0, 256, (40, 45))


def blinking_box(frame: npt.NDArray[np.uint8], place: int) -> None:
    if place % 2:
        frame[60:140, 5:60] = 240


MOVERS = [ticker, clock, heart_trace, spinner, flicker, blinking_box]


@pytest.mark.parametrize("draw", MOVERS, ids=[draw.__name__ for draw in MOVERS])
@pytest.mark.parametrize("regions", [[], WHOLE_SCREEN], ids=["no_regions", "whole_screen"])
def test_what_moves_beside_the_fan_does_not_pull_its_hull(draw: Any, regions: list[Any]) -> None:
    pixels = speckle_cine(40)
    for place, frame in enumerate(pixels):
        image = frame.copy()
        draw(frame, place)
        frame[sector_mask()] = image[sector_mask()]
    frames = flatten(pixels, regions=regions)
    assert not frames[:, ~_grown(SECTOR)].any()
    assert kept_of_sector(frames) > 0.9


def test_a_grey_bar_that_jpeg_makes_flicker_is_no_image() -> None:
    pixels = speckle_cine(20)
    pixels[:, 60:200, 350:380] = np.linspace(255, 20, 140).astype(np.uint8)[:, None]
    noise = np.random.default_rng(2).integers(-1, 2, (20, 140, 30))
    bar = pixels[:, 60:200, 350:380]
    bar[:] = (bar + noise).clip(0, 255)
    frames = flatten(pixels, regions=WHOLE_SCREEN)
    assert not frames[:, ~_grown(SECTOR)].any()
    still = flatten(pixels[:1], regions=WHOLE_SCREEN)
    assert not still[:, ~_grown(SECTOR)].any()
    assert kept_of_sector(still) > 0.85


def test_the_parts_of_an_image_are_one_where_the_header_gives_its_box() -> None:
    pixels = speckle_cine(20)
    pixels[:, 110:190] = 0  # a chamber, black but for one spot, through the whole fan
    pixels[:, 145:155, 195:205] = 9
    frames = flatten(pixels, regions=WHOLE_SCREEN)
    assert frames[:, 60, 80].all()
    assert kept_of_sector(frames) > 0.45


def test_a_frozen_image_beside_a_running_strip_is_found() -> None:
    pixels = np.repeat(speckle_cine(1), 12, axis=0)
    pixels[:, 240:] = np.random.default_rng(3).integers(1, 200, (12, 60, 400), np.uint8)
    items = [region(0, 0, 399, 239), region(0, 240, 399, 299, spatial_format=3, data_type=4)]
    frames = flatten(pixels, regions=items)
    assert frames[:, 40:90, 60:100].any(axis=0).mean() > 0.9
    assert frames[:, 96:].any(axis=0).mean() > 0.95


def test_the_whole_clip_is_looked_at_however_long_it_is() -> None:
    # At first only a corner of the fan is lit; the rest of it comes in the second chunk.
    pixels = np.zeros((CHUNK_FRAMES + 488, 60, 80), np.uint8)
    cine = np.resize(speckle_cine(20, 60, 80), pixels.shape)
    pixels[:, 38:] = cine[:, 38:]
    pixels[400:] = cine[400:]
    chunks = list(flatten_frames(clean(instance(pixels, regions=[region(0, 0, 79, 59)]))))
    assert len(chunks) == 2
    small = shrink(sector_mask(60, 80)[None].astype(np.uint8))[0] > 0
    seen = chunks[1].frames.any(axis=0)
    assert (seen & small).sum() > 0.85 * small.sum()
    pixels[5, :8, :70] = 255  # and what is beside it in one frame of the first stays black
    chunks = list(flatten_frames(clean(instance(pixels, regions=[region(0, 0, 79, 59)]))))
    assert not chunks[0].frames[:, :14].any()


def test_a_long_clip_that_cannot_be_decoded_gives_its_reason() -> None:
    ds = instance(np.zeros((1, 60, 80), np.uint8), NumberOfFrames=CHUNK_FRAMES + 1)
    ds = encapsulated(ds, [b"no jpeg"])
    with pytest.raises(RejectedError) as raised:
        list(flatten_frames(clean(ds)))
    assert raised.value.reason is Reason.CORRUPT_PIXELS


def test_a_clip_without_regions_is_cleaned_by_its_pixels_and_flagged() -> None:
    for regions, is_flagged in (([], True), (WHOLE_SCREEN, False), ([region(0, 0, 4000, 3000)], True)):
        (chunk,) = flatten_frames(clean(instance(speckle_cine(5), regions=regions)))
        assert chunk.header.needs_review is is_flagged
        assert not chunk.frames[:, ~_grown(SECTOR)].any()


def test_a_hull_holds_every_pixel_of_its_mask_and_is_convex() -> None:
    chance = np.random.default_rng(4)
    for _ in range(50):
        mask = chance.random((30, 40)) < 0.02
        filled = convex_hull(mask)
        assert not (mask & ~filled).any()
        for line in (*filled, *filled.T):
            inside = np.flatnonzero(line)
            assert not len(inside) or line[inside[0] : inside[-1] + 1].all()
        assert np.array_equal(convex_hull(filled), filled)
    assert not convex_hull(np.zeros((3, 4), np.bool_)).any()


def test_the_field_of_view_is_applied_before_anything_is_written_to_the_pool() -> None:
    frames = np.full((3, FRAME_ROWS, FRAME_COLUMNS), 200, np.uint8)
    fov = np.zeros((1, FRAME_ROWS, FRAME_COLUMNS), np.bool_)
    fov[:, 20:100, 30:130] = True
    predicted = keep_predictions(assessed(frames, fov), pool_frames_per_clip=3)
    assert len(predicted.pool_frames) == 3
    assert np.array_equal(predicted.pool_frames > 0, np.broadcast_to(fov, frames.shape))


# Where text is burned in on the real screens: rows from and to, columns from and to, of 120 x 160.
REAL_SCREENS = [
    # name, what must be black, and how much of the frame must be kept at least
    ("apical", [(0, 10, 0, 160), (0, 120, 0, 19), (0, 120, 149, 160), (104, 120, 0, 160)], 0.33),
    ("apical_half", [(0, 9, 0, 160), (0, 120, 0, 19), (0, 120, 150, 160), (105, 120, 0, 160)], 0.33),
    ("parasternal", [(0, 120, 0, 12), (0, 18, 0, 160), (0, 120, 150, 160), (113, 120, 0, 160)], 0.3),
    ("grey_cine", [(0, 12, 0, 160), (0, 30, 0, 18), (113, 120, 0, 160)], 0.2),
    ("grey_still", [(0, 12, 0, 160), (0, 30, 0, 18), (113, 120, 0, 160)], 0.2),
    ("lossless", [(0, 22, 0, 160), (0, 120, 0, 12), (104, 120, 0, 160), (0, 120, 148, 160)], 0.2),
    ("palette", [(0, 12, 0, 160), (12, 120, 0, 60), (12, 120, 130, 160), (40, 120, 0, 160)], 0.02),
    ("palette_cropped", [(0, 18, 0, 160), (18, 120, 0, 60), (60, 120, 0, 160)], 0.02),
    ("palette_16", [(0, 6, 0, 160), (104, 120, 0, 160), (8, 120, 0, 8)], 0.4),
    ("rgb", [(0, 24, 0, 160), (87, 120, 0, 160)], 0.35),
    ("rgb_small", [(0, 24, 0, 160), (87, 120, 0, 160)], 0.35),
]


@pytest.mark.parametrize(("name", "text", "least_kept"), REAL_SCREENS, ids=[row[0] for row in REAL_SCREENS])
def test_text_of_a_real_screen_is_blanked_and_its_image_kept(
    tmp_path: Path, name: str, text: list[tuple[int, int, int, int]], least_kept: float
) -> None:
    frames = np.concatenate([chunk.frames for chunk in flatten_frames(clean(real_file(name, tmp_path)))])
    for top, bottom, left, right in text:
        assert not frames[:, top:bottom, left:right].any(), (top, bottom, left, right)
    assert frames.any(axis=0).mean() > least_kept


def test_a_real_screen_without_an_image_is_rejected() -> None:
    with pytest.raises(RejectedError) as raised:
        list(flatten_frames(clean(real_file("rgb_still"))))
    assert raised.value.reason is Reason.NO_IMAGE_REGION


def assessed(frames: npt.NDArray[np.uint8], fov_masks: npt.NDArray[np.bool_]) -> AssessedChunk:
    """Say of every frame that it is apical four chamber."""
    count = len(frames)
    probabilities = np.zeros((count, len(VIEWS)), np.float32)
    probabilities[:, VIEWS.index(A4C)] = 1
    return AssessedChunk(
        PLACEMENT,
        clean(instance(speckle_cine(count))).header,
        0,
        frames,
        1,
        fov_masks,
        "fov",
        probabilities,
        np.ones(count, np.bool_),
        "view",
        np.arange(count),
        np.zeros((count, FRAME_ROWS, FRAME_COLUMNS), np.bool_),
        "lv",
        np.full(count, np.nan, np.float32),
        None,
        frame_times_ms=np.full(count, 33.3),
    )


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Allow the hull two pixels around the sector's edge."""
    grown = mask.copy()
    for _ in range(2):
        padded = np.pad(grown, 1)
        grown = (
            padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )
    return grown
