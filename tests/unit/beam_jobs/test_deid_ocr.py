"""Text within the image is found where a program can read it, and blacked out; tissue is left alone."""

import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.ocr import PROGRAM, Ocr, OcrError, find_ocr
from beam_jobs.deid.regions import Box
from beam_jobs.deid.screen_text import TextFinder, flashing_frames, strokes, text_mask
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Reason
from echo_models.preprocessing import nearest_positions
from tests.made_files import burn_in, clean, instance, region, speckle_cine
from tests.programs import need

EVERYWHERE = np.ones((120, 160), np.bool_)


def program(folder: Path, script: str) -> str:
    path = folder / PROGRAM
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def tesseract() -> Ocr:
    return Ocr(need(PROGRAM, "tesseract-ocr"))


def cine(frames: int = 12) -> npt.NDArray[np.uint8]:
    return (speckle_cine(frames) * 0.6).astype(np.uint8)


def small(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    ys, xs = nearest_positions(pixels.shape[1], 120), nearest_positions(pixels.shape[2], 160)
    return pixels[:, ys][:, :, xs]


class Decoded:
    """Gives frames in colour, and remembers which were asked for."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self.asked: list[int] = []

    def __call__(self, places: Sequence[int]) -> npt.NDArray[np.uint8]:
        self.asked += places
        return np.repeat(self._pixels[list(places), ..., None], 3, axis=3)


def test_letters_are_read_with_their_place() -> None:
    picture = np.zeros((80, 300), np.uint8)
    burn_in(picture, "QUILLFEATHER", 40, 20, 24)
    (word,) = tesseract().read(picture)
    assert word.text.upper() == "QUILLFEATHER"
    assert word.confidence > 80
    assert 30 < word.box.left < 50
    assert 15 < word.box.top < 35


@pytest.mark.parametrize("frames", [[*range(12)], [7]], ids=["in every frame", "in one frame of many"])
def test_text_over_the_image_is_found_and_boxed(frames: list[int]) -> None:
    pixels = cine()
    for place in frames:
        burn_in(pixels[place], "ZABRISKIE", 150, 160, 16)
    found = TextFinder(tesseract()).find(small(pixels), EVERYWHERE, Decoded(pixels))
    mask = text_mask(found.boxes, 300, 400)
    letters = small(pixels[frames[:1]])[0] == 255
    assert letters.any()
    assert mask[letters].mean() > 0.95
    assert mask.mean() < 0.08


def test_a_clip_without_strokes_is_not_given_to_the_program(tmp_path: Path) -> None:
    finder = TextFinder(Ocr(program(tmp_path, "exit 1")))  # which would raise
    pixels = (cine() * 0.8).astype(np.uint8)
    decoded = Decoded(pixels)
    assert finder.find(small(pixels), EVERYWHERE, decoded).boxes == ()
    assert 0 < len(decoded.asked) <= 8


def test_a_program_that_fails_or_hangs_is_an_error(tmp_path: Path) -> None:
    picture = np.zeros((20, 20), np.uint8)
    with pytest.raises(OcrError, match="CalledProcessError"):
        Ocr(program(tmp_path, "exit 3")).read(picture)
    with pytest.raises(OcrError, match="TimeoutExpired"):
        Ocr(program(tmp_path, "exec sleep 60"), timeout_s=0.05).read(picture)
    with pytest.raises(OcrError, match="FileNotFoundError"):
        Ocr(str(tmp_path / "absent")).read(picture)


def test_a_program_that_stays_reads_what_one_for_each_picture_reads() -> None:
    pictures = [np.zeros((80, 300), np.uint8) for _ in range(4)]
    for picture, word in zip(pictures, ("QUILLFEATHER", "ZABRISKIE", "1931-04-02"), strict=False):
        burn_in(picture, word, 40, 20, 24)
    pictures.append(np.random.default_rng(0).integers(0, 255, (60, 90)).astype(np.uint8))
    pictures.append(pictures[0][:60, :200])
    path = need(PROGRAM, "tesseract-ocr")
    staying, alone = Ocr(path), Ocr(path, stays=False)
    read = [alone.read(picture) for picture in pictures]
    assert sum(map(bool, read)) >= 3
    assert [staying.read(picture) for picture in pictures] == read
    assert [staying.read(picture) for picture in reversed(pictures)] == read[::-1]


ROW = r"5\t%d\t1\t1\t1\t1\t0\t0\t10\t10\t96\t%s\n"
BLANK = r"1\t2\t0\t0\t0\t0\t0\t0\t64\t64\t-1\t\n"


def test_where_a_program_that_stayed_fails_another_reads_the_picture(tmp_path: Path) -> None:
    stays = f"read picture; read blank; printf '{ROW % (1, 'FIRST')}{BLANK}'; exit 1"
    alone = f"cat > /dev/null; printf '{ROW % (1, 'ALONE')}'"
    script = f'case "$*" in *stream_filelist*) {stays};; *) {alone};; esac'
    ocr = Ocr(program(tmp_path, script))
    picture = np.zeros((20, 20), np.uint8)
    assert [[word.text for word in ocr.read(picture)] for _ in range(2)] == [["FIRST"], ["ALONE"]]


def test_where_the_program_is_missing_it_is_off_unless_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ocr("auto") is None
    with pytest.raises(OcrError, match="tesseract-ocr"):
        find_ocr("require")
    program(tmp_path, "exit 0")
    assert find_ocr("auto") is not None
    assert find_ocr("off") is None


def test_thin_bright_lines_are_strokes_and_tissue_is_not() -> None:
    picture = np.zeros((300, 400), np.uint8)
    picture[100:200, 100:200] = 220
    assert not strokes(picture)[110:190, 110:190].any()
    picture[50, 50:90] = 255
    assert strokes(picture)[50, 50:90].all()


@pytest.mark.parametrize("bright", [(), (0, 0), (299, 399), (150, 3)])
def test_strokes_are_those_of_the_whole_picture(bright: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 80, (300, 400)).astype(np.uint8)
    if bright:
        row, column = bright
        picture[max(row - 40, 0) : row + 3, max(column - 60, 0) : column + 30] += 120
        picture[row, max(column - 90, 0) : column + 90] = 255
    opened = ndimage.grey_opening(picture, size=(6, 6))
    ink = (picture >= 90) & (picture - np.minimum(opened, picture) >= 60)
    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    assert (strokes(picture) == (ink & (sizes >= 4)[labels])).all()


def test_a_frame_unlike_its_neighbours_is_noticed() -> None:
    frames = np.random.default_rng(0).integers(0, 60, (20, 120, 160)).astype(np.uint8)
    assert flashing_frames(frames, EVERYWHERE) == []
    frames[13, 50:54, 40:80] = 250
    assert flashing_frames(frames, EVERYWHERE) == [13]
    outside = EVERYWHERE.copy()
    outside[50:54] = False
    assert flashing_frames(frames, outside) == []
    assert flashing_frames(frames[:2], EVERYWHERE) == []


def test_a_box_is_drawn_at_the_size_of_a_clean_frame() -> None:
    mask = text_mask([Box(200, 150, 300, 225)], 300, 400)
    assert mask[61:89, 81:119].all()
    assert mask.sum() == 30 * 40


def test_a_name_over_the_image_leaves_no_pixel_in_any_frame() -> None:
    pixels = cine()
    for frame in pixels:
        burn_in(frame, "ZABRISKIE", 150, 160, 16)
    ds = instance(pixels, regions=[region(0, 0, 399, 299)])
    (plain,) = flatten_frames(clean(ds))
    (chunk,) = flatten_frames(clean(ds), TextFinder(tesseract()))
    where = (plain.frames == 255).all(axis=0)
    assert where.sum() > 10
    assert chunk.frames[:, where].mean() < 10
    assert (chunk.frames[:, 90:] == plain.frames[:, 90:]).all()
    assert chunk.header.text_boxes
    assert plain.header.text_boxes is None


def test_a_clip_whose_text_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    pixels = cine()
    for frame in pixels:
        burn_in(frame, "ZABRISKIE", 150, 160, 16)
    ds = instance(pixels, regions=[region(0, 0, 399, 299)])
    with pytest.raises(RejectedError) as raised:
        list(flatten_frames(clean(ds), TextFinder(Ocr(program(tmp_path, "exit 1")))))
    assert raised.value.reason is Reason.UNREAD_TEXT
    assert (raised.value.frames_kept, raised.value.parts) == (0, 1)
    assert raised.value.__cause__ is None
