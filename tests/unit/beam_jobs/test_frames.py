"""Chunks, cut and broken cines, limits, and colour by arithmetic."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from beam_jobs.deid import RejectedError
from beam_jobs.frames import colour_frames, flatten_frames, grey_frames
from beam_jobs.records import CHUNK_FRAMES, Chunk, Reason
from tests.made_files import as_bytes, clean, encapsulated, instance, region, speckle_cine, written

WHOLE_STRIP = [region(0, 0, 39, 20, spatial_format=3)]


def trace(number_of_frames: int) -> npt.NDArray[np.uint8]:
    """Fill small frames with a trace, as a Doppler strip is."""
    few = np.random.default_rng(0).integers(1, 255, (16, 30, 40), np.uint8)
    return np.resize(few, (number_of_frames, 30, 40))


def jpegs(pixels: npt.NDArray[np.uint8]) -> list[bytes]:
    return [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY") for frame in pixels]


def jpeg_cine(number_of_frames: int) -> Any:
    pixels = speckle_cine(number_of_frames)
    return encapsulated(instance(pixels), jpegs(pixels))


def collect(result: Any) -> tuple[list[Chunk], RejectedError | None]:
    chunks: list[Chunk] = []
    try:
        chunks.extend(flatten_frames(result))
    except RejectedError as error:
        return chunks, error
    return chunks, None


def test_every_frame_is_there_once_and_in_order() -> None:
    pixels = speckle_cine(7)
    (chunk,) = flatten_frames(clean(instance(pixels)))
    assert (chunk.first_frame_index, chunk.parts) == (0, 1)
    nearest = [
        np.asarray(Image.fromarray(frame).resize((160, 120), Image.Resampling.NEAREST)) for frame in pixels
    ]
    assert np.array_equal(chunk.frames, np.where(chunk.frames > 0, nearest, 0))
    assert all(frame.any() for frame in chunk.frames)


@pytest.mark.parametrize(
    ("number_of_frames", "sizes"),
    [
        (1, [1]),
        (CHUNK_FRAMES, [CHUNK_FRAMES]),
        (CHUNK_FRAMES + 1, [CHUNK_FRAMES, 1]),
        (2 * CHUNK_FRAMES + 5, [CHUNK_FRAMES, CHUNK_FRAMES, 5]),
    ],
)
def test_long_cines_travel_in_chunks_and_the_last_says_how_many(
    number_of_frames: int, sizes: list[int]
) -> None:
    pixels = trace(number_of_frames)
    chunks = list(flatten_frames(clean(instance(pixels, regions=WHOLE_STRIP))))
    assert [len(chunk.frames) for chunk in chunks] == sizes
    assert [chunk.parts for chunk in chunks] == [0] * (len(sizes) - 1) + [len(sizes)]
    assert [chunk.first_frame_index for chunk in chunks] == [
        CHUNK_FRAMES * part for part in range(len(sizes))
    ]


def test_one_mask_holds_for_all_chunks() -> None:
    pixels = trace(CHUNK_FRAMES + 1)
    *_, last = flatten_frames(clean(instance(pixels, regions=WHOLE_STRIP)))
    assert last.frames[0, :80].all()
    assert not last.frames[0, 88:].any()


@pytest.mark.parametrize("is_encapsulated", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_cut_cine_keeps_the_frames_before_the_cut(tmp_path: Path, is_encapsulated: bool, kept: int) -> None:
    ds = jpeg_cine(6) if is_encapsulated else instance(speckle_cine(6))
    data = as_bytes(ds)
    if is_encapsulated:
        frames = jpegs(speckle_cine(6))
        cut = data.index(frames[kept]) + len(frames[kept]) // 2
    else:
        cut = len(data) - 300 * 400 * (6 - kept) + 5
    path = tmp_path / "cut.dcm"
    path.write_bytes(data[:cut])
    chunks, error = collect(clean(path))
    assert error is not None
    assert error.reason is Reason.TRUNCATED_PIXELS
    assert error.frames_kept == sum(len(chunk.frames) for chunk in chunks) == kept
    assert [chunk.parts for chunk in chunks] == [0] * len(chunks)
    assert error.parts == len(chunks) + 1


def test_a_cine_with_fewer_frames_than_it_says_is_truncated() -> None:
    pixels = speckle_cine(4)
    chunks, error = collect(clean(encapsulated(instance(pixels, NumberOfFrames=9), jpegs(pixels))))
    assert error is not None
    assert (error.reason, error.frames_kept) == (Reason.TRUNCATED_PIXELS, 4)
    assert len(chunks) == 1


def test_a_cine_with_more_frames_than_it_says_gives_those_it_says() -> None:
    pixels = speckle_cine(4)
    (chunk,) = flatten_frames(clean(encapsulated(instance(pixels, NumberOfFrames=2), jpegs(pixels))))
    assert len(chunk.frames) == 2


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\0\2",
        b"not a frame at all",
        b"\xff\xd8\xff\xff\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
def test_a_broken_frame_ends_the_instance_and_keeps_those_before(broken: bytes, syntax: Any) -> None:
    pixels = speckle_cine(3)
    good = jpegs(pixels) if syntax == JPEGBaseline8Bit else []
    _, error = collect(clean(encapsulated(instance(pixels), [*good[:2], broken or b"\0", *good[2:]], syntax)))
    assert error is not None
    assert error.reason is Reason.CORRUPT_PIXELS
    assert error.frames_kept == len(good[:2])


def test_a_broken_run_length_is_corrupt() -> None:
    ds = encapsulated(
        instance(speckle_cine(1)), [struct.pack("<16L", 1, 64, *[0] * 14) + b"\x05\x01"], RLELossless
    )
    _, error = collect(clean(ds))
    assert error is not None
    assert error.reason is Reason.CORRUPT_PIXELS


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("was decoded")

    monkeypatch.setattr("beam_jobs.deid.decoders.simplejpeg.decode_jpeg", fail)
    small = instance(np.zeros((1, 30, 40), np.uint8))
    _, error = collect(clean(encapsulated(small, jpegs(speckle_cine(1)))))
    assert error is not None
    assert error.reason is Reason.CORRUPT_PIXELS


def test_twelve_bits_of_jpeg_are_unsupported() -> None:
    pixels = speckle_cine(1)
    (frame,) = jpegs(pixels)
    place = frame.index(b"\xff\xc0") + 4
    _, error = collect(clean(encapsulated(instance(pixels), [frame[:place] + b"\x0c" + frame[place + 1 :]])))
    assert error is not None
    assert error.reason is Reason.UNSUPPORTED_PIXELS


def test_native_pixels_under_an_encapsulated_syntax_are_corrupt() -> None:
    ds = instance(speckle_cine(1))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    _, error = collect(clean(ds))
    assert error is not None
    assert error.reason is Reason.CORRUPT_PIXELS


@pytest.mark.parametrize("fragment_bytes", [1000, 4000])
@pytest.mark.parametrize("has_end", [True, False])
def test_frames_in_several_fragments_are_joined(fragment_bytes: int, has_end: bool) -> None:
    pixels = speckle_cine(3)
    fragments = [
        frame[start : start + fragment_bytes]
        for frame in jpegs(pixels)
        for start in range(0, len(frame), fragment_bytes)
    ]
    items = b"".join(
        b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part) + len(part) % 2) + part + b"\0" * (len(part) % 2)
        for part in [b"", *fragments]
    )
    ds = jpeg_cine(3)
    ds.PixelData = items + (b"\xfe\xff\xdd\xe0\0\0\0\0" if has_end else b"")
    (chunk,) = flatten_frames(clean(ds))
    (whole,) = flatten_frames(clean(jpeg_cine(3)))
    assert np.array_equal(chunk.frames, whole.frames)


def test_pixels_in_memory_and_in_a_file_are_the_same(tmp_path: Path) -> None:
    ds = jpeg_cine(5)
    (from_memory,) = flatten_frames(clean(ds))
    (from_file,) = flatten_frames(clean(written(ds, tmp_path / "instance.dcm")))
    assert np.array_equal(from_memory.frames, from_file.frames)


@pytest.mark.parametrize("is_encapsulated", [False, True])
def test_one_frame_of_full_size_is_in_memory_at_a_time(tmp_path: Path, is_encapsulated: bool) -> None:
    pixels = speckle_cine(20, 1200, 1600)
    ds = instance(pixels)
    path = written(encapsulated(ds, jpegs(pixels)) if is_encapsulated else ds, tmp_path / "instance.dcm")
    next(flatten_frames(clean(path)))
    tracemalloc.start()
    try:
        (chunk,) = flatten_frames(clean(path))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The encoded frame, the decoded one, and what the mask is found with.
    assert len(chunk.frames) == 20
    assert peak_bytes < 3 * pixels[0].nbytes + 6 * chunk.frames.nbytes


# Colour by arithmetic: one colour over the whole frame, in each way to store it.

RED = (200, 30, 60)
RED_LUMINANCE = round(0.299 * 200 + 0.587 * 30 + 0.114 * 60)


def only_frame(ds: Any) -> npt.NDArray[np.uint8]:
    (frame,) = grey_frames(clean(ds))
    return frame


def plain(colour: tuple[int, ...], rows: int = 30, columns: int = 40) -> npt.NDArray[np.uint8]:
    return np.full((1, rows, columns, len(colour)), colour, np.uint8)


def test_rgb_is_weighed() -> None:
    assert (only_frame(instance(plain(RED))) == RED_LUMINANCE).all()


def test_rgb_by_plane_is_weighed() -> None:
    ds = instance(plain(RED), PlanarConfiguration=1)
    ds.PixelData = np.ascontiguousarray(plain(RED).transpose(0, 3, 1, 2)).tobytes()
    assert (only_frame(ds) == RED_LUMINANCE).all()


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full_gives_its_first_channel(planar: int) -> None:
    pixels = plain((77, 10, 240))
    ds = instance(pixels, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=planar)
    if planar:
        ds.PixelData = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).tobytes()
    assert (only_frame(ds) == 77).all()


def test_native_ybr_full_422_gives_both_luminances_of_each_pair() -> None:
    ds = instance(plain((0, 0, 0), 120, 160), PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = bytes([10, 20, 128, 128]) * (120 * 80)
    frame = only_frame(ds)
    assert (frame[:, ::2] == 10).all()
    assert (frame[:, 1::2] == 20).all()


def test_native_ybr_full_422_that_is_not_subsampled_is_read_as_it_lies() -> None:
    assert (only_frame(instance(plain((77, 10, 240)), PhotometricInterpretation="YBR_FULL_422")) == 77).all()


def test_ybr_black_that_would_be_green_is_black() -> None:
    assert not only_frame(instance(plain((0, 0, 0)), PhotometricInterpretation="YBR_FULL")).any()


def test_monochrome1_is_inverted() -> None:
    pixels = np.full((1, 30, 40), 200, np.uint8)
    assert (only_frame(instance(pixels, PhotometricInterpretation="MONOCHROME1")) == 55).all()
    ds = encapsulated(instance(pixels, PhotometricInterpretation="MONOCHROME1"), jpegs(pixels))
    assert (only_frame(ds) == 55).all()


@pytest.mark.parametrize(
    ("value", "elements", "grey"),
    [
        (0xFFFF, {}, 255),
        (0x8000, {}, 128),
        (0x0FFF, {"BitsStored": 12, "HighBit": 11}, 255),
        (650, {"WindowCenter": 600.5, "WindowWidth": 201}, 191),
        (500, {"WindowCenter": 600.5, "WindowWidth": 201}, 0),
        (5000, {"WindowCenter": 600.5, "WindowWidth": 201}, 255),
        (320, {"WindowCenter": 600.5, "WindowWidth": 201, "RescaleSlope": 2, "RescaleIntercept": 10}, 191),
    ],
)
def test_sixteen_bits_go_through_the_window_or_the_stored_range(
    value: int, elements: dict[str, Any], grey: int
) -> None:
    assert (only_frame(instance(np.full((1, 30, 40), value, np.uint16), **elements)) == grey).all()


@pytest.mark.parametrize("high_bit", [11, 15])
def test_bits_that_are_no_pixels_are_not_seen(high_bit: int) -> None:
    below = high_bit - 11
    pixels = np.full((1, 30, 40), 0x800 << below, np.uint16)
    pixels[:, 10:20] |= (0xFFFF ^ (0xFFF << below)) & 0xFFFF  # an overlay, as old machines hide it
    frame = only_frame(instance(pixels, BitsStored=12, HighBit=high_bit))
    assert (frame == 128).all()


def test_signed_samples_begin_below_zero() -> None:
    pixels = np.full((1, 30, 40), -32768, np.int16)
    pixels[:, :, 20:] = 32767
    frame = only_frame(instance(pixels))
    assert (frame[:, :80] == 0).all()
    assert (frame[:, 80:] == 255).all()


@pytest.mark.parametrize("says", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("is_rgb", [False, True])
def test_the_colour_space_of_a_jpeg_is_its_own_not_the_headers(says: str, is_rgb: bool) -> None:
    # A stream that an encoder marks with Adobe's transform 0 holds RGB.
    coded = simplejpeg.encode_jpeg(plain(RED)[0], colorspace="RGB", colorsubsampling="444", quality=100)
    if is_rgb:
        planes = [simplejpeg.encode_jpeg(plain((part,))[0], colorspace="GRAY", quality=100) for part in RED]
        coded = _rgb_jpeg(planes)
    ds = encapsulated(instance(plain(RED), PhotometricInterpretation=says), [coded])
    assert np.abs(only_frame(ds).astype(int) - RED_LUMINANCE).max() <= 1
    (colour,) = colour_frames(clean(ds), [0])
    assert np.abs(colour.astype(int) - RED).max() <= 2


def _rgb_jpeg(planes: list[bytes]) -> bytes:
    """Make a three-component JPEG of three grey ones: their scans, one after another."""
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0"
    first = planes[0]
    start = first.index(b"\xff\xc0")
    tables = first[2:start]
    app0 = tables.index(b"\xff\xdb")
    frame_header = b"\xff\xc0\x00\x11\x08" + first[start + 5 : start + 9] + b"\x03"
    frame_header += b"".join(bytes([name, 0x11, 0]) for name in b"RGB")
    scans = b""
    for name, plane in zip(b"RGB", planes, strict=True):
        scan = plane.index(b"\xff\xda")
        huffman = plane[plane.index(b"\xff\xc4") : scan]
        scans += huffman + b"\xff\xda\x00\x08\x01" + bytes([name, 0, 0, 63, 0]) + plane[scan + 10 : -2]
    return b"\xff\xd8" + adobe + tables[app0:] + frame_header + scans + b"\xff\xd9"
