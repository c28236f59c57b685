"""Video clips: every codec the syntaxes allow, nothing else, and never more than the header describes."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.uid import HEVCMP51, MPEG2MPHL, MPEG2MPML, MPEG4HP41, MPEG4HP41F, UID, RLELossless
from scipy import ndimage

from beam_jobs.deid import RejectedError
from beam_jobs.deid.redaction import redact
from beam_jobs.frames import colour_frames, flatten_frames, grey_frames
from beam_jobs.records import Reason
from tests.made_files import clean, encapsulated, instance, region, speckle_cine, written

av = pytest.importorskip("av", reason="the extra `video` is not installed")

ROWS, COLUMNS, FRAMES = 120, 160, 8
RED = (200, 30, 60)


def moving_picture() -> npt.NDArray[np.uint8]:
    """Smooth speckle in a sector, and something red: [N, H, W, 3]."""
    speckle = speckle_cine(FRAMES, ROWS, COLUMNS)
    grey = np.stack([ndimage.gaussian_filter(frame, 1.2) for frame in speckle])
    colour = np.repeat(grey[..., None], 3, axis=3)
    colour[:, 60:80, 70:100] = RED
    return colour


PICTURE = moving_picture()
OPTIONS = {
    "mpeg2video": {"b": "8000000"},
    "libx264": {"crf": "4", "preset": "ultrafast"},
    "libx265": {"crf": "4", "preset": "ultrafast", "x265-params": "log-level=none"},
    "mpeg4": {"b": "8000000"},
}


def video(codec: str, container: str, frames: npt.NDArray[np.uint8] = PICTURE) -> bytes:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode by {codec}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=OPTIONS[codec])
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def clip(data: bytes, syntax: UID, **elements: Any) -> Any:
    described = {"PhotometricInterpretation": "YBR_PARTIAL_420"} | elements
    ds = instance(PICTURE, regions=[region(0, 0, COLUMNS - 1, ROWS - 1)], **described)
    return encapsulated(ds, [data], syntax)


def refused(ds: Any) -> Reason:
    with pytest.raises(RejectedError) as raised:
        list(grey_frames(clean(ds)))
    assert raised.value.__context__ is None
    return raised.value.reason


@pytest.mark.parametrize(
    ("codec", "container", "syntax"),
    [
        ("mpeg2video", "mpegts", MPEG2MPML),
        ("mpeg2video", "vob", MPEG2MPHL),
        ("mpeg2video", "mpeg2video", MPEG2MPML),
        ("libx264", "mp4", MPEG4HP41),
        ("libx264", "mpegts", MPEG4HP41),
        ("libx264", "h264", MPEG4HP41),
        ("libx265", "mp4", HEVCMP51),
        ("libx265", "mpegts", HEVCMP51),
    ],
)
def test_every_frame_of_a_video_is_decoded_in_its_colour(codec: str, container: str, syntax: UID) -> None:
    result = clean(clip(video(codec, container), syntax))
    greys = list(grey_frames(result))
    assert len(greys) == FRAMES
    expected = PICTURE @ np.array([0.299, 0.587, 0.114])
    for grey, wanted in zip(greys, expected, strict=True):
        assert np.abs(grey - wanted).mean() < 1.5
    (colour,) = colour_frames(result, [3])
    assert np.abs(colour[70, 85].astype(int) - RED).max() <= 8


def test_a_video_becomes_clean_frames_like_any_clip(tmp_path: Path) -> None:
    path = written(clip(video("libx264", "mp4"), MPEG4HP41), tmp_path / "instance.dcm")
    (chunk,) = flatten_frames(clean(path))
    assert len(chunk.frames) == FRAMES
    assert chunk.frames.any(axis=0).mean() > 0.2


def test_a_stream_in_fragments_is_joined() -> None:
    data = video("libx264", "mp4")  # whose index is at its end, so that it must be sought
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    items = b"".join(
        b"\xfe\xff\x00\xe0"
        + struct.pack("<L", len(piece) + len(piece) % 2)
        + piece
        + b"\0" * (len(piece) % 2)
        for piece in [b"", *pieces]
    )
    whole = clip(data, MPEG4HP41F)
    parted = clip(data, MPEG4HP41F)
    parted.PixelData = items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for one, other in zip(grey_frames(clean(whole)), grey_frames(clean(parted)), strict=True):
        assert np.array_equal(one, other)


def test_without_the_extra_a_video_is_rejected_by_a_reason_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RejectedError) as raised:
        list(grey_frames(clean(clip(b"\0" * 100, MPEG2MPML))))
    assert raised.value.reason is Reason.NO_VIDEO_DECODER


def test_a_codec_that_the_syntaxes_do_not_allow_is_refused() -> None:
    assert refused(clip(video("mpeg4", "mp4"), MPEG4HP41)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("data", [b"\0" * 2000, b"not a video" * 100, b"\x47" + b"\xff" * 4000])
def test_what_is_no_video_is_corrupt(data: bytes) -> None:
    assert refused(clip(data, MPEG2MPML)) in {Reason.CORRUPT_PIXELS, Reason.UNSUPPORTED_PIXELS}


def test_a_video_with_fewer_frames_than_declared_is_truncated_and_keeps_those_there_are() -> None:
    ds = clip(video("mpeg2video", "mpegts"), MPEG2MPML, NumberOfFrames=FRAMES + 3)
    found: list[Any] = []
    with pytest.raises(RejectedError) as raised:
        found.extend(flatten_frames(clean(ds)))
    assert raised.value.reason is Reason.TRUNCATED_PIXELS


def test_of_a_longer_video_only_the_declared_frames_are_given() -> None:
    ds = clip(video("mpeg2video", "mpegts"), MPEG2MPML, NumberOfFrames=2)
    assert len(list(grey_frames(clean(ds)))) == 2


def test_a_video_of_another_size_than_declared_is_refused() -> None:
    larger = np.zeros((3, 2 * ROWS, 2 * COLUMNS, 3), np.uint8)
    for codec, syntax in (("mpeg2video", MPEG2MPML), ("libx264", MPEG4HP41)):
        assert refused(clip(video(codec, "mpegts", larger), syntax)) is Reason.CORRUPT_PIXELS


def test_a_video_in_a_broken_encapsulation_is_refused() -> None:
    ds = clip(video("mpeg2video", "mpegts"), MPEG2MPML)
    ds.PixelData = ds.PixelData[:-5000]
    assert refused(ds) is Reason.TRUNCATED_PIXELS
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + b"no item at all"
    assert refused(ds) is Reason.CORRUPT_PIXELS


def test_a_stream_in_more_fragments_than_any_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(clip(video("mpeg2video", "mpegts"), MPEG2MPML), tmp_path / "instance.dcm")
    monkeypatch.setattr("beam_jobs.deid.fragments.MAX_FRAGMENTS", 1)
    with pytest.raises(RejectedError) as raised:
        list(grey_frames(clean(path)))
    assert raised.value.reason is Reason.TOO_LARGE


def test_a_redacted_video_is_a_jpeg_for_each_frame_without_what_was_beside_the_image() -> None:
    marked = PICTURE.copy()
    marked[:, 2:12, 5:150:3] = 255
    ds = clip(video("libx264", "mp4", marked), MPEG4HP41)
    redacted = redact(ds)
    assert redacted.is_reencoded
    assert (redacted.number_of_frames, redacted.samples_per_pixel) == (FRAMES, 3)
    again = instance(PICTURE, PhotometricInterpretation=redacted.photometric_interpretation)
    again.file_meta.TransferSyntaxUID = redacted.transfer_syntax
    again.PixelData = redacted.pixel_data
    for colour in colour_frames(clean(again), range(FRAMES)):
        assert colour[:12].max() < 10
        assert np.abs(colour[70, 85].astype(int) - RED).max() <= 12


def test_frames_of_a_video_cannot_be_read_one_by_one() -> None:
    ds = clip(video("mpeg2video", "mpegts"), RLELossless)
    assert refused(ds) in {Reason.CORRUPT_PIXELS, Reason.UNSUPPORTED_PIXELS}
