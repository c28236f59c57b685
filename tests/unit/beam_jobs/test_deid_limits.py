"""What is refused before it is decoded, and by which reason; and strays that are no reason at all."""

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from beam_jobs.deid import RejectedError, read_instance
from beam_jobs.frames import flatten_frames, grey_frames
from beam_jobs.records import Reason
from tests.made_files import as_bytes, clean, encapsulated, instance, region, speckle_cine, written

JPEG_XL = [UID(f"1.2.840.10008.1.2.4.{number}") for number in (110, 111, 112)]
LONG = 60_000


def reason_of(ds: Any) -> Reason:
    with pytest.raises(RejectedError) as raised:
        list(grey_frames(clean(ds)))
    return raised.value.reason


@pytest.mark.parametrize("syntax", [*JPEG_XL, HTJ2KLossless, UID("1.2.840.10008.1.2.4.92"), UID("1.2.3.4")])
def test_a_syntax_that_cannot_be_decoded_is_refused_by_its_name(syntax: UID) -> None:
    ds = encapsulated(instance(speckle_cine(1, 60, 80)), [b"\xff\x0a" + b"\0" * 20], syntax)
    assert reason_of(ds) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_a_deflated_instance_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    data = as_bytes(instance(np.zeros((1, 60, 80), np.uint8)))
    meta, rest = data[: data.index(b"\x08\x00\x16\x00")], b"\0" * (1 << 26)
    meta = meta.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    length = struct.pack("<H", len(DeflatedExplicitVRLittleEndian))
    meta = meta.replace(struct.pack("<H", 20) + b"1.2.840.10008.1.2.1.99", length + b"1.2.840.10008.1.2.1.99")
    path = tmp_path / "deflated.dcm"
    path.write_bytes(meta + zlib.compress(rest)[2:-4])
    tracemalloc.start()
    try:
        with pytest.raises(RejectedError) as raised:
            read_instance(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX
    assert peak_bytes < 1 << 24


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": 65_535, "Columns": 65_535},
        {"NumberOfFrames": 40_000},
        {"Rows": 8_000, "Columns": 8_000, "NumberOfFrames": 2_000},
        {"NumberOfFrames": 2**31 - 1},
    ],
)
@pytest.mark.parametrize("syntax", [None, JPEGBaseline8Bit, RLELossless, UID("1.2.840.10008.1.2.4.102")])
def test_a_header_that_promises_too_much_is_refused(elements: dict[str, Any], syntax: UID | None) -> None:
    ds = instance(np.zeros((1, 60, 80), np.uint8), **elements)
    if syntax is not None:
        ds = encapsulated(ds, [b"\0\0"], syntax)
    with pytest.raises(RejectedError) as raised:
        clean(ds)
    assert raised.value.reason is Reason.TOO_LARGE


def huge_jpeg() -> bytes:
    frame: bytes = simplejpeg.encode_jpeg(np.zeros((16, 16, 1), np.uint8), colorspace="GRAY")
    place = frame.index(b"\xff\xc0") + 5
    return frame[:place] + struct.pack(">HH", LONG, LONG) + frame[place + 4 :]


def huge_jpeg_ls() -> bytes:
    return b"\xff\xd8\xff\xf7\x00\x0b\x08" + struct.pack(">HH", LONG, LONG) + b"\x01\x01\x11\x00" + b"\0" * 40


def huge_jpeg_2000() -> bytes:
    size = struct.pack(">HHLLLLLLLLH", 41, 0, LONG, LONG, 0, 0, LONG, LONG, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + size + b"\0" * 40


def long_rle() -> bytes:
    """A segment that would run on for a hundred times as much as the frame has."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\xff" * 4_000


BOMBS = [
    (JPEGBaseline8Bit, huge_jpeg),
    (JPEGExtended12Bit, huge_jpeg),
    (JPEGLosslessSV1, huge_jpeg),
    (JPEGLSLossless, huge_jpeg_ls),
    (JPEG2000Lossless, huge_jpeg_2000),
]


@pytest.mark.parametrize(
    ("syntax", "bomb"), BOMBS, ids=[bomb.__name__ + syntax[-2:] for syntax, bomb in BOMBS]
)
def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(syntax: UID, bomb: Any) -> None:
    ds = encapsulated(instance(np.zeros((1, 60, 80), np.uint8)), [bomb()], syntax)
    tracemalloc.start()
    try:
        assert reason_of(ds) is Reason.CORRUPT_PIXELS
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 22


def test_run_lengths_that_run_on_give_a_frame_of_its_size_or_a_reason() -> None:
    ds = encapsulated(instance(np.zeros((1, 60, 80), np.uint8)), [long_rle()], RLELossless)
    tracemalloc.start()
    try:
        found: list[Any] = []
        try:
            found.extend(grey_frames(clean(ds)))
        except RejectedError as error:
            assert error.reason is Reason.CORRUPT_PIXELS  # noqa: PT017 - either is right
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) <= 1
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<16L", 0, *[0] * 15),  # a program that trusts it divides by this
        struct.pack("<16L", 3, 64, 70, 80, *[0] * 12),
        struct.pack("<16L", 1, 0, *[0] * 14),
        struct.pack("<16L", 1, 2**32 - 1, *[0] * 14),
        struct.pack("<16L", 2**32 - 1, *[64] * 15),
        b"\1\0\0\0",
    ],
)
def test_a_header_of_run_lengths_that_makes_no_sense_is_corrupt(header: bytes) -> None:
    frame = header + b"\x81\xff" * 40
    ds = encapsulated(instance(np.zeros((1, 60, 80), np.uint8)), [frame], RLELossless)
    assert reason_of(ds) is Reason.CORRUPT_PIXELS


def test_a_fragment_longer_than_any_frame_is_refused_unread() -> None:
    ds = encapsulated(instance(np.zeros((1, 60, 80), np.uint8)), [b"\0"], JPEGBaseline8Bit)
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\xfe\xff\xff\x7f"
    assert reason_of(ds) is Reason.CORRUPT_PIXELS


@pytest.mark.parametrize(
    "stray", [b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"], ids=["item", "end"]
)
@pytest.mark.parametrize("before", [b"\x08\x00\x60\x00CS", b"\x28\x00\x02\x00US", b"\xe0\x7f\x10\x00"])
@pytest.mark.parametrize("is_encapsulated", [False, True])
def test_stray_delimiters_at_the_level_of_the_dataset_are_stepped_over(
    tmp_path: Path, stray: bytes, before: bytes, is_encapsulated: bool
) -> None:
    pixels = speckle_cine(3)
    ds = instance(pixels, regions=[region(0, 0, 399, 299)])
    if is_encapsulated:
        jpegs = [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY") for frame in pixels]
        ds = encapsulated(ds, jpegs)
    data = as_bytes(ds)
    place = data.index(before)
    path = tmp_path / "stray.dcm"
    path.write_bytes(data[:place] + stray + data[place:])
    whole = next(flatten_frames(clean(written(ds, tmp_path / "whole.dcm"))))
    assert np.array_equal(next(flatten_frames(clean(path))).frames, whole.frames)


@pytest.mark.parametrize(
    "elements",
    [
        {"HighBit": 3},  # below the bits that are stored
        {"HighBit": 9},  # above those that are allocated
        {"BitsAllocated": 32},
        {"BitsStored": 9},
        {"SamplesPerPixel": 2},
        {"PhotometricInterpretation": "CMYK"},
    ],
)
def test_a_description_of_pixels_that_makes_no_sense_is_unsupported(elements: dict[str, Any]) -> None:
    with pytest.raises(RejectedError) as raised:
        clean(instance(np.zeros((1, 60, 80), np.uint8), **elements))
    assert raised.value.reason is Reason.UNSUPPORTED_PIXELS


def test_half_colour_of_an_odd_width_is_truncated_and_no_error() -> None:
    ds = instance(np.zeros((1, 60, 81, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = b"\0" * (60 * 81 * 2)
    assert reason_of(ds) is Reason.TRUNCATED_PIXELS
