"""Whatever the pixels are: nothing beyond the limits, nothing outside the regions, nothing but a reason."""

import random
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from beam_jobs.deid import RejectedError
from beam_jobs.deid.hull import convex_hull
from beam_jobs.deid.morphology import closed, opened
from beam_jobs.deid.pixel_format import MAX_FRAME_SAMPLES, MAX_FRAMES, MAX_TOTAL_SAMPLES, read_pixel_format
from beam_jobs.deid.pixels import keep_mask
from beam_jobs.deid.redaction import redact
from beam_jobs.deid.regions import RegionMasks, full_size_mask, read_regions
from beam_jobs.deid.segments import strip_segments
from beam_jobs.frames import grey_frames
from tests.made_files import as_bytes, burn_in, clean, encapsulated, header, instance, region, speckle_cine

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHORTS = st.integers(0, 65_535)
SECTOR = speckle_cine(3, 60, 80)
JPEG = simplejpeg.encode_jpeg(SECTOR[0][..., None], colorspace="GRAY")


@given(
    rows=SHORTS,
    columns=SHORTS,
    samples=st.integers(0, 4),
    frames=st.one_of(st.integers(-2, 50_000), st.integers(-(2**31), 2**31 - 1)),
    bits=st.tuples(st.integers(0, 32), st.integers(0, 32), st.integers(0, 32)),
    photometric=st.sampled_from(
        ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL_422", "PALETTE COLOR", "", "X"]
    ),
)
def test_what_a_header_promises_is_within_the_limits_or_refused(
    *, rows: int, columns: int, samples: int, frames: int, bits: tuple[int, int, int], photometric: str
) -> None:
    allocated, stored, high = bits
    ds = header(
        Rows=rows,
        Columns=columns,
        SamplesPerPixel=samples,
        NumberOfFrames=frames,
        BitsAllocated=allocated,
        BitsStored=stored,
        HighBit=high,
        PhotometricInterpretation=photometric,
    )
    try:
        pixels = read_pixel_format(ds)
    except RejectedError:
        return
    assert 1 <= pixels.number_of_frames <= MAX_FRAMES
    assert 1 <= pixels.frame_samples <= MAX_FRAME_SAMPLES
    assert pixels.frame_samples * pixels.number_of_frames <= MAX_TOTAL_SAMPLES
    assert 1 <= pixels.bits_stored <= pixels.high_bit + 1 <= pixels.bits_allocated


def tag_of(keyword: str) -> int:
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    return tag


EDGES = st.integers(-1000, 3000)


@given(boxes=st.lists(st.tuples(EDGES, EDGES, EDGES, EDGES, st.integers(0, 5)), max_size=4))
def test_a_box_is_on_the_screen_or_not_believed(boxes: list[tuple[int, int, int, int, int]]) -> None:
    # Edges are unsigned in the Standard; some machines write what they like.
    items = []
    for left, top, right, bottom, kind in boxes:
        items.append(region(0, 0, 1, 1, spatial_format=kind))
        for name, edge in (("MinX0", left), ("MinY0", top), ("MaxX1", right), ("MaxY1", bottom)):
            items[-1].add_new(tag_of(f"RegionLocation{name}"), "SL", edge)
    found = read_regions(header(regions=items), 600, 800)
    mask = full_size_mask(np.ones((120, 160), np.bool_), found, 600, 800)
    believed = [one.box for one in found if one.box is not None]
    for box in believed:
        assert 0 <= box.left < box.right <= 800
        assert 0 <= box.top < box.bottom <= 600
    inside = np.zeros((600, 800), np.bool_)
    for box in believed:
        inside[box.top : box.bottom, box.left : box.right] = True
    assert np.array_equal(mask, inside if believed else np.ones_like(inside))


@QUICK
@given(seed=st.integers(0, 2**32), count=st.sampled_from([1, 2, 5, 16]), smooth=st.booleans())
def test_a_keep_mask_never_leaves_the_regions(seed: int, count: int, *, smooth: bool) -> None:
    chance = np.random.default_rng(seed)
    frames = chance.integers(0, 256, (count, 120, 160), np.uint8)
    if smooth:
        frames[:, chance.random((120, 160)) < 0.5] = 0
    inside = np.zeros((120, 160), np.bool_)
    top, left = chance.integers(0, 60), chance.integers(0, 80)
    inside[top : top + chance.integers(5, 60), left : left + chance.integers(5, 80)] = True
    for is_trusted in (True, False):
        try:
            keep = keep_mask(frames, RegionMasks((inside,), (inside,), are_of_header=is_trusted))
        except RejectedError:
            continue
        assert keep.any()
        assert not (keep & ~inside).any()


@given(seed=st.integers(0, 2**32), part=st.floats(0, 1), size=st.integers(1, 9))
def test_opening_takes_closing_adds_and_a_hull_holds_all(seed: int, part: float, size: int) -> None:
    mask = np.random.default_rng(seed).random((20, 30)) < part
    assert not (opened(mask, size) & ~mask).any()
    assert not (mask & ~closed(mask, size)).any()
    assert not (mask & ~convex_hull(mask)).any()


@given(
    contents=st.lists(st.tuples(st.integers(0xE0, 0xFE), st.binary(max_size=40)), max_size=5),
    mark=st.just(b"DOE^JANE^4711"),
)
def test_nothing_that_a_jpeg_says_beside_its_picture_is_released(
    contents: list[tuple[int, bytes]], mark: bytes
) -> None:
    said = [(marker if marker < 0xF0 else 0xFE, content + mark) for marker, content in contents]
    segments = [struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in said]
    stripped = strip_segments(JPEG[:2] + b"".join(segments) + JPEG[2:])
    assert mark not in stripped
    assert np.array_equal(
        simplejpeg.decode_jpeg(stripped, colorspace="GRAY"), simplejpeg.decode_jpeg(JPEG, colorspace="GRAY")
    )


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\xff\xd8", JPEG[:100], JPEG[:-30]]))
def test_segments_are_stripped_or_refused(data: bytes, start: bytes) -> None:
    try:
        stripped = strip_segments(start + data)
    except RejectedError:
        return
    assert stripped.startswith(b"\xff\xd8")


def run_lengths(frame: np.ndarray[Any, Any]) -> bytes:
    """Encode without a repeat: each run is its length and its bytes (PS3.5 G.3.1)."""
    data = frame.tobytes()
    runs = b"".join(
        bytes([len(data[start : start + 128]) - 1]) + data[start : start + 128]
        for start in range(0, len(data), 128)
    )
    return struct.pack("<16L", 1, 64, *[0] * 14) + runs + b"\0" * (len(runs) % 2)


@settings(QUICK, max_examples=100)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 8), cut=st.integers(0, 4000))
def test_run_lengths_give_a_frame_or_a_reason(seed: int, changes: int, cut: int) -> None:
    chance = random.Random(seed)
    encoded = bytearray(run_lengths(SECTOR[0]))
    for _ in range(changes):
        encoded[chance.randrange(len(encoded))] = chance.randrange(256)
    frame = bytes(encoded[: len(encoded) - cut])
    try:
        (grey,) = grey_frames(clean(encapsulated(instance(SECTOR[:1]), [frame], RLELossless)))
    except RejectedError:
        assert changes or cut
        return
    if not changes and not cut:
        whole = next(grey_frames(clean(instance(SECTOR[:1]))))
        assert np.array_equal(grey, whole)


def marked_file(*, is_encapsulated: bool) -> bytes:
    pixels = speckle_cine(3, 60, 80)
    for frame in pixels:
        burn_in(frame, "DOE", 1, 0, 8)
    ds = instance(pixels, regions=[region(0, 0, 79, 59)])
    if is_encapsulated:
        ds = encapsulated(
            ds, [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY") for frame in pixels]
        )
    return as_bytes(ds)


FILES = {kind: marked_file(is_encapsulated=kind) for kind in (False, True)}


@settings(QUICK, max_examples=80)
@given(kind=st.booleans(), seed=st.integers(0, 2**32), changes=st.integers(0, 10))
def test_a_file_with_changed_bytes_is_redacted_or_refused(kind: bool, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    data = bytearray(FILES[kind])
    for _ in range(changes):
        data[chance.randrange(chance.choice((1400, len(data))))] = chance.randrange(256)
    try:
        ds = pydicom.dcmread(BytesIO(bytes(data)), force=True)
    except Exception:  # noqa: BLE001 - what pydicom cannot read never reaches the redaction
        return
    try:
        redacted = redact(ds)
    except RejectedError as error:
        assert changes
        assert error.__context__ is None  # noqa: PT017
        return
    assert redacted.is_reencoded or changes
    assert len(redacted.pixel_data) % 2 == 0
