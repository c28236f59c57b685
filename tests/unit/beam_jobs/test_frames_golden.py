"""Each transfer syntax against a decoder that shares no code with ours: DCMTK, or Pillow for JPEG 2000.

The real files are re-encoded by DCMTK or pydicom, decoded by the other program to RGB or grey,
weighed in floating point and sampled by Pillow's nearest neighbour.
"""

import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openjpeg
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, UltrasoundImageStorage

from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.frames import colour_frames, grey_frames
from tests.made_files import clean, encapsulated, instance, written
from tests.programs import need
from tests.real_files import dcmtk, real_file

Grey = npt.NDArray[np.floating[Any]]

EXACT = (0.5, 1.0)
"""Largest mean and largest single difference: rounding of the weights."""

NEAR_LOSSLESS = (0.5, 1.0)
"""What was lost is lost before either decoder."""

BY_JPEG = (1.0, 8.0)
"""Likewise where the other decoder goes through RGB, which clips colours that YCbCr can say."""


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def shrink_in_floats(frame: npt.NDArray[Any]) -> Grey:
    wide = frame.astype(np.float64)
    if wide.ndim == 3:
        wide = wide @ np.array([0.299, 0.587, 0.114])
    rows, columns = wide.shape
    centres = [
        np.floor((np.arange(n) + 0.5) * size / n).astype(int) for n, size in ((120, rows), (160, columns))
    ]
    return wide[np.ix_(*centres)]


def by_dcmtk(path: Path, number_of_frames: int) -> list[Grey]:
    """Decode to portable pixmaps: grey, or RGB for whatever colour space."""
    out = path.with_suffix(".out")
    run(dcmtk("dcmj2pnm"), "--write-raw-pnm", "--all-frames", path, out)
    found = sorted(out.parent.glob(f"{out.name}*"), key=lambda file: int(file.name.split(".")[-2]))
    assert len(found) == number_of_frames
    return [shrink_in_floats(np.asarray(Image.open(file))) for file in found]


def by_pillow(path: Path) -> list[Grey]:
    """Decode the codestreams of JPEG 2000 by the OpenJPEG inside Pillow."""
    ds = pydicom.dcmread(path)
    frames = generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1))
    return [shrink_in_floats(np.asarray(Image.open(BytesIO(frame)))) for frame in frames]


def by_pydicom(path: Path) -> list[Grey]:
    ds = pydicom.dcmread(path)
    return [shrink_in_floats(apply_color_lut(ds.pixel_array, ds) >> 8)]


def assert_same(path: Path, expected: list[Grey], tolerance: tuple[float, float]) -> None:
    ours = list(grey_frames(clean(path)))
    assert len(ours) == len(expected)
    mean, largest = tolerance
    for frame, wanted in zip(ours, expected, strict=True):
        difference = np.abs(frame.astype(np.float64) - wanted)
        assert difference.mean() <= mean
        assert np.quantile(difference, 0.999) <= largest


def few_frames(name: str, tmp_path: Path, number_of_frames: int = 3) -> Path:
    """Cut a real clip to a few native frames."""
    source = real_file(name, tmp_path)
    ds = pydicom.dcmread(source)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        native = tmp_path / "native.dcm"
        run(dcmtk("dcmdjpeg"), source, native)
        ds = pydicom.dcmread(native)
    count = min(number_of_frames, int(ds.get("NumberOfFrames") or 1))
    size = len(ds.PixelData) // int(ds.get("NumberOfFrames") or 1)
    ds.PixelData = ds.PixelData[: size * count]
    ds.NumberOfFrames = count
    with quiet_pydicom():
        return written(ds, tmp_path / f"{name}.dcm")


def as_ultrasound(name: str, tmp_path: Path) -> Path:
    """Give one of pydicom's secondary captures the class of ultrasound, its pixels untouched."""
    source = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not source.is_file():
        pytest.skip(f"this version of pydicom has no {name}")
    ds = pydicom.dcmread(source)
    ds.SOPClassUID = UltrasoundImageStorage
    return written(ds, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "number_of_frames", "tolerance"),
    [
        ("parasternal", 30, EXACT),
        ("grey_cine", 27, EXACT),
        ("grey_still", 1, EXACT),
        ("rgb_still", 1, EXACT),
        ("rgb", 1, EXACT),
        ("rgb_planar", 1, EXACT),
        ("rgb_interleaved", 1, EXACT),
        ("rgb_big", 1, EXACT),
        ("palette", 1, EXACT),
        ("palette_2frame", 2, EXACT),
        ("palette_big", 1, EXACT),
        ("palette_big_2frame", 2, EXACT),
        ("palette_rle", 1, EXACT),
        ("palette_rle_2frame", 2, EXACT),
        ("lossless", 1, EXACT),
        ("apical", 120, BY_JPEG),
        ("apical_half", 30, BY_JPEG),
    ],
)
def test_a_real_file_decodes_as_dcmtk_decodes_it(
    tmp_path: Path, name: str, number_of_frames: int, tolerance: tuple[float, float]
) -> None:
    path = tmp_path / "instance.dcm"
    path.write_bytes(real_file(name, tmp_path).read_bytes())
    assert_same(path, by_dcmtk(path, number_of_frames), tolerance)


@pytest.mark.parametrize("name", ["jpeg_2000", "jpeg_2000_lossy"])
def test_jpeg_2000_decodes_as_pillow_decodes_it(name: str) -> None:
    path = real_file(name)
    assert_same(path, by_pillow(path), BY_JPEG)


@pytest.mark.parametrize("name", ["palette_16", "palette_16_big"])
def test_a_palette_of_sixteen_bits_decodes_as_pydicom_decodes_it(name: str) -> None:
    path = real_file(name)
    assert_same(path, by_pydicom(path), EXACT)


@pytest.mark.parametrize("name", ["parasternal", "grey_cine"])
@pytest.mark.parametrize(
    ("encoder", "option", "tolerance"),
    [
        ("dcmconv", "+tb", EXACT),
        ("dcmconv", "+ti", EXACT),
        ("dcmcrle", None, EXACT),
        ("dcmcjpeg", "+e1", EXACT),
        ("dcmcjpeg", "+el", EXACT),
        ("dcmcjpls", None, EXACT),
        ("dcmcjpls", "+en", NEAR_LOSSLESS),
        ("dcmcjpeg", "+eb", BY_JPEG),
        ("dcmcjpeg", "+ee", BY_JPEG),
    ],
)
def test_a_re_encoded_clip_decodes_as_dcmtk_decodes_it(
    tmp_path: Path, name: str, encoder: str, option: str | None, tolerance: tuple[float, float]
) -> None:
    native = few_frames(name, tmp_path)
    path = tmp_path / "encoded.dcm"
    run(dcmtk(encoder), *([option] if option else []), native, path)
    decoded = path
    if encoder == "dcmcjpls":
        decoded = tmp_path / "decoded.dcm"
        run(dcmtk("dcmdjpls"), path, decoded)
    count = int(pydicom.dcmread(path, stop_before_pixels=True).NumberOfFrames)
    assert_same(path, by_dcmtk(decoded, count), tolerance)


@pytest.mark.parametrize("colour", ["+cy", "+cr"], ids=["ybr", "rgb"])
@pytest.mark.parametrize("sampling", ["+s4", "+s2"])
def test_jpeg_of_either_colour_space_decodes_as_dcmtk_decodes_it(
    tmp_path: Path, colour: str, sampling: str
) -> None:
    native = few_frames("parasternal", tmp_path)
    path = tmp_path / "encoded.dcm"
    run(dcmtk("dcmcjpeg"), "+eb", "+q", "95", colour, sampling, native, path)
    assert_same(path, by_dcmtk(path, 3), BY_JPEG)


@pytest.mark.parametrize("name", ["parasternal", "grey_cine"])
def test_jpeg_2000_by_openjpeg_decodes_as_pillow_decodes_it(tmp_path: Path, name: str) -> None:
    ds = pydicom.dcmread(few_frames(name, tmp_path))
    frames = [
        openjpeg.encode(
            frame, photometric_interpretation=1 if frame.ndim == 3 else 2, use_mct=frame.ndim == 3
        )
        for frame in ds.pixel_array
    ]
    if ds.SamplesPerPixel == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "YBR_RCT", 0
    path = written(encapsulated(ds, frames, JPEG2000Lossless), tmp_path / "encoded.dcm")
    assert_same(path, by_pillow(path), EXACT)


# pydicom's small colour charts, made by several encoders with headers right and wrong.
CHARTS = [
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_rgb_jpeg_dcmd.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "SC_jpeg_no_color_transform.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
]


@pytest.mark.parametrize("name", CHARTS)
def test_a_colour_chart_decodes_to_its_luminance(tmp_path: Path, name: str) -> None:
    path = as_ultrasound(name, tmp_path)
    with quiet_pydicom():
        ds = pydicom.dcmread(path)
        rgb = pixel_array(path)
    frames = rgb if int(ds.get("NumberOfFrames") or 1) > 1 else rgb[None]
    if frames.dtype == np.uint16:
        frames = np.rint(frames / 257)
    assert_same(path, [shrink_in_floats(frame) for frame in frames], (2.0, 12.0))


def test_deep_grey_in_every_lossless_syntax_is_the_same(tmp_path: Path) -> None:
    ramp = (np.arange(120 * 160, dtype=np.uint16).reshape(1, 120, 160) * 3) & 0xFFF
    native = written(instance(ramp, BitsStored=12, HighBit=11), tmp_path / "native.dcm")
    (expected,) = grey_frames(clean(native))
    assert np.abs(expected - ramp[0] / 4095 * 255).max() <= 0.5
    for number, command in enumerate((["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"], ["dcmconv", "+tb"])):
        path = tmp_path / f"{number}.dcm"
        run(dcmtk(command[0]), *command[1:], native, path)
        (frame,) = grey_frames(clean(path))
        assert np.array_equal(frame, expected), command


# Colour at full size.


def colours_by_dcmtk(path: Path, number_of_frames: int) -> list[npt.NDArray[Any]]:
    out = path.with_suffix(".colour")
    run(dcmtk("dcmj2pnm"), "--write-raw-pnm", "--all-frames", path, out)
    found = sorted(out.parent.glob(f"{out.name}*"), key=lambda file: int(file.name.split(".")[-2]))
    assert len(found) == number_of_frames
    return [np.asarray(Image.open(file).convert("RGB")).astype(np.float64) for file in found]


def assert_same_colours(
    path: Path, expected: list[npt.NDArray[Any]], tolerance: tuple[float, float] = BY_JPEG
) -> None:
    ours = list(colour_frames(clean(path), range(len(expected))))
    assert len(ours) == len(expected)
    mean, largest = tolerance
    for frame, wanted in zip(ours, expected, strict=True):
        assert frame.shape == wanted.shape
        difference = np.abs(frame.astype(np.float64) - wanted)
        assert difference.mean() <= mean
        assert np.quantile(difference, 0.999) <= largest


def colour_chart(tmp_path: Path, *, rows: int = 48, columns: int = 64) -> Path:
    """Two frames of smooth colour, native RGB."""
    ys, xs = np.mgrid[0:rows, 0:columns]
    frame = np.stack([ys * 255 // (rows - 1), xs * 255 // (columns - 1), 255 - ys * 2 - xs], axis=-1)
    frames = np.stack([frame, frame[::-1]]).clip(0, 255).astype(np.uint8)
    return written(instance(frames), tmp_path / "chart.dcm")


@pytest.mark.parametrize(
    ("encoder", "options", "tolerance"),
    [
        ("dcmconv", ["+tb"], EXACT),
        ("dcmconv", ["+ti"], EXACT),
        ("dcmcrle", [], EXACT),
        ("dcmcjpeg", ["+e1"], EXACT),
        ("dcmcjpls", [], EXACT),
        ("dcmcjpeg", ["+eb", "+q", "95", "+cy", "+s4"], BY_JPEG),
        ("dcmcjpeg", ["+eb", "+q", "95", "+cy", "+s2"], BY_JPEG),
        ("dcmcjpeg", ["+eb", "+q", "95", "+cr"], BY_JPEG),
        ("dcmcjpeg", ["+ee", "+q", "95", "+cy"], BY_JPEG),
    ],
)
def test_colour_is_that_of_dcmtk(
    tmp_path: Path, encoder: str, options: list[str], tolerance: tuple[float, float]
) -> None:
    path = tmp_path / "encoded.dcm"
    run(dcmtk(encoder), *options, colour_chart(tmp_path), path)
    decoded = path
    if encoder == "dcmcjpls":
        decoded = tmp_path / "decoded.dcm"
        run(dcmtk("dcmdjpls"), path, decoded)
    assert_same_colours(path, colours_by_dcmtk(decoded, 2), tolerance)


@pytest.mark.parametrize(
    "photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "PALETTE COLOR", "MONOCHROME1"]
)
def test_native_colour_of_each_kind_is_that_of_dcmtk(tmp_path: Path, photometric: str) -> None:
    chance = np.random.default_rng(0)
    # Colours well within the range of RGB: outside, each program clips in its own way.
    ybr = np.stack([chance.integers(60, 180, (48, 64)), *chance.integers(108, 148, (2, 48, 64))], axis=-1)
    elements: dict[str, Any] = {"PhotometricInterpretation": photometric}
    if photometric == "PALETTE COLOR":
        table = chance.integers(0, 256, (3, 256)).astype(np.uint16) * 257
        for name, part in zip(("Red", "Green", "Blue"), table, strict=True):
            elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            elements[f"{name}PaletteColorLookupTableData"] = part.tobytes()
    is_grey = photometric in {"PALETTE COLOR", "MONOCHROME1"}
    pixels = ybr[None, ..., 0] if is_grey else ybr[None]
    ds = instance(pixels.astype(np.uint8), **elements)
    if photometric.endswith("422"):
        pairs = ybr.reshape(48, 32, 2, 3)
        stored = np.concatenate([pairs[..., 0], pairs[:, :, 0, 1:]], axis=-1)
        ds.PixelData = stored.astype(np.uint8).tobytes()
    path = written(ds, tmp_path / "native.dcm")
    assert_same_colours(path, colours_by_dcmtk(path, 1), (1.0, 2.0))


def test_twelve_bits_of_jpeg_extended_decode_as_dcmtk_decodes_them(tmp_path: Path) -> None:
    ys, xs = np.mgrid[0:48, 0:64]
    ramp = (2000 + 1500 * np.sin(ys / 7) * np.cos(xs / 9)).astype(np.uint16)
    native = written(instance(ramp[None], BitsStored=12, HighBit=11), tmp_path / "native.dcm")
    path, decoded = tmp_path / "encoded.dcm", tmp_path / "decoded.dcm"
    run(dcmtk("dcmcjpeg"), "+ee", "+q", "95", native, path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGExtended12Bit
    run(dcmtk("dcmdjpeg"), path, decoded)
    expected = np.frombuffer(pydicom.dcmread(decoded).PixelData, "<u2").reshape(48, 64)
    assert_same(path, [shrink_in_floats(expected / 4095 * 255)], (0.6, 1.5))


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("dcmcjpeg", ["+eb", "+q", "95", "+cy", "+s4"]),
        ("dcmcjpeg", ["+eb", "+q", "95", "+cr"]),
        ("dcmcjpls", []),
        ("dcmcrle", []),
    ],
)
def test_colour_is_that_of_gdcm(tmp_path: Path, encoder: str, options: list[str]) -> None:
    path, decoded = tmp_path / "encoded.dcm", tmp_path / "decoded.dcm"
    run(dcmtk(encoder), *options, colour_chart(tmp_path), path)
    run(need("gdcmconv", "libgdcm-tools"), "--raw", path, decoded)
    ds = pydicom.dcmread(decoded)
    shape = (2, 3, 48, 64) if ds.PlanarConfiguration else (2, 48, 64, 3)
    stored = np.frombuffer(ds.PixelData, np.uint8).reshape(shape).astype(np.float64)
    if ds.PlanarConfiguration:
        stored = np.moveaxis(stored, 1, -1)
    if ds.PhotometricInterpretation != "RGB":
        y, cb, cr = stored[..., 0], stored[..., 1] - 128, stored[..., 2] - 128
        stored = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    assert_same_colours(path, list(stored.clip(0, 255)), BY_JPEG)
