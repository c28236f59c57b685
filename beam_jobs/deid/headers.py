"""The header of a clip, built from an allow-list: whatever is not named here does not exist.

Every value is a number, a shifted date, or a word of a closed vocabulary; no text of the header is
passed on.
"""

import re
from datetime import date, timedelta
from typing import Final

from pydicom import Dataset
from pydicom.uid import (
    UID,
    EnhancedUSVolumeStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.deid.reading import text, value
from beam_jobs.deid.regions import DataType, Region, SpatialFormat, need_review
from beam_jobs.deid.timing import FrameTimes
from beam_jobs.records import ClipHeader

OLDEST_AGE_YEARS: Final = 90
"""Ages of 90 and over are one class: so few people are so old that the age names them."""

UNKNOWN_MODE: Final = "unknown"

_IMPLAUSIBLE_AGE_YEARS: Final = 130

ULTRASOUND_SOP_CLASSES: Final = {
    UltrasoundImageStorage: "Ultrasound Image Storage",
    UltrasoundMultiFrameImageStorage: "Ultrasound Multi-frame Image Storage",
    EnhancedUSVolumeStorage: "Enhanced US Volume Storage",
    UID("1.2.840.10008.5.1.4.1.1.6"): "Ultrasound Image Storage (Retired)",
    UID("1.2.840.10008.5.1.4.1.1.3"): "Ultrasound Multi-frame Image Storage (Retired)",
}
"""The storage classes whose instances are ultrasound (PS3.4 B.5, PS3.6 Annex A)."""

OTHER_MANUFACTURER: Final = "other"

_MANUFACTURERS: Final = (
    # A word of the element, and the vendor it stands for; the first that fits is taken.
    (r"philips|\batl\b|agilent|hewlett", "Philips"),
    (r"\bg\.?e\.?\b|gems|general electric|vingmed|kretz", "GE"),
    (r"acuson|siemens", "Siemens"),
    (r"sonosite", "SonoSite"),
    (r"fuji", "Fujifilm"),
    (r"aloka|hitachi", "Hitachi Aloka"),
    (r"toshiba|canon", "Canon"),
    (r"mindray|zonare", "Mindray"),
    (r"samsung|medison", "Samsung Medison"),
    (r"esaote|biosound", "Esaote"),
    (r"terat?ech|terason", "Terason"),
    (r"butterfly", "Butterfly"),
    (r"clarius", "Clarius"),
    (r"hologic|supersonic", "SuperSonic Imagine"),
    (r"\bbk\b|b-?k medical|analogic", "BK Medical"),
    (r"konica", "Konica Minolta"),
    (r"sonoscape", "SonoScape"),
    (r"chison", "Chison"),
    (r"edan", "Edan"),
    (r"echobeam", "echobeam"),
)


def read_header(
    ds: Dataset,
    *,
    regions: tuple[Region, ...],
    pixels: PixelFormat,
    transfer_syntax: str,
    frame_times: FrameTimes,
    day_shift: int,
) -> ClipHeader:
    """Take from a header what is kept of it.

    Args:
        ds: of an ultrasound class.
        regions: as `read_regions` has them.
        pixels: as `read_pixel_format` has them.
        transfer_syntax: name of a supported syntax.
        frame_times: as `read_frame_times` has them.
        day_shift: days to add to the subject's dates.
    """
    return ClipHeader(
        study_date=_shifted(_service_date(ds), day_shift),
        patient_age_years=_age_years(ds),
        patient_sex=sex if (sex := text(ds, "PatientSex").upper()) in {"M", "F", "O"} else None,
        sop_class=ULTRASOUND_SOP_CLASSES[UID(text(ds, "SOPClassUID"))],
        transfer_syntax=transfer_syntax,
        manufacturer=known_manufacturer(text(ds, "Manufacturer")),
        dicom_mode=dicom_mode(regions, _image_type_flags(ds)),
        number_of_frames=pixels.number_of_frames,
        frame_time_ms=frame_times.usual_ms,
        rows=pixels.rows,
        columns=pixels.columns,
        needs_review=need_review(regions, pixels.rows, pixels.columns),
    )


def _parse_date(written: str) -> date | None:
    # Files from before DICOM 3 write yyyy.mm.dd (PS3.5 6.2, note on DA).
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", written)
    if match is None:
        return None
    try:
        return date(*map(int, match.groups()))
    except ValueError:
        return None


def _service_date(ds: Dataset) -> date | None:
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        found = _parse_date(text(ds, keyword))
        if found is not None:
            return found
    return None


def _shifted(day: date | None, day_shift: int) -> str | None:
    if day is None:
        return None
    try:
        return (day + timedelta(days=day_shift)).isoformat()
    except OverflowError:
        return None


def _age_years(ds: Dataset) -> int | None:
    years = _written_age_years(text(ds, "PatientAge"))
    if years is None:
        born, served = _parse_date(text(ds, "PatientBirthDate")), _service_date(ds)
        if born is None or served is None:
            return None
        years = served.year - born.year - ((served.month, served.day) < (born.month, born.day))
    if not 0 <= years <= _IMPLAUSIBLE_AGE_YEARS:
        return None
    return min(years, OLDEST_AGE_YEARS)


def _written_age_years(written: str) -> int | None:
    match = re.fullmatch(r"(\d{1,3})([DWMY])", written.upper())
    if match is None:
        return None
    return int(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]])


def known_manufacturer(written: str) -> str | None:
    """Name the vendor that a text stands for: one of a closed list, "other", or None where it is empty."""
    if not written:
        return None
    for pattern, vendor in _MANUFACTURERS:
        if re.search(pattern, written, re.IGNORECASE):
            return vendor
    return OTHER_MANUFACTURER


def _image_type_flags(ds: Dataset) -> int:
    """Read ImageType value 4, a bit map in hexadecimal (PS3.3 C.8.5.6.1.1), 0 where it is none."""
    values = value(ds, "ImageType")
    if isinstance(values, str) or values is None or len(values) < 4:
        return 0
    written = str(values[3]).strip()
    return int(written, 16) if re.fullmatch(r"[0-9A-Fa-f]{4}", written) else 0


def dicom_mode(regions: tuple[Region, ...], image_type_flags: int) -> str:
    """Name the mode that regions and ImageType agree on; one of them may be silent.

    A Doppler or M-mode screen shows a small 2-D image too: the strip names it.
    """
    named = {_mode_by_regions(regions), _mode_by_image_type(image_type_flags)} - {None}
    return named.pop() or UNKNOWN_MODE if len(named) == 1 else UNKNOWN_MODE


def _mode_by_regions(regions: tuple[Region, ...]) -> str | None:
    strips = {_strip_mode(region) for region in regions} - {None}
    if strips:
        return strips.pop() if len(strips) == 1 else UNKNOWN_MODE
    types = {region.data_type for region in regions}
    if DataType.COLOUR_FLOW in types:
        return "colour"
    return "2d" if DataType.TISSUE in types else None


def _strip_mode(region: Region) -> str | None:
    if region.spatial_format is SpatialFormat.M_MODE:
        return "mmode"
    if region.spatial_format is SpatialFormat.SPECTRAL:
        spectral = {DataType.PW_SPECTRAL_DOPPLER: "pw", DataType.CW_SPECTRAL_DOPPLER: "cw"}
        return spectral.get(DataType(region.data_type) if region.data_type in spectral else DataType.TISSUE)
    return None


def _mode_by_image_type(flags: int) -> str | None:
    strips = [mode for bit, mode in ((0x0002, "mmode"), (0x0004, "cw"), (0x0008, "pw")) if flags & bit]
    if strips:
        return strips[0] if len(strips) == 1 else UNKNOWN_MODE
    if flags & 0x0010:
        return "colour"
    return "2d" if flags & 0x0001 else None
