"""Real ultrasound that other people published, found in the installed packages that carry it.

The files are never copied into the project. Where a package is not installed, a test that needs one
of its files is skipped and says so.
"""

import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import pytest


class RealFile(NamedTuple):
    """A public file: the package that carries it, its path in there, and what it shows."""

    package: str
    path: str
    shows: str


IDENTIFYING_KEYWORDS: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "AccessionNumber",
    "InstitutionName",
    "OperatorsName",
    "StationName",
    "DeviceSerialNumber",
)
"""What a real header says of its patient, place and device, and nothing made of it may say."""

REAL_FILES: Final = {
    "apical": RealFile("data_store", "data/color3d_jpeg_baseline.dcm", "apical four chamber, JPEG Baseline"),
    "apical_half": RealFile(
        "pydicom", "data/test_files/examples_ybr_color.dcm", "half size; its region is for the whole size"
    ),
    "parasternal": RealFile(
        "deid_data", "data/ultrasounds/ultrasound-multiframe.dcm", "long axis with colour, planar RGB"
    ),
    "grey_cine": RealFile("deid_data", "data/ultrasounds/GREYSCALE_CINE.zip", "a TEST patient burned in"),
    "grey_still": RealFile("deid_data", "data/ultrasounds/GREYSCALE_IMAGE.dcm", "a TEST patient burned in"),
    "rgb_still": RealFile("deid_data", "data/ultrasounds/RGB_IMAGE.dcm", "a TEST patient burned in; empty"),
    "lossless": RealFile("data_store", "data/JPGLosslessP14SV1_1s_1f_8b.dcm", "JPEG Lossless, sector"),
    "palette": RealFile("data_store", "data/OBXXXX1A.dcm", "PALETTE COLOR"),
    "palette_2frame": RealFile("data_store", "data/OBXXXX1A_2frame.dcm", "PALETTE COLOR, two frames"),
    "palette_big": RealFile("data_store", "data/OBXXXX1A_expb.dcm", "PALETTE COLOR, big endian"),
    "palette_big_2frame": RealFile("data_store", "data/OBXXXX1A_expb_2frame.dcm", "two frames, big endian"),
    "palette_rle": RealFile("data_store", "data/OBXXXX1A_rle.dcm", "PALETTE COLOR, RLE"),
    "palette_rle_2frame": RealFile("data_store", "data/OBXXXX1A_rle_2frame.dcm", "RLE, two frames"),
    "palette_cropped": RealFile(
        "pydicom", "data/test_files/examples_palette.dcm", "cropped; its region ends outside"
    ),
    "palette_16": RealFile("data_store", "data/gdcm-US-ALOKA-16.dcm", "16-bit PALETTE COLOR, dual"),
    "palette_16_big": RealFile("data_store", "data/gdcm-US-ALOKA-16_big.dcm", "the same, big endian"),
    "rgb": RealFile("data_store", "data/US1_UNCR.dcm", "RGB, no regions"),
    "rgb_small": RealFile("pydicom", "data/test_files/examples_rgb_color.dcm", "RGB, no regions, small"),
    "rgb_planar": RealFile("data_store", "data/color-pl.dcm", "RGB by plane"),
    "rgb_interleaved": RealFile("data_store", "data/color-px.dcm", "the same by pixel"),
    "rgb_big": RealFile("pydicom", "data/test_files/ExplVR_BigEnd.dcm", "planar RGB, big endian"),
    "jpeg_2000": RealFile("data_store", "data/US1_J2KR.dcm", "JPEG 2000 lossless"),
    "jpeg_2000_lossy": RealFile("data_store", "data/US1_J2KI.dcm", "JPEG 2000"),
    "secondary_capture": RealFile("pydicom", "data/test_files/SC_rgb_rle.dcm", "not ultrasound"),
    "structured_report": RealFile("pydicom", "data/test_files/test-SR.dcm", "no pixels"),
}


def real_file(name: str, unpack_to: Path | None = None) -> Path:
    """Find a real file, or skip the test that asks for it.

    Args:
        name: a key of `REAL_FILES`.
        unpack_to: folder for what is published in an archive.
    """
    wanted = REAL_FILES[name]
    spec = find_spec(wanted.package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name}: the package {wanted.package} is not installed")
    path = Path(spec.submodule_search_locations[0], wanted.path)
    if not path.is_file():
        pytest.skip(f"{name}: this version of {wanted.package} has no {wanted.path}")
    if path.suffix != ".zip":
        return path
    if unpack_to is None:
        raise ValueError(f"{name} is published in an archive: say where to unpack it")
    with zipfile.ZipFile(path) as archive:
        return Path(archive.extract(f"{path.stem}.dcm", unpack_to))


def dcmtk(program: str) -> str:
    """Find a program of DCMTK, or skip the test that asks for it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"DCMTK's {program} is not installed")
    return found
