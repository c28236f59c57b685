"""Text beside the image goes, the image stays: on made clips with marks, and on real ones."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from beam_jobs.deid import RejectedError
from beam_jobs.deid.pixels import keep_mask
from beam_jobs.deid.regions import RegionMasks
from beam_jobs.frames import flatten_frames
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, Reason
from echo_models.preprocessing import shrink
from tests.made_files import burn_in, clean, instance, region, sector_mask, speckle_cine
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


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Allow the hull two pixels around the sector's edge."""
    grown = mask.copy()
    for _ in range(2):
        padded = np.pad(grown, 1)
        grown = (
            padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )
    return grown
