"""Read a header, and single values of it, without a raw value in any message."""

from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.records import Reason

HEADER_KEYWORDS: Final = (
    "SOPClassUID",
    "ImageType",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "Manufacturer",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "FrameTime",
    "FrameTimeVector",
    "FrameIncrementPointer",
    "SequenceOfUltrasoundRegions",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)
"""All that is read of a header; everything else is skipped over and never enters memory."""

_TAGS: Final = [tag for tag in map(tag_for_keyword, HEADER_KEYWORDS) if tag is not None]


def read_instance(path: Path) -> Dataset:
    """Read the allow-listed header of a spooled instance; its pixels stay in the file.

    Raises:
        RejectedError: MISSING_FILE, UNREADABLE_HEADER, or UNSUPPORTED_TRANSFER_SYNTAX for a deflated
            dataset, whose size is unknown before it is inflated.
    """
    reason = Reason.UNREADABLE_HEADER
    try:
        with quiet_pydicom(), path.open("rb") as file:
            if is_deflated(path):
                reason = Reason.UNSUPPORTED_TRANSFER_SYNTAX
            else:
                ds = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
                if text(ds, "SOPClassUID"):  # of garbage behind a preamble, pydicom makes an empty dataset
                    return ds
    except FileNotFoundError:
        reason = Reason.MISSING_FILE
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    # Raised outside the handlers, so that not even `__context__` keeps pydicom's message.
    raise RejectedError(reason)


def is_deflated(path: Path) -> bool:
    """Tell whether a dataset is compressed as a whole, so that its size is not known: it may be a bomb."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return str(meta.get("TransferSyntaxUID", "")) == DeflatedExplicitVRLittleEndian


def value(ds: Dataset, keyword: str) -> Any:
    """Give an element's value, or None where it is absent, empty or unreadable."""
    try:
        found = ds.get(keyword)
    except Exception:  # noqa: BLE001 - values are converted here, by code that raises anything
        return None
    return None if found is None or found == "" else found


def text(ds: Dataset, keyword: str) -> str:
    """Give an element's first value as text without padding, "" where there is none."""
    found = value(ds, keyword)
    if isinstance(found, (list, pydicom.multival.MultiValue)):
        found = found[0] if found else ""
    return "" if found is None else str(found).strip(" \0")


def number(ds: Dataset, keyword: str) -> float | None:
    """Give an element's first value as a finite number, or None."""
    try:
        found = float(text(ds, keyword))
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None


def integer(ds: Dataset, keyword: str) -> int | None:
    """Give an element's first value as a whole number, or None."""
    found = number(ds, keyword)
    return None if found is None else int(found)
