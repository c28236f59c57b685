"""Nothing that names the patient gets through the door."""

import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, config
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from beam_jobs.deid import CleanInstance, RejectedError, deidentify_instance, read_instance
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Chunk, Reason
from tests.made_files import (
    PLACEMENT,
    PSEUDONYMIZER,
    as_bytes,
    clean,
    instance,
    region,
    speckle_cine,
    written,
)
from tests.real_files import IDENTIFYING_KEYWORDS, REAL_FILES, real_file

MARK = "ZZMARK"

# Values that mark an element and fit its value representation, or nearly: pydicom quotes what does not.
MARKED_VALUES = {
    "AE": MARK,
    "AS": "067Y",
    "CS": MARK,
    "DA": "19670809",
    "DS": "196.70809",
    "DT": "19670809101112",
    "IS": "19670809",
    "LO": MARK,
    "LT": MARK,
    "PN": f"{MARK}^{MARK}",
    "SH": MARK,
    "ST": MARK,
    "TM": "196708",
    "UC": MARK,
    "UI": "1.2.19670809",
    "UR": MARK,
    "UT": MARK,
    "FD": 19670809.0,
    "FL": 1967.0,
    "SL": 19670809,
    "UL": 19670809,
    "SS": 19670,
    "US": 19670,
    "OB": MARK.encode(),
    "OW": MARK.encode(),
    "UN": MARK.encode(),
}
TELLING = (MARK, "19670809", "1967-08-09")

# What the decoding of pixels stands on.
_NEEDED = {
    "SOPClassUID",
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
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "SequenceOfUltrasoundRegions",
    "SpecificCharacterSet",
}


def marked_instance() -> FileDataset:
    """Make an instance with a mark in every element of the dictionary, in private ones and nested."""
    with quiet_pydicom():
        ds = instance(speckle_cine(2), regions=[region(0, 0, 399, 299)])
        plant_marks(ds)
        nested = Dataset()
        plant_marks(nested)
        deeper = Dataset()
        deeper.RequestAttributesSequence = Sequence([nested])
        ds.ReferencedPatientSequence = Sequence([deeper])
        ds.SequenceOfUltrasoundRegions[0].RegionFlags = 19670809
        block = ds.private_block(0x200D, "Philips US Imaging DD 001", create=True)
        block.add_new(0x01, "LO", MARK)
        block.add_new(0x02, "US", list(MARK.encode()))
        block.add_new(0x03, "SQ", Sequence([nested]))
    return ds


def plant_marks(ds: Dataset) -> None:
    for number, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if Tag(number).group < 8 or retired or not keyword or keyword in _NEEDED:
            continue
        if vr in MARKED_VALUES:
            ds.add(DataElement(number, vr, MARKED_VALUES[vr], validation_mode=config.IGNORE))


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """Collect what is logged, printed and warned during a test."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    captured = capfd.readouterr()
    said += [captured.out, captured.err, caplog.text, *(str(warning.message) for warning in caught)]
    assert_clean("".join(said))


def assert_clean(text: str) -> None:
    for telling in TELLING:
        assert telling not in text


def outcome(path: Path) -> CleanInstance | RejectedError:
    try:
        return clean(path)
    except RejectedError as error:
        return error


def everything(value: Any) -> str:
    """Give all that a value says of itself, and of what it is made of."""
    return f"{value!r} {value!s} {pickle.dumps(value)!r}"


@pytest.mark.usefixtures("heard")
def test_marks_in_every_element_stay_behind(tmp_path: Path) -> None:
    path = written(marked_instance(), tmp_path / "instance.dcm")
    for ds in (read_instance(path), pydicom.dcmread(path), pydicom.dcmread(path, defer_size=64)):
        result = deidentify_instance(ds, PLACEMENT, PSEUDONYMIZER)
        assert_clean(everything(result))
        assert_clean(repr(result.header))
        chunks = list(flatten_frames(result))
        assert sum(len(chunk.frames) for chunk in chunks) == 2
        assert_clean("".join(everything(chunk) for chunk in chunks))


def test_only_allow_listed_elements_are_read_at_all(tmp_path: Path) -> None:
    ds = read_instance(written(marked_instance(), tmp_path / "instance.dcm"))
    tags = [element.tag for element in ds]
    keywords = {keyword_for_tag(tag) for tag in tags}
    assert not keywords & {
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "InstitutionName",
        "AccessionNumber",
    }
    assert not any(tag.is_private for tag in tags)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", MARK),
        ("PatientAge", MARK),
        ("PatientSex", MARK),
        ("Manufacturer", MARK),
        ("ImageType", [MARK] * 5),
        ("FrameTime", MARK),
        ("FrameTimeVector", [MARK] * 3),
        ("CineRate", MARK),
        ("SOPClassUID", MARK),
        ("PhotometricInterpretation", MARK),
        ("NumberOfFrames", MARK),
        ("WindowCenter", MARK),
        ("RescaleSlope", MARK),
    ],
)
def test_a_mark_in_place_of_a_value_is_in_no_result_error_or_log(
    tmp_path: Path, keyword: str, value: Any
) -> None:
    ds = instance(speckle_cine(2))
    with quiet_pydicom():
        data = DataElement(keyword, "LO", value, validation_mode=config.IGNORE)
    ds.add(data)
    path = written(ds, tmp_path / "instance.dcm")
    result = outcome(path)
    if isinstance(result, RejectedError):
        assert result.__cause__ is None
        assert result.__context__ is None
    else:
        assert_clean("".join(everything(chunk) for chunk in flatten_frames(result)))
    assert_clean(everything(result))


@pytest.mark.usefixtures("heard")
def test_broken_elements_never_quote_themselves(tmp_path: Path) -> None:
    ds = instance(speckle_cine(1))
    data = bytearray(as_bytes(ds))
    place = data.index(b"\x28\x00\x10\x00US")
    data[place + 4 : place + 6] = b"IS"
    data[place + 8 : place + 10] = MARK[:2].encode()
    path = tmp_path / "instance.dcm"
    path.write_bytes(data)
    with pytest.raises(RejectedError) as raised:
        clean(path)
    assert raised.value.__context__ is None
    assert_clean(everything(raised.value))


def test_a_dataset_is_not_changed() -> None:
    ds = marked_instance()
    before = as_bytes(ds)
    list(flatten_frames(clean(ds)))
    assert as_bytes(ds) == before


@pytest.mark.parametrize("name", sorted(REAL_FILES))
def test_nothing_of_a_real_header_gets_through(tmp_path: Path, name: str) -> None:
    path = real_file(name, tmp_path)
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    said = repr(outcome(path)).lower()
    for keyword in IDENTIFYING_KEYWORDS:
        value = str(ds.get(keyword) or "").lower()
        if len(value) > 3:
            assert value not in said, keyword


@pytest.mark.parametrize(
    ("name", "reason"),
    [("secondary_capture", Reason.NOT_ULTRASOUND), ("structured_report", Reason.NO_PIXELS)],
)
def test_what_is_no_ultrasound_is_rejected(name: str, reason: Reason) -> None:
    with pytest.raises(RejectedError) as raised:
        clean(real_file(name))
    assert raised.value.reason is reason


def test_a_missing_file_is_rejected_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as raised:
        read_instance(tmp_path / "none.dcm")
    assert raised.value.reason is Reason.MISSING_FILE


def test_a_file_that_vanishes_is_rejected_when_its_pixels_are_read(tmp_path: Path) -> None:
    path = written(instance(speckle_cine(1)), tmp_path / "instance.dcm")
    ds = read_instance(path)
    result = clean(path)
    path.unlink()
    for door in (lambda: clean(ds), lambda: list(flatten_frames(result))):
        with pytest.raises(RejectedError) as raised:
            door()
        assert raised.value.reason is Reason.MISSING_FILE


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 128 + b"DICM", b"\0" * 132 + b"\xff" * 60])
def test_what_is_no_dicom_is_rejected(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "instance.dcm"
    path.write_bytes(data)
    with pytest.raises(RejectedError) as raised:
        clean(path)
    assert raised.value.reason is Reason.UNREADABLE_HEADER


def test_a_deflated_dataset_is_rejected_before_it_is_inflated(tmp_path: Path) -> None:
    ds = instance(speckle_cine(1))
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(RejectedError) as raised:
        read_instance(written(ds, tmp_path / "instance.dcm"))
    assert raised.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


@pytest.mark.parametrize("stray", [b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"])
def test_stray_item_elements_between_others_do_no_harm(tmp_path: Path, stray: bytes) -> None:
    data = as_bytes(instance(speckle_cine(3), StudyDate="20200229", PatientSex="F"))
    place = data.index(b"\x10\x00\x40\x00CS")
    path = tmp_path / "instance.dcm"
    path.write_bytes(data[:place] + stray + data[place:])
    result = clean(path)
    assert result.header.patient_sex == "F"
    assert sum(len(chunk.frames) for chunk in flatten_frames(result)) == 3


def test_an_instance_travels_as_a_place_not_as_pixels(tmp_path: Path) -> None:
    path = written(instance(speckle_cine(30)), tmp_path / "instance.dcm")
    pickled = pickle.dumps(clean(path))
    assert len(pickled) < 100_000
    chunks: list[Chunk] = list(flatten_frames(pickle.loads(pickled)))  # noqa: S301 - made above
    assert np.array_equal(chunks[0].frames, next(flatten_frames(clean(path))).frames)


def test_pydicom_is_quiet_within_blocks_and_heard_after_them() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_pydicom(), quiet_pydicom():
            warnings.warn(MARK, stacklevel=1)
        warnings.warn("afterwards", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["afterwards"]


def test_overlapping_blocks_stay_quiet_until_the_last_ends() -> None:
    first, second = quiet_pydicom(), quiet_pydicom()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        warnings.warn(MARK, stacklevel=1)
        second.__exit__(None, None, None)
        warnings.warn("afterwards", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["afterwards"]
