from datetime import date
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from beam_jobs.deid import RejectedError
from beam_jobs.deid.headers import dicom_mode
from beam_jobs.deid.regions import Region, SpatialFormat
from beam_jobs.records import ClipHeader, Reason
from tests.made_files import PLACEMENT, PSEUDONYMIZER, clean, instance, region

SHIFT = PSEUDONYMIZER.day_shift(PLACEMENT.subject_key)


def read(number_of_frames: int = 3, **elements: Any) -> ClipHeader:
    return clean(instance(np.zeros((number_of_frames, 30, 40), np.uint8), **elements)).header


def test_the_study_date_is_shifted_by_the_days_of_the_subject() -> None:
    shifted = read(StudyDate="20200229").study_date
    assert shifted is not None
    assert (date.fromisoformat(shifted) - date(2020, 2, 29)).days == SHIFT


def test_dates_of_a_subject_keep_their_distance() -> None:
    dates = [read(StudyDate=day).study_date for day in ("20191230", "20200102")]
    first, second = (date.fromisoformat(day) for day in dates if day)
    assert (second - first).days == 3


@pytest.mark.parametrize("written", ["2020.02.29", "20200229 "])
def test_dates_of_older_files_are_understood(written: str) -> None:
    assert read(StudyDate=written).study_date == read(StudyDate="20200229").study_date


@pytest.mark.parametrize("written", ["", "20201332", "today", "00010101"])
def test_a_date_that_is_none_or_cannot_be_shifted_is_absent(written: str) -> None:
    assert read(StudyDate=written).study_date is None


def test_another_date_of_the_service_stands_in_for_the_study_date() -> None:
    assert read(AcquisitionDate="20200229").study_date == read(StudyDate="20200229").study_date


@pytest.mark.parametrize(
    ("written", "years"),
    [
        ("045Y", 45),
        ("018M", 1),
        ("104W", 1),
        ("400D", 1),
        ("089Y", 89),
        ("090Y", 90),
        ("104Y", 90),
        ("999Y", None),
    ],
)
def test_an_age_is_in_whole_years_and_ends_at_90(written: str, years: int | None) -> None:
    assert read(PatientAge=written).patient_age_years == years


@pytest.mark.parametrize(
    ("born", "years"), [("19800630", 39), ("19800629", 40), ("19000101", 90), ("20210101", None), ("", None)]
)
def test_an_age_that_is_not_written_comes_from_the_birth_date(born: str, years: int | None) -> None:
    assert read(StudyDate="20200629", PatientBirthDate=born).patient_age_years == years


def test_a_birth_date_without_a_day_of_service_gives_no_age() -> None:
    assert read(PatientBirthDate="19800630").patient_age_years is None


@pytest.mark.parametrize(("written", "sex"), [("M", "M"), ("f", "F"), ("O", "O"), ("", None), ("MALE", None)])
def test_sex_is_one_of_three_letters(written: str, sex: str | None) -> None:
    assert read(PatientSex=written).patient_sex == sex


@pytest.mark.parametrize(
    ("written", "vendor"),
    [
        ("Philips Medical Systems", "Philips"),
        ("GE Vingmed Ultrasound", "GE"),
        ("G.E. Medical Systems", "GE"),
        ("SIEMENS", "Siemens"),
        ("SonoSite, Inc.", "SonoSite"),
        ("ALOKA CO., LTD.", "Hitachi Aloka"),
        ("TOSHIBA_MEC_US", "Canon"),
        ("Doe's workshop", "other"),
        ("", None),
    ],
)
def test_a_manufacturer_is_a_known_vendor_and_never_text(written: str, vendor: str | None) -> None:
    assert read(Manufacturer=written).manufacturer == vendor


@pytest.mark.parametrize(
    ("elements", "milliseconds"),
    [
        ({"FrameTime": 33.333}, 33.333),
        ({"FrameTimeVector": [0, 30, 40]}, 35.0),
        ({"CineRate": 25}, 40.0),
        ({"RecommendedDisplayFrameRate": 50}, 20.0),
        ({"FrameTime": 0, "CineRate": 25}, 40.0),
        ({"FrameTime": -1}, None),
        ({"FrameTime": 1e9}, None),
        ({"CineRate": 0}, None),
        ({}, None),
    ],
)
def test_frame_time_comes_from_the_first_element_that_makes_sense(
    elements: dict[str, Any], milliseconds: float | None
) -> None:
    assert read(**elements).frame_time_ms == milliseconds


def test_a_still_has_no_frame_time() -> None:
    assert read(1, FrameTime=33.3).frame_time_ms is None


def test_size_class_and_syntax_are_named() -> None:
    header = read(StudyDate="20200229")
    assert (header.number_of_frames, header.rows, header.columns) == (3, 30, 40)
    assert header.sop_class == "Ultrasound Multi-frame Image Storage"
    assert header.transfer_syntax == "Explicit VR Little Endian"


D2, MM, SP = SpatialFormat.TWO_DIMENSIONAL, SpatialFormat.M_MODE, SpatialFormat.SPECTRAL


@pytest.mark.parametrize(
    ("regions", "flags", "mode"),
    [
        ([(D2, 1)], 0, "2d"),
        ([(D2, 1), (D2, 2)], 0, "colour"),
        ([(D2, 1), (SP, 3)], 0, "pw"),
        ([(D2, 2), (SP, 4)], 0, "cw"),
        ([(D2, 1), (MM, 1)], 0, "mmode"),
        ([], 0x0001, "2d"),
        ([], 0x0011, "colour"),
        ([], 0x0009, "pw"),
        ([], 0x0015, "cw"),
        ([], 0x0002, "mmode"),
        ([(D2, 1)], 0x0001, "2d"),
        ([(D2, 1)], 0x0011, "unknown"),
        ([(SP, 3)], 0x0004, "unknown"),
        ([(SP, 3), (SP, 4)], 0, "unknown"),
        ([(SP, 3), (MM, 1)], 0, "unknown"),
        ([], 0x000C, "unknown"),
        ([(SP, 3), (SP, 4)], 0x0008, "unknown"),
        ([(SP, 7)], 0, "unknown"),
        ([], 0, "unknown"),
    ],
)
def test_a_mode_is_what_regions_and_image_type_agree_on(
    regions: list[tuple[SpatialFormat, int]], flags: int, mode: str
) -> None:
    assert dicom_mode(tuple(Region(kind, data_type, None) for kind, data_type in regions), flags) == mode


@pytest.mark.parametrize(
    ("image_type", "mode"),
    [
        (["ORIGINAL", "PRIMARY", "TTE", "0008"], "pw"),
        (["ORIGINAL", "PRIMARY", "TTE", "DOE^JANE"], "unknown"),
        (["ORIGINAL", "PRIMARY", "0008"], "unknown"),
        ("ORIGINAL", "unknown"),
    ],
)
def test_image_type_names_a_mode_by_its_fourth_value_alone(image_type: list[str] | str, mode: str) -> None:
    assert read(ImageType=image_type).dicom_mode == mode


def test_regions_of_a_file_name_its_mode() -> None:
    items = [region(0, 0, 39, 9), region(0, 10, 39, 29, spatial_format=3, data_type=4)]
    assert read(regions=items).dicom_mode == "cw"


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.NOT_ULTRASOUND),
        ({"SOPClassUID": "1.2.3"}, Reason.NOT_ULTRASOUND),
        ({"Rows": None}, Reason.NO_PIXELS),
        ({"Rows": 0}, Reason.UNSUPPORTED_PIXELS),
        ({"PhotometricInterpretation": "DOE^JANE"}, Reason.UNSUPPORTED_PIXELS),
        ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED_PIXELS),
        ({"BitsAllocated": 32}, Reason.UNSUPPORTED_PIXELS),
        ({"BitsStored": 9}, Reason.UNSUPPORTED_PIXELS),
        ({"NumberOfFrames": 0}, Reason.UNSUPPORTED_PIXELS),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
        ({"NumberOfFrames": 50_000}, Reason.TOO_LARGE),
        ({"Rows": 8000, "Columns": 8000, "NumberOfFrames": 30_000}, Reason.TOO_LARGE),
        ({"PixelData": None}, Reason.NO_PIXELS),
    ],
)
def test_what_cannot_be_processed_is_told_from_its_header(elements: dict[str, Any], reason: Reason) -> None:
    changed = {keyword: value for keyword, value in elements.items() if value is not None}
    ds = instance(np.zeros((3, 30, 40), np.uint8), **changed)
    for keyword in elements.keys() - changed.keys():
        del ds[keyword]
    with pytest.raises(RejectedError) as raised:
        clean(ds)
    assert raised.value.reason is reason
    assert (raised.value.frames_kept, raised.value.parts) == (0, 1)


@pytest.mark.parametrize(
    "transfer_syntax",
    [
        "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
        "1.2.840.10008.1.2.1.99",  # Deflated
        "1.2.3.4",
        "",
    ],
)
def test_a_transfer_syntax_that_cannot_be_decoded_is_refused(transfer_syntax: str) -> None:
    ds = instance(np.zeros((3, 30, 40), np.uint8))
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    with pytest.raises(RejectedError) as raised:
        clean(ds)
    assert raised.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_float_pixels_are_refused() -> None:
    ds = instance(np.zeros((3, 30, 40), np.uint8))
    del ds.PixelData
    ds.FloatPixelData = bytes(4 * 3 * 30 * 40)
    with pytest.raises(RejectedError) as raised:
        clean(ds)
    assert raised.value.reason is Reason.UNSUPPORTED_PIXELS


def test_a_palette_that_is_not_there_is_refused() -> None:
    with pytest.raises(RejectedError) as raised:
        read(PhotometricInterpretation="PALETTE COLOR")
    assert raised.value.reason is Reason.UNSUPPORTED_PIXELS
