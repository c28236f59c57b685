"""Full-size frames without what lies beside the image: hidden in colour, and nothing else changed."""

import struct
import subprocess
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openjpeg
import pydicom
import pytest
import simplejpeg
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from beam_jobs.deid import RejectedError
from beam_jobs.deid.redaction import RedactedPixels, redact
from beam_jobs.deid.regions import Box
from beam_jobs.deid.segments import strip_segments
from beam_jobs.frames import colour_frames
from beam_jobs.records import Reason
from tests.made_files import (
    burn_in,
    clean,
    encapsulated,
    instance,
    region,
    sector_mask,
    speckle_cine,
    written,
)
from tests.real_files import REAL_FILES, dcmtk, real_file

ROWS, COLUMNS = 120, 160
INSIDE = sector_mask(ROWS, COLUMNS)
BESIDE = np.zeros_like(INSIDE)
BESIDE[:12] = BESIDE[:, :16] = BESIDE[:, -16:] = True  # more than a block of JPEG from the sector
WHOLE = [region(0, 0, COLUMNS - 1, ROWS - 1)]
MARK = "DOE^JANE"


def marked_cine(number_of_frames: int = 3) -> npt.NDArray[np.uint8]:
    pixels = speckle_cine(number_of_frames, ROWS, COLUMNS)
    for frame in pixels:
        burn_in(frame, MARK, 3, 1, 11)
    return pixels


def in_colour(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    colour = np.repeat(grey[..., None], 3, axis=3)
    colour[:, 60:70, 70:90] = (200, 30, 60)
    return colour


def put_back(ds: pydicom.Dataset, redacted: RedactedPixels) -> pydicom.Dataset:
    ds.file_meta.TransferSyntaxUID = redacted.transfer_syntax
    ds.PhotometricInterpretation = redacted.photometric_interpretation
    ds.SamplesPerPixel = redacted.samples_per_pixel
    if redacted.planar_configuration is not None:
        ds.PlanarConfiguration = redacted.planar_configuration
    ds.NumberOfFrames = redacted.number_of_frames
    ds.PixelData = redacted.pixel_data
    ds["PixelData"].VR = "OB" if redacted.transfer_syntax.is_encapsulated else "OW"
    return ds


def colours(ds: Any) -> npt.NDArray[np.int64]:
    result = clean(ds)
    return np.stack(list(colour_frames(result, range(result.header.number_of_frames)))).astype(np.int64)


def check(ds: Any, *, tolerance: int = 0) -> RedactedPixels:
    """Redact, and hold what is hidden and what is kept to the original."""
    before = colours(ds)
    redacted = redact(ds)
    after = colours(put_back(ds, redacted))
    assert redacted.is_reencoded
    assert after.shape == before.shape
    assert after[:, BESIDE].max() <= tolerance
    kept = np.zeros_like(INSIDE)
    kept[50:80, 70:90] = True
    assert np.abs(after[:, kept] - before[:, kept]).max() <= 4 * tolerance
    return redacted


KINDS = ["grey", "rgb", "planar", "ybr", "ybr_422", "partial_422", "palette", "mono1", "deep"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_big", [False, True])
def test_native_pixels_are_black_outside_and_untouched_inside(kind: str, is_big: bool) -> None:
    grey = marked_cine()
    elements: dict[str, Any] = {}
    pixels: npt.NDArray[Any] = grey
    if kind in {"rgb", "planar"}:
        pixels = in_colour(grey)
    elif kind.startswith(("ybr", "partial")):
        pixels = np.stack([grey, np.full_like(grey, 120), np.full_like(grey, 130)], axis=-1)
        elements["PhotometricInterpretation"] = {
            "ybr": "YBR_FULL",
            "ybr_422": "YBR_FULL_422",
            "partial_422": "YBR_PARTIAL_422",
        }[kind]
    elif kind == "palette":
        elements = palette()
    elif kind == "mono1":
        pixels, elements = 255 - grey, {"PhotometricInterpretation": "MONOCHROME1"}
    elif kind == "deep":
        pixels, elements = grey.astype(np.uint16) * 16, {"BitsStored": 12, "HighBit": 11}
    ds = instance(pixels, regions=WHOLE, **elements)
    if kind == "planar":
        ds.PlanarConfiguration = 1
        ds.PixelData = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).tobytes()
    if kind.endswith("422"):
        pairs = pixels.reshape(3, ROWS, COLUMNS // 2, 2, 3)
        ds.PixelData = np.concatenate([pairs[..., 0], pairs[..., 0, 1:]], axis=-1).tobytes()
    if is_big:
        ds = as_big_endian(ds)
    redacted = check(ds)
    assert redacted.transfer_syntax == pydicom.uid.ExplicitVRLittleEndian
    assert redacted.planar_configuration == {"planar": 1}.get(kind, 0 if pixels.ndim == 4 else None)


def palette() -> dict[str, Any]:
    """A palette in which 0 is bright and 7 is black."""
    table = np.roll(np.arange(256), 7).astype(np.uint16) * 257
    described: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        described[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        described[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    return described


def as_big_endian(ds: Any) -> Any:
    """Write the words of the pixels big endian; 8 bits go as they are, in OB."""
    if ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    return ds


def jpegs(frames: npt.NDArray[np.uint8], **options: Any) -> list[bytes]:
    if frames.ndim == 3:
        return [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY", quality=90) for frame in frames]
    return [simplejpeg.encode_jpeg(frame, quality=90, **options) for frame in frames]


@pytest.mark.parametrize("sampling", ["444", "422", "420", None])
def test_a_jpeg_keeps_its_tables_and_hardly_changes(sampling: str | None) -> None:
    grey = marked_cine()
    frames = jpegs(in_colour(grey), colorsubsampling=sampling) if sampling else jpegs(grey)
    ds = encapsulated(instance(in_colour(grey) if sampling else grey, regions=WHOLE), frames)
    redacted = check(ds, tolerance=14)
    assert redacted.transfer_syntax == JPEGBaseline8Bit
    # A header that says RGB of a JPEG that is not does not get away with it.
    assert redacted.photometric_interpretation == ("YBR_FULL_422" if sampling else "MONOCHROME2")
    (first, *_) = generate_frames(redacted.pixel_data, number_of_frames=3)
    ours, theirs = Image.open(BytesIO(first)), Image.open(BytesIO(frames[0]))
    assert ours.quantization == theirs.quantization  # type: ignore[attr-defined]


def test_a_jpeg_of_rgb_stays_one() -> None:
    colour = in_colour(marked_cine())
    frames = []
    for frame in colour:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", keep_rgb=True, quality=95)
        frames.append(buffer.getvalue())
    ds = encapsulated(instance(colour, regions=WHOLE, PhotometricInterpretation="YBR_FULL_422"), frames)
    assert check(ds, tolerance=14).photometric_interpretation == "RGB"


def losslessly(frame: npt.NDArray[np.uint8], syntax: Any) -> bytes:
    is_colour = frame.ndim == 3
    if syntax == JPEG2000Lossless:
        encoded: bytes = openjpeg.encode(
            frame, photometric_interpretation=1 if is_colour else 2, use_mct=False
        )
        return encoded
    options: dict[str, Any] = {"planar_configuration": 0} if is_colour else {}
    return get_encoder(syntax).encode(
        np.ascontiguousarray(frame),
        rows=ROWS,
        columns=COLUMNS,
        samples_per_pixel=3 if is_colour else 1,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        number_of_frames=1,
        photometric_interpretation="RGB" if is_colour else "MONOCHROME2",
        **options,
    )


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("is_colour", [False, True])
def test_what_was_lossless_stays_so(syntax: Any, is_colour: bool) -> None:
    pixels = in_colour(marked_cine()) if is_colour else marked_cine()
    ds = instance(pixels, regions=WHOLE)
    redacted = check(encapsulated(ds, [losslessly(frame, syntax) for frame in pixels], syntax))
    kept = {RLELossless: RLELossless, JPEGLSLossless: JPEGLSLossless}
    assert redacted.transfer_syntax == kept.get(syntax, JPEGLSLossless)


def test_twelve_bits_of_jpeg_are_kept_without_another_loss(tmp_path: Path) -> None:
    pixels = marked_cine(1).astype(np.uint16) * 16
    native = written(instance(pixels, regions=WHOLE, BitsStored=12, HighBit=11), tmp_path / "native.dcm")
    path = tmp_path / "deep.dcm"
    subprocess.run([dcmtk("dcmcjpeg"), "+ee", str(native), str(path)], check=True, capture_output=True)
    ds = pydicom.dcmread(path)
    assert ds.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    redacted = check(ds)
    assert redacted.transfer_syntax == JPEGLSLossless


def test_a_frame_in_which_nothing_had_to_be_hidden_stays_as_it_was_encoded() -> None:
    pixels = speckle_cine(3, ROWS, COLUMNS)
    keep = np.ones((120, 160), np.bool_)
    frames = jpegs(pixels)
    ds = encapsulated(instance(pixels, regions=WHOLE), frames)
    redacted = redact(ds, keep=keep)
    assert not redacted.is_reencoded
    for ours, theirs in zip(generate_frames(redacted.pixel_data, number_of_frames=3), frames, strict=True):
        assert ours.rstrip(b"\0") == strip_segments(theirs).rstrip(b"\0")


def test_a_mark_in_one_frame_of_many_is_hidden() -> None:
    pixels = speckle_cine(20, ROWS, COLUMNS)
    burn_in(pixels[7], MARK, 3, 1, 11)
    ds = instance(pixels, regions=WHOLE)
    assert not colours(put_back(ds, redact(ds)))[:, BESIDE].any()


def test_a_box_within_the_image_is_hidden_too() -> None:
    ds = instance(marked_cine(), regions=WHOLE)
    after = colours(put_back(ds, redact(ds, hide=[Box(70, 50, 90, 60)])))
    assert not after[:, 50:60, 70:90].any()
    assert after[:, 61:70, 70:90].any()


def test_old_overlays_in_unused_bits_are_cleared() -> None:
    pixels = marked_cine().astype(np.uint16) * 16
    pixels[:, 40:60, 70:90] |= 0x8000  # an overlay plane within the image
    ds = instance(pixels, regions=WHOLE, BitsStored=12, HighBit=11)
    redacted = redact(ds)
    assert redacted.is_reencoded
    assert not (np.frombuffer(redacted.pixel_data, "<u2") & 0xF000).any()


def test_signs_go_through_unused_bits() -> None:
    pixels = (marked_cine().astype(np.int16) - 100) * 8
    ds = instance(pixels, regions=WHOLE, BitsStored=12, HighBit=11)
    redacted = redact(ds)
    stored = np.frombuffer(redacted.pixel_data, "<i2").reshape(pixels.shape)
    assert (stored[:, BESIDE] == -2048).all()
    assert np.array_equal(stored[:, 40:60, 70:90], pixels[:, 40:60, 70:90])


def test_pixels_are_read_from_the_file_of_a_header(tmp_path: Path) -> None:
    ds = instance(marked_cine(), regions=WHOLE)
    path = written(ds, tmp_path / "instance.dcm")
    header = pydicom.dcmread(path, stop_before_pixels=True)
    header.filename = None
    assert redact(header, path).pixel_data == redact(ds).pixel_data


def test_one_decoded_frame_is_in_memory_at_a_time(tmp_path: Path) -> None:
    pixels = speckle_cine(20, 600, 800)
    ds = encapsulated(instance(pixels, regions=[region(0, 0, 799, 599)]), jpegs(pixels))
    path = written(ds, tmp_path / "instance.dcm")
    header = pydicom.dcmread(path, stop_before_pixels=True)
    redact(header, path)
    tracemalloc.start()
    try:
        redacted = redact(header, path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2.5 * len(redacted.pixel_data) + 8 * pixels[0].nbytes


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 0}, Reason.UNSUPPORTED_PIXELS),
        ({"NumberOfFrames": 10**6}, Reason.TOO_LARGE),
        ({"NumberOfFrames": 9}, Reason.TRUNCATED_PIXELS),
    ],
)
def test_what_cannot_be_redacted_is_rejected(elements: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RejectedError) as raised:
        redact(instance(marked_cine(), regions=WHOLE, **elements))
    assert raised.value.reason is reason
    assert raised.value.__context__ is None


def test_too_many_encoded_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.deid.redaction.MAX_REDACTED_BYTES", 2 * ROWS * COLUMNS)
    with pytest.raises(RejectedError) as raised:
        redact(instance(marked_cine(), regions=WHOLE))
    assert raised.value.reason is Reason.TOO_LARGE


def test_an_unknown_syntax_and_a_clip_without_an_image_are_refused() -> None:
    ds = instance(np.zeros((3, ROWS, COLUMNS), np.uint8))
    with pytest.raises(RejectedError) as raised:
        redact(ds)
    assert raised.value.reason is Reason.NO_IMAGE_REGION
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.3")
    with pytest.raises(RejectedError) as raised:
        redact(ds)
    assert raised.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


LONG_OR_NONE = {"apical", "parasternal", "grey_cine", "secondary_capture", "structured_report"}
SHORT = [name for name in REAL_FILES if name not in LONG_OR_NONE]


@pytest.mark.parametrize("name", SHORT)
def test_a_real_file_is_redacted_without_loss_of_what_is_kept(tmp_path: Path, name: str) -> None:
    path = real_file(name, tmp_path)
    try:
        redacted = redact(pydicom.dcmread(path, stop_before_pixels=True), path)
    except RejectedError as error:
        assert name == "rgb_still"
        assert error.reason is Reason.NO_IMAGE_REGION  # noqa: PT017 - one of many may be rejected
        return
    ds = pydicom.dcmread(path)
    before = colours(ds)
    if name == "palette_16_big":
        return  # its palette would have to be turned as well, which is not the pixels' affair
    after = colours(put_back(ds, redacted))
    kept = after[0].any(axis=-1)
    assert 0.01 < kept.mean() < 0.75
    changes = np.abs(after[:, kept] - before[:, kept])
    # Of a JPEG only blocks at the rim change, and there the picture is black but for a few pixels.
    assert changes.max() <= (24 if name == "apical_half" else 0)
    assert changes.mean() < 0.1


def jpeg_with(*segments: bytes) -> bytes:
    (frame,) = jpegs(speckle_cine(1, ROWS, COLUMNS))
    return frame[:2] + b"".join(segments) + frame[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def test_comments_and_application_data_of_a_jpeg_are_dropped() -> None:
    frame = jpeg_with(
        segment(0xFE, b"DOE^JANE"),
        segment(0xE1, b"Exif\0\0DOE^JANE"),
        segment(0xED, b"DOE^JANE"),
        segment(0xE0, b"JFXX\0DOE^JANE"),
        b"\xff",
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01DOE^JANE"),
    )
    stripped = strip_segments(frame[:-2] + segment(0xFE, b"DOE^JANE") + frame[-2:] + b"DOE^JANE")
    assert b"DOE" not in stripped
    assert b"JFIF" in stripped
    assert b"Adobe\0\x64\0\0\0\0\x01\xff" in stripped  # which colour space it is
    assert np.array_equal(
        simplejpeg.decode_jpeg(stripped, colorspace="GRAY"), simplejpeg.decode_jpeg(frame, colorspace="GRAY")
    )


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\0\0", b"\xff\xd8\xff\xe0", b"no jpeg"])
def test_segments_of_what_is_no_jpeg_are_corrupt(frame: bytes) -> None:
    with pytest.raises(RejectedError) as raised:
        strip_segments(frame)
    assert raised.value.reason is Reason.CORRUPT_PIXELS
