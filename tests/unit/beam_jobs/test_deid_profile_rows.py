"""Each row of Table E.1-1 is obeyed: at the top, in an item, in an item of an item."""

import struct
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom import DataElement, Dataset, Sequence

from beam_jobs.deid.profile import DeidOptions, deidentify_dataset
from beam_jobs.deid.profile.table import PRIVATE, AttributeRule, attribute_rules
from beam_jobs.deid.quiet import quiet_pydicom
from tests import marks
from tests.made_files import PLACEMENT, PSEUDONYMIZER, header
from tests.marks import encoded

RULES = attribute_rules()
BASIC = DeidOptions(
    clean_pixel_data=True,
    clean_graphics=False,
    clean_structured_content=False,
    clean_descriptors=False,
    retain_modified_dates=False,
    retain_patient_characteristics=False,
)
SHIFT = timedelta(PSEUDONYMIZER.day_shift(PLACEMENT.subject_key))
DATE = "19670809"
SHIFTED = (date(1967, 8, 9) + SHIFT).strftime("%Y%m%d")
KNOWN_WORD = "apical"
TEXTS = {"LO", "SH", "ST", "LT", "UT", "UC", "CS"}
VALUES: dict[str, Any] = {"TM": "101112", "DT": f"{DATE}101112", "AS": "067Y"}


def tags_of(rule: AttributeRule) -> list[tuple[int, str]]:
    """Give one tag, or some of those that a row with a pattern stands for, each with a VR."""
    if rule.tag == PRIVATE:
        return [(0x00090010, "LO"), (0x00091001, "LO"), (0x200D1002, "US"), (0x7FE10010, "OB")]
    if rule.keyword == "CurveData":
        return [(0x50000010, "US"), (0x50003000, "OW"), (0x501E0022, "LO")]
    if rule.is_pattern:
        return [(int(rule.tag.replace("xx", group), 16), rule.vr) for group in ("00", "02", "1E")]
    return [(rule.tag_number, rule.vr)]


def dataset_with(tag: int, vr: str, value: Any) -> Dataset:
    """Put an element at the top, in an item, and in an item of an item."""
    made = marks.element(tag, vr, value)
    ds = header(StudyDate="")
    deeper, item = Dataset(), Dataset()
    deeper.add(made)
    item.RegionSpatialFormat = 1
    item.PixelMeasuresSequence = Sequence([deeper])
    item.add(made)
    ds.SequenceOfUltrasoundRegions = Sequence([item])
    ds.add(made)
    return ds


def places_of(ds: Dataset) -> list[Dataset]:
    """Give the datasets that `dataset_with` put the element into, as far as they are still there."""
    found = [ds]
    for keyword in ("SequenceOfUltrasoundRegions", "PixelMeasuresSequence"):
        found += [item for place in found[-1:] for item in place.get(keyword, [])]
    return found


def deidentified(ds: Dataset, options: DeidOptions) -> Dataset:
    return deidentify_dataset(ds, options=options, placement=PLACEMENT, pseudonymizer=PSEUDONYMIZER).ds


def as_read(ds: Dataset) -> Dataset:
    """Give a dataset as it comes out of a file: elements that nothing has looked at."""
    with quiet_pydicom():
        return pydicom.filereader.read_dataset(BytesIO(encoded(ds)), False, True)


def outcome(new: DataElement | None, old: Any) -> str:
    """Name the action of Table E.1-1a by what came out."""
    if new is None:
        return "X"
    if new.VR == "SQ":
        if not new.value:
            return "Z"
        uids = [item.ReferencedSOPInstanceUID for item in new.value if "ReferencedSOPInstanceUID" in item]
        assert all(uid == PSEUDONYMIZER.uid(marks.UID) for uid in uids)
        names = [item.PatientName for item in new.value if "PatientName" in item]
        assert not any(names)
        return "U*" if uids else "D"
    if new.is_empty:
        return "Z"
    assert new.value != old
    if new.VR == "UI":
        assert new.value == PSEUDONYMIZER.uid(marks.UID)
        return "U"
    return "D"


def offered(rule: AttributeRule) -> set[str]:
    actions = set(rule.basic.split("/"))
    # A dummy for a UID is another UID; a sequence with its references replaced is a dummy too.
    if rule.vr == "UI" and "D" in actions:
        actions.add("U")
    if rule.vr == "SQ" and "D" in actions:
        actions.add("U*")
    return actions


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.number}-{rule.keyword}")
def test_a_row_is_obeyed_by_the_basic_profile(rule: AttributeRule) -> None:
    for tag, vr in tags_of(rule):
        value = VALUES.get(vr, marks.VALUES.get(vr))
        ds = dataset_with(tag, vr, value)
        old = ds[tag].value
        sources = [ds] if tag >> 16 < 8 else [ds, as_read(ds)]  # groups below 8 are not in datasets
        for source in sources:
            cleaned = deidentified(source, BASIC)
            assert not marks.find_marks(encoded(cleaned))
            places = places_of(cleaned)
            assert len(places) == 3 or offered(rule) & {"X"}
            for place in places:
                assert outcome(place.get(tag), old) in offered(rule)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.number}-{rule.keyword}")
def test_a_row_is_obeyed_under_the_options_of_a_site(rule: AttributeRule) -> None:
    for tag, vr in tags_of(rule):
        value = VALUES.get(vr, marks.VALUES.get(vr))
        if vr in TEXTS:
            value = f"{marks.WORD} {KNOWN_WORD}"
        cleaned = deidentified(dataset_with(tag, vr, value), DeidOptions())
        assert not marks.find_marks(encoded(cleaned))
        for place in places_of(cleaned):
            new = place.get(tag)
            if rule.modified_dates and vr in {"DA", "DT"}:
                assert new is not None
                assert new.value == SHIFTED
            elif (rule.descriptors or rule.patient == "C") and vr in TEXTS:
                assert new is not None
                assert new.value == KNOWN_WORD
            elif (rule.descriptors or rule.patient) and vr == "SQ":
                assert new is None or marks.WORD not in str(new)
            elif rule.keyword == "PatientAge":
                assert new is not None
                assert new.value == "067Y"
            elif rule.keyword in {"EthnicGroup", "EthnicGroups"}:
                assert new is not None
                assert new.value == KNOWN_WORD
            elif vr == "SQ" and (rule.content or rule.graphics):
                # Of a branch within a tree nothing need be left; the trunk is needed.
                assert outcome(new, value) in offered(rule) | ({"D"} if place is cleaned else {"D", "X"})
            else:
                assert outcome(new, value) in offered(rule)


def test_a_number_of_the_patient_is_kept_where_it_can_be_one() -> None:
    ds = header(PatientSize="1.74", PatientWeight="71", PatientSex="F", PatientSexNeutered="ALTERED")
    ds.PregnancyStatus, ds.SmokingStatus = 4, "NO"
    kept = deidentified(ds, DeidOptions())
    assert (kept.PatientSize, kept.PatientWeight, kept.PatientSex) == (1.74, 71, "F")
    assert (kept.PatientSexNeutered, kept.PregnancyStatus, kept.SmokingStatus) == ("ALTERED", 4, "NO")
    gone = deidentified(ds, BASIC)
    assert gone.PatientSex == ""
    assert not {"PatientSize", "PatientWeight", "PregnancyStatus", "SmokingStatus"} & set(gone.dir())


def test_every_row_of_the_table_is_carried() -> None:
    assert len(RULES) == 657
    assert [rule.number for rule in RULES] == list(range(1, 658))
    assert len({rule.tag for rule in RULES}) == 657
    assert [rule.keyword for rule in RULES if rule.is_pattern] == [
        "CurveData",
        "OverlayComments",
        "OverlayData",
        "PrivateAttributes",
    ]


def test_marks_are_found_where_they_are() -> None:
    # Of what the tests above rest on: each mark is one that the search knows.
    for vr, value in marks.VALUES.items():
        if vr not in {"UI", "SS", "US", "AT"}:
            ds = Dataset()
            ds.add(marks.element(0x00090010, vr, value))
            assert marks.find_marks(encoded(ds)), vr
    assert marks.find_marks(struct.pack("<6H", *marks.VALUES["US"]))
