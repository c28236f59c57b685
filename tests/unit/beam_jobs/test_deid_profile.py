"""What the profile does beyond its rows: types, options, allow-list, dates, UIDs, and odd files."""

import csv
import struct
from collections.abc import Iterable
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import (
    ComprehensiveSRStorage,
    EnhancedUSVolumeStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
)

from beam_jobs.deid import RejectedError
from beam_jobs.deid.profile import Action, DeidentifiedDataset, DeidOptions, deidentify_dataset
from beam_jobs.deid.profile.attribute_types import choose
from beam_jobs.deid.profile.table import (
    ALLOW_LIST_FILE,
    ATTRIBUTES_FILE,
    CONTENT_ITEMS_FILE,
    content_rules,
    read_table,
)
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.records import Reason
from tests import marks
from tests.made_files import PLACEMENT, PSEUDONYMIZER, as_bytes, header, region
from tests.marks import encoded
from tests.real_files import IDENTIFYING_KEYWORDS, REAL_FILES, real_file

SHIFT = timedelta(PSEUDONYMIZER.day_shift(PLACEMENT.subject_key))
SECONDS = PSEUDONYMIZER.second_shift(PLACEMENT.subject_key)
MOVED = date(2020, 2, 29) + SHIFT
PUBLISHED = Path(__file__).parents[4] / "shared" / "data"


def run(ds: Dataset, *, pixels_cleaned: bool = False, **options: Any) -> DeidentifiedDataset:
    return deidentify_dataset(
        ds,
        options=DeidOptions(**options),
        placement=PLACEMENT,
        pseudonymizer=PSEUDONYMIZER,
        pixels_cleaned=pixels_cleaned,
    )


def clean(ds: Dataset, **options: Any) -> Dataset:
    return run(ds, **options).ds


def action_of(actions: Iterable[Action], keyword: str) -> Action:
    return next(action for action in actions if action.path == (tag_for_keyword(keyword),))


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("carried", "published", "columns"),
    [
        (ATTRIBUTES_FILE, "ps3.15_e1-1.csv", {"basic": "basic_profile", "attribute": "attribute"}),
        (CONTENT_ITEMS_FILE, "ps3.15_e3.4-1_content_items.csv", {"basic": "basic", "code": "code"}),
    ],
)
def test_a_table_is_that_of_the_standard(carried: str, published: str, columns: dict[str, str]) -> None:
    source = PUBLISHED / published
    if not source.is_file():
        pytest.skip(f"{published}, which the table was made from, is not here")
    lines = [line for line in source.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    ours = list(read_table(carried))
    assert len(rows) == len(ours)
    for row, our in zip(rows, ours, strict=True):
        assert {name: our[name] for name in columns} == {
            name: row[theirs] for name, theirs in columns.items()
        }


def test_the_table_of_content_items_is_carried() -> None:
    assert len(content_rules()) == 214


def test_the_allow_list_names_no_attribute_twice_and_knows_its_kinds() -> None:
    rows = list(read_table(ALLOW_LIST_FILE))
    keywords = [row["keyword"] for row in rows]
    assert len(set(keywords)) == len(keywords)
    assert all(tag_for_keyword(keyword) is not None for keyword in keywords)


# ---------------------------------------------------------------------- several actions


@pytest.mark.parametrize(
    ("offered", "attribute_type", "taken"),
    [
        ("X/Z", "3", "X"),
        ("X/Z", "2", "Z"),
        ("X/Z", "1", "Z"),
        ("X/Z", None, "Z"),
        ("X/D", "3", "X"),
        ("X/D", "2", "D"),
        ("X/D", "1", "D"),
        ("X/D", None, "D"),
        ("X/Z/D", "3", "X"),
        ("X/Z/D", "2", "Z"),
        ("X/Z/D", "1", "D"),
        ("X/Z/D", None, "D"),
        ("Z/D", "3", "Z"),
        ("Z/D", "2", "Z"),
        ("Z/D", "1", "D"),
        ("Z/D", None, "D"),
        ("X/Z/U*", "3", "X"),
        ("X/Z/U*", "2", "Z"),
        ("X/Z/U*", "1", "U*"),
        ("X/Z/U*", None, "U*"),
        ("X", None, "X"),
        ("U", "3", "U"),
    ],
)
def test_of_several_actions_the_strongest_that_keeps_the_object_valid_is_taken(
    offered: str, attribute_type: str | None, taken: str
) -> None:
    assert choose(offered, attribute_type) == taken


OF_CLASSES = (UltrasoundMultiFrameImageStorage, EnhancedUSVolumeStorage, ComprehensiveSRStorage, "1.2.3")


@pytest.mark.parametrize(
    ("keyword", "value", "actions"),
    [
        ("AcquisitionDateTime", "20200102", "XDXD"),
        ("AcquisitionDate", "20200102", "XXXZ"),
        ("ContentDate", "20200102", "ZDDD"),
        ("DeviceSerialNumber", "4711", "XDXD"),
        ("InstitutionName", "Hospital", "XXXD"),
        ("OperatorsName", "Doe", "XXXD"),
        ("StationName", "Room 4", "XXXD"),
        ("SeriesDate", "20200102", "XXXD"),
        ("ProtocolName", "Doe", "XXXD"),
        ("RequestedProcedureDescription", "Doe", "XXXZ"),
    ],
)
def test_several_actions_are_resolved_by_the_type_in_the_iod(keyword: str, value: str, actions: str) -> None:
    for sop_class, expected in zip(OF_CLASSES, actions, strict=True):
        elements: dict[str, Any] = {keyword: value}
        ds = header(SOPClassUID=sop_class, **elements)
        done = run(ds, retain_modified_dates=False)
        assert action_of(done.actions, keyword).code == expected, sop_class
        new = done.ds.get(keyword)
        assert {"X": new is None, "Z": new == "", "D": bool(new) and new != value}[expected]


def test_references_of_an_image_are_removed_where_they_may_be_and_kept_under_other_uids_elsewhere() -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UltrasoundMultiFrameImageStorage, "1.2.3"
    nested = Dataset()
    nested.ReferencedImageSequence = Sequence([item])
    ds = header(ReferencedImageSequence=Sequence([item]), regions=[nested])
    done = clean(ds)
    assert "ReferencedImageSequence" not in done
    kept = done.SequenceOfUltrasoundRegions[0].ReferencedImageSequence[0]
    assert kept.ReferencedSOPInstanceUID == PSEUDONYMIZER.uid("1.2.3")
    assert kept.ReferencedSOPClassUID == UltrasoundMultiFrameImageStorage


# ---------------------------------------------------------------------- UIDs and keys


def test_a_uid_is_the_same_wherever_it_is_named_and_in_every_study_of_anybody() -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3.4"
    first = clean(header(StudyInstanceUID="1.2.3.4", regions=[item]))
    second = clean(header(FrameOfReferenceUID="1.2.3.4"))
    assert first.StudyInstanceUID == second.FrameOfReferenceUID == PSEUDONYMIZER.uid("1.2.3.4")
    assert first.SequenceOfUltrasoundRegions[0].ReferencedSOPInstanceUID == first.StudyInstanceUID


def test_only_uids_that_the_standard_registers_stay() -> None:
    done = clean(header(FrameOfReferenceUID="1.2.840.10008.1.4.1.1"))
    assert done.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    done = clean(header(FrameOfReferenceUID="1.2.840.10008.19670809"))
    assert done.FrameOfReferenceUID == PSEUDONYMIZER.uid("1.2.840.10008.19670809")


def test_what_is_no_uid_is_removed() -> None:
    assert "FrameOfReferenceUID" not in clean(header(FrameOfReferenceUID="DOE^JANE"))


def test_the_patient_id_becomes_the_key_of_the_subject() -> None:
    assert clean(header(PatientID="4711")).PatientID == PLACEMENT.subject_key
    assert clean(header(PatientID="")).PatientID == PLACEMENT.subject_key


# ---------------------------------------------------------------------- dates and times


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("20200229", MOVED),
        ("2020.02.29", MOVED),
    ],
)
def test_dates_move_by_the_days_of_the_subject(written: str, expected: date) -> None:
    done = clean(header(StudyDate=written, AcquisitionDate=written, ContentDate=written))
    for keyword in ("StudyDate", "AcquisitionDate", "ContentDate"):
        assert done[keyword].value == expected.strftime("%Y%m%d")


@pytest.mark.parametrize("written", ["", "20201332", "yesterday", "00010101"])
def test_a_date_that_cannot_be_moved_is_emptied_or_removed(written: str) -> None:
    done = clean(header(StudyDate=written, AcquisitionDate=written))
    assert done.StudyDate == ""
    assert not done.get("AcquisitionDate")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("20200229101112.123456+0100", f"{MOVED:%Y%m%d}"),
        ("20200229", f"{MOVED:%Y%m%d}"),
        ("202003", f"{date(2020, 3, 1) + SHIFT:%Y%m}"),
        ("2020", f"{date(2020, 1, 1) + SHIFT:%Y}"),
    ],
)
def test_a_datetime_keeps_its_precision_and_loses_time_and_place(written: str, expected: str) -> None:
    assert clean(header(AcquisitionDateTime=written)).AcquisitionDateTime == expected


def test_times_are_removed_as_their_rows_say() -> None:
    done = clean(header(StudyTime="101112", SeriesTime="101112", ContentTime="101112"))
    assert (done.StudyTime, done.ContentTime) == ("", "")
    assert "SeriesTime" not in done


def test_times_that_are_moved_keep_their_distance_over_midnight() -> None:
    late, early = "235959", "000001"
    first = clean(
        header(StudyDate="20200228", StudyTime=late, AcquisitionDateTime=f"20200228{late}.5+0100"),
        times_of_day="shift",
    )
    second = clean(
        header(StudyDate="20200229", StudyTime=early, AcquisitionDateTime=f"20200229{early}"),
        times_of_day="shift",
    )
    moments = [pydicom.valuerep.DT(str(ds.StudyDate) + str(ds.StudyTime)) for ds in (first, second)]
    assert moments[1] - moments[0] == timedelta(seconds=2)
    assert [str(ds.AcquisitionDateTime) for ds in (first, second)] == [
        str(ds.StudyDate) + str(ds.StudyTime) for ds in (first, second)
    ]
    assert 0 < SECONDS < 86_400


@pytest.mark.parametrize("written", ["250000", "10 11", "now"])
def test_a_time_that_is_none_is_removed(written: str) -> None:
    assert clean(header(StudyTime=written), times_of_day="shift").StudyTime == ""


def test_without_dates_the_object_says_that_they_were_removed() -> None:
    assert clean(header()).LongitudinalTemporalInformationModified == "MODIFIED"
    done = clean(header(StudyDate="20200229"), retain_modified_dates=False)
    assert (done.LongitudinalTemporalInformationModified, done.StudyDate) == ("REMOVED", "")


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("written", "kept"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("101Y", "090Y"), ("018M", "018M"), ("999D", "999D")],
)
def test_an_age_ends_at_90(written: str, kept: str) -> None:
    assert clean(header(PatientAge=written)).PatientAge == kept


@pytest.mark.parametrize("written", ["67", "DOE", "67YY"])
def test_an_age_that_is_none_is_removed(written: str) -> None:
    assert "PatientAge" not in clean(header(PatientAge=written))


def test_the_identity_of_a_device_stays_only_where_a_site_wants_it() -> None:
    elements: dict[str, Any] = {
        "DeviceSerialNumber": "US-4711",
        "StationName": "ECHO 4",
        "ManufacturerModelName": "EPIQ 7C",
    }
    assert not set(elements) & set(clean(header(**elements)).dir())
    kept = clean(header(**elements, DeviceUID="1.2.3"), retain_device_identity=True)
    assert {keyword: kept[keyword].value for keyword in elements} == elements
    assert kept.DeviceUID == "1.2.3"


def test_a_date_of_a_device_moves_with_the_others() -> None:
    done = clean(header(DateOfLastCalibration="20200229"), retain_device_identity=True)
    assert done.DateOfLastCalibration == MOVED.strftime("%Y%m%d")


def test_of_a_text_only_words_of_echo_stay() -> None:
    text = "TTE of Jane Doe, apical 4ch; dr. O'Neill 4711"
    assert clean(header(StudyDescription=text)).StudyDescription == "TTE apical 4ch"
    assert "StudyDescription" not in clean(header(StudyDescription=text), clean_descriptors=False)


def test_a_text_in_another_script_leaves_nothing() -> None:
    ds = header(StudyDescription="Ädhoc Übersicht TTE", SpecificCharacterSet="ISO_IR 192")
    assert clean(ds).StudyDescription == "TTE"


@pytest.mark.parametrize(
    ("sop_class", "pixels_cleaned", "removed", "burned_in"),
    [
        (UltrasoundMultiFrameImageStorage, False, "NO", "YES"),
        (UltrasoundMultiFrameImageStorage, True, "YES", "NO"),
        (ComprehensiveSRStorage, False, "YES", None),
    ],
)
def test_an_object_says_that_the_patient_is_gone_only_where_pixels_were_cleaned(
    sop_class: str, pixels_cleaned: bool, removed: str, burned_in: str | None
) -> None:
    ds = header(SOPClassUID=sop_class, PatientIdentityRemoved="YES", BurnedInAnnotation="NO")
    if sop_class != ComprehensiveSRStorage:
        ds.Rows = 4
    done = run(ds, pixels_cleaned=pixels_cleaned).ds
    assert done.PatientIdentityRemoved == removed
    assert done.get("BurnedInAnnotation") == burned_in
    codes = [item.CodeValue for item in done.DeidentificationMethodCodeSequence]
    assert ("113101" in codes) == (pixels_cleaned and burned_in == "NO")


def test_an_object_says_which_options_were_used_and_with_which_key() -> None:
    done = clean(header(), clean_graphics=False, retain_device_identity=True)
    codes = {item.CodeValue: item.CodeMeaning for item in done.DeidentificationMethodCodeSequence}
    assert set(codes) == {"113100", "113104", "113105", "113107", "113108", "113109"}
    assert codes["113100"] == "Basic Application Confidentiality Profile"
    assert f"key {PSEUDONYMIZER.key_id}" in done.DeidentificationMethod
    assert done.DeidentificationMethod[0].endswith("2026d Annex E")


def test_graphics_stay_as_geometry_or_not_at_all() -> None:
    drawn, annotation = Dataset(), Dataset()
    drawn.GraphicType, drawn.GraphicData, drawn.GraphicDimensions = "POLYLINE", [1.5, 2, 600, 7], 2
    drawn.UnformattedTextValue = "DOE"
    annotation.GraphicObjectSequence = Sequence([drawn])
    ds = header(GraphicAnnotationSequence=Sequence([annotation]))
    kept = clean(ds).GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    assert (kept.GraphicType, list(kept.GraphicData)) == ("POLYLINE", [1.5, 2, 600, 7])
    assert "DOE" not in str(clean(ds))
    assert list(clean(ds, clean_graphics=False).GraphicAnnotationSequence[0]) == []


# ---------------------------------------------------------------------- allow-list


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("FrameTime", "33.3", True),
        ("FrameTime", "19670809", False),
        ("FrameTimeVector", ["0", "33.3", "33.4"], True),
        ("HeartRate", "72", True),
        ("HeartRate", "7200", False),
        ("Modality", "US", True),
        ("Modality", "DOE", False),
        ("PatientOrientation", ["L", "PH"], True),
        ("PatientOrientation", ["DOE", "JANE"], False),
        ("LossyImageCompressionMethod", ["ISO_10918_1", "ISO_15444_1"], True),
        ("LossyImageCompressionMethod", ["ISO_10918_1", "DOE"], False),
        ("FrameIncrementPointer", 0x00181063, True),
        ("FrameIncrementPointer", 0x5A5A4D41, False),
        ("ViewName", "A4C", True),
        ("ViewName", "Jane", False),
        ("TransducerData", "S5-1 4711", False),
        ("InstanceNumber", "17", True),
        ("InstanceNumber", "19670809", False),
    ],
)
def test_an_allowed_attribute_stays_where_its_value_makes_sense(keyword: str, value: Any, kept: bool) -> None:
    ds = header()
    with quiet_pydicom():
        setattr(ds, keyword, value)
    new = clean(ds).get(keyword)
    assert (new == ds[keyword].value) if kept else not new


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["ORIGINAL", "PRIMARY", "TTE", "0011"], ["ORIGINAL", "PRIMARY", "TTE", "0011"]),
        (["DERIVED", "PRIMARY", "Jane Doe", "DOE"], ["DERIVED", "PRIMARY", "", ""]),
    ],
)
def test_an_image_type_keeps_its_words_and_its_flags(written: list[str], kept: list[str]) -> None:
    assert list(clean(header(ImageType=written)).ImageType) == kept


@pytest.mark.parametrize(
    ("written", "vendor"), [("Philips Healthcare", "Philips"), ("Doe's workshop", "other")]
)
def test_a_manufacturer_is_a_vendor_of_a_closed_list(written: str, vendor: str) -> None:
    assert clean(header(Manufacturer=written)).Manufacturer == vendor


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def test_a_code_stays_with_the_meaning_that_the_standard_gives_it() -> None:
    view = code("399214001", "SCT", "seen with Dr. Doe")
    view.ViewModifierCodeSequence = Sequence([code("103339001", "SCT", "DOE"), code("4711", "99DOE", "DOE")])
    ds = header(ViewCodeSequence=Sequence([view]))
    ds.AnatomicRegionSequence = Sequence([code("T-32000", "SRT", "DOE"), code("DOE", "99DOE", "DOE")])
    done = clean(ds)
    kept = done.ViewCodeSequence[0]
    assert (kept.CodeValue, kept.CodeMeaning) == ("399214001", "Four chamber")
    assert [item.CodeValue for item in kept.ViewModifierCodeSequence] == ["103339001"]
    assert [item.CodeMeaning for item in done.AnatomicRegionSequence] == ["Heart structure (body structure)"]
    assert "DOE" not in str(done).upper()


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        (bytes(range(256)) * 2, True),
        (struct.pack("<256H", *range(0, 65536, 256)), True),
        (struct.pack("<256H", *range(256)), True),
        (b"\0" * 200 + b"DOE^JANE" + b"\0" * 304, False),
        (struct.pack("<256H", *[0] * 200, *b"DOE^JANE", *[0] * 48), False),
    ],
)
def test_a_palette_stays_unless_a_name_is_in_it(table: bytes, kept: bool) -> None:
    ds = header(RedPaletteColorLookupTableData=table)
    assert ("RedPaletteColorLookupTableData" in clean(ds)) == kept


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        (struct.pack("<9H", 0, 1, 0, 1, 255, 65535, 2, 1, 0)[:12], True),
        (struct.pack("<7H", 0, 2, 7, 9, 2, 1, 0) + struct.pack("<H", 0), True),
        (bytes((0, 1, 0, 1, 255, 255)), True),
        (bytes((0, 1, 0, 3, 255, 0)), False),
        (struct.pack("<I", 19670809), False),
        (struct.pack("<2H", 0, 0), False),
        (struct.pack("<3H", 0, 9, 1), False),
        (struct.pack("<10H", 0, 8, *b"DOE^JANE"), False),
        (b"", False),
    ],
)
def test_a_table_in_segments_stays_where_it_is_one(table: bytes, kept: bool) -> None:
    ds = header(SegmentedRedPaletteColorLookupTableData=table)
    assert bool(clean(ds).get("SegmentedRedPaletteColorLookupTableData")) == kept


@pytest.mark.parametrize(
    "table", [struct.pack("<I", 19670809), b"19670809" * 8, b"1.2.840.113619.2.391.1.19670809 "]
)
def test_what_is_too_short_or_an_identifier_is_no_palette(table: bytes) -> None:
    assert "RedPaletteColorLookupTableData" not in clean(header(RedPaletteColorLookupTableData=table))


@pytest.mark.parametrize(
    "hidden", [b"19670809", b"DOE JANE", struct.pack("<q", 19670809), struct.pack("<4H", *b"JANE")]
)
def test_what_is_written_into_the_bytes_of_a_number_is_removed(hidden: bytes) -> None:
    tag = Tag("PhysicalDeltaX")
    ds = Dataset({tag: RawDataElement(tag, None, 8, hidden, 0, True, True)})
    assert "PhysicalDeltaX" not in clean(ds)


@pytest.mark.parametrize("numbers", [[68, 79, 69, 74, 65, 78, 69], [float(letter) for letter in b"DOE^JANE"]])
def test_numbers_that_are_letters_are_removed(numbers: list[float]) -> None:
    ds = header(FrameTimeVector=[str(number) for number in numbers], DepthsOfFocus=numbers)
    assert not {"FrameTimeVector", "DepthsOfFocus"} & set(clean(ds).dir())


def test_frame_times_that_look_like_one_letter_stay() -> None:
    assert len(clean(header(FrameTimeVector=["0", *["66"] * 20])).FrameTimeVector) == 21


# ---------------------------------------------------------------------- the walk


def test_each_attribute_of_the_dictionary_may_hold_a_mark_and_none_comes_out() -> None:
    with quiet_pydicom():
        ds = header(regions=[region(0, 0, 9, 9)])
        for number, (_, _, _, _, keyword) in DicomDictionary.items():
            if 8 <= number >> 16 < 0xFFFC and keyword not in {"SOPClassUID", "SequenceOfUltrasoundRegions"}:
                ds.add(marks.marked(number))
                ds.SequenceOfUltrasoundRegions[0].add(marks.marked(number))
        source = as_bytes(ds)
        as_read = pydicom.dcmread(BytesIO(source))
    assert len(marks.find_marks(source)) >= 8
    for read in (ds, as_read):
        done = run(read, retain_device_identity=False)
        assert marks.find_marks(encoded(done.ds)) == []
        assert not any(marks.WORD in f"{action.place} {action.rule}" for action in done.actions)


def test_the_source_is_not_changed() -> None:
    ds = pydicom.dcmread(BytesIO(as_bytes(header(PatientName="DOE", regions=[region(0, 0, 9, 9)]))))
    before = as_bytes(ds)
    run(ds)
    assert as_bytes(ds) == before


def test_every_element_has_an_action_and_no_action_has_a_value() -> None:
    ds = header(PatientName="DOE^JANE", regions=[region(0, 0, 9, 9)], StudyDate="20200229")
    ds.private_block(0x200D, "DOE", create=True).add_new(1, "LO", "DOE")
    actions = run(ds).actions
    top = {action.path[0] for action in actions if len(action.path) == 1}
    assert top == {int(tag) for tag in ds.keys()}  # noqa: SIM118 - a dataset iterates over elements
    assert action_of(actions, "PatientName") == Action((0x00100010,), "Z", "E.1-1 (0010,0010)")
    assert action_of(actions, "StudyDate").code == "C"
    nested = [action.place for action in actions if len(action.path) == 3]
    assert "(0018,6011)[0].(0018,6012)" in nested
    assert {action.rule for action in actions if action.path[0] >> 16 == 0x200D} == {
        "E.1-1 private attributes"
    }
    assert "DOE" not in str(actions)
    places = [action.path for action in actions]
    assert places.index((0x00186011,)) < places.index((0x00186011, 0, 0x00186012))


@pytest.mark.parametrize("stray", [0xFFFEE000, 0xFFFEE0DD])
def test_stray_delimiters_among_the_elements_do_no_harm(stray: int) -> None:
    data = as_bytes(header(PatientSex="F", StudyDate="20200229"))
    place = data.index(b"\x10\x00\x40\x00CS")
    delimiter = struct.pack("<HHI", stray >> 16, stray & 0xFFFF, 0)
    ds = pydicom.dcmread(BytesIO(data[:place] + delimiter + data[place:]))
    assert clean(ds).PatientSex == "F"


def test_what_is_of_another_kind_than_its_tag_says_is_removed_as_unreadable() -> None:
    ds = header(HeartRate="72")
    ds.add(marks.element(0x00280010, "UT", "DOE"))
    ds.add(marks.element(0x00186011, "LO", "DOE"))
    done = run(ds)
    assert not {"Rows", "SequenceOfUltrasoundRegions"} & set(done.ds.dir())
    assert action_of(done.actions, "Rows").rule == "unreadable"
    assert action_of(done.actions, "SequenceOfUltrasoundRegions").rule == "unreadable"
    assert done.ds.HeartRate == 72


def test_items_nested_without_end_are_removed() -> None:
    ds = header()
    for _ in range(40):
        item = Dataset()
        item.SequenceOfUltrasoundRegions = ds.get("SequenceOfUltrasoundRegions", Sequence())
        item.RegionSpatialFormat = 1
        ds.SequenceOfUltrasoundRegions = Sequence([item])
    depth, place = 0, clean(ds)
    while place.get("SequenceOfUltrasoundRegions"):
        depth, place = depth + 1, place.SequenceOfUltrasoundRegions[0]
    assert 10 < depth < 30


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_header_is_the_same_in_every_encoding(transfer_syntax: pydicom.uid.UID) -> None:
    ds = header(
        StudyDate="20200229", PatientName="DOE", Rows=480, regions=[region(1, 2, 300, 400)], FrameTime="33"
    )
    ds.SequenceOfUltrasoundRegions[0].PhysicalDeltaX = 0.0125
    ds.FrameIncrementPointer = 0x00181063
    ds.RedPaletteColorLookupTableData = struct.pack("<16H", *range(0, 4096, 256))
    expected = encoded(clean(ds))
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    if transfer_syntax == ExplicitVRBigEndian:
        ds.RedPaletteColorLookupTableData = struct.pack(">16H", *range(0, 4096, 256))
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    assert encoded(clean(pydicom.dcmread(BytesIO(buffer.getvalue())))) == expected


def test_a_sequence_of_unknown_representation_is_gone_through() -> None:
    ds = header(regions=[region(1, 2, 300, 400)])
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    raw = pydicom.dcmread(BytesIO(buffer.getvalue())).get_item(0x00186011)
    tag = Tag(0x00186011)
    unknown = Dataset({tag: cast("RawDataElement", raw)._replace(VR="UN")})
    assert clean(unknown).SequenceOfUltrasoundRegions[0].RegionLocationMaxX1 == 300


def test_a_dataset_that_cannot_be_walked_is_rejected_without_a_word_of_it() -> None:
    class Broken(Dataset):
        def items(self) -> Any:
            raise KeyError("DOE^JANE")

    with pytest.raises(RejectedError) as raised:
        run(Broken())
    assert raised.value.reason is Reason.UNREADABLE_HEADER
    assert raised.value.__context__ is None
    assert "DOE" not in str(raised.value)


@pytest.mark.parametrize("name", REAL_FILES)
def test_a_real_header_comes_through_without_its_identifiers(name: str, tmp_path: Path) -> None:
    ds = pydicom.dcmread(real_file(name, tmp_path), stop_before_pixels=True)
    done = run(ds)
    said = encoded(done.ds).lower()
    for keyword in IDENTIFYING_KEYWORDS:
        value = str(ds.get(keyword) or "").lower()
        if len(value) > 3:
            assert value.encode() not in said, keyword
    assert done.ds.PatientIdentityRemoved == ("NO" if "Rows" in ds else "YES")  # its pixels were not cleaned
    assert not any(tag.is_private for tag in done.ds.keys())  # noqa: SIM118 - likewise
