"""Reports: measured content of closed vocabularies stays, everything that names somebody goes."""

from typing import Any

import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import ComprehensiveSRStorage, UltrasoundImageStorage

from beam_jobs.deid.profile import DeidOptions, deidentify_dataset
from tests.made_files import PLACEMENT, PSEUDONYMIZER, header

MEASUREMENT = ("29436-3", "LN")  # a measurement of the left ventricle
COMMENT = ("121106", "DCM")  # row: X, cleaned by words
FINDING_SITE = ("363698007", "SCT")  # row: D, cleaned by words
OBSERVER = ("121008", "DCM")  # row: D
PROCEDURE_REPORTED = ("121058", "DCM")  # no row
SUBJECT_AGE = ("121033", "DCM")
SUBJECT_SEX = ("121032", "DCM")
STUDY_DATE = ("111060", "DCM")
STUDY_TIME = ("111061", "DCM")
DEVICE_SERIAL = ("121016", "DCM")
DEVICE_UID = ("121012", "DCM")
SOURCE_IMAGE = ("121112", "DCM")
SECTION = ("111028", "DCM")


def code(value: str, scheme: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "seen by DOE"
    return Sequence([item])


def item(value_type: str, name: tuple[str, str] | None = None, **elements: Any) -> Dataset:
    made = Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", value_type
    if name is not None:
        made.ConceptNameCodeSequence = code(*name)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def number(value: str, unit: str = "cm", name: tuple[str, str] = MEASUREMENT) -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, code(unit, "UCUM")
    return item("NUM", name, MeasuredValueSequence=Sequence([measured]))


def text(words: str, name: tuple[str, str]) -> Dataset:
    return item("TEXT", name, TextValue=words)


def container(*items: Dataset, name: tuple[str, str] | None = SECTION) -> Dataset:
    return item("CONTAINER", name, ContinuityOfContent="SEPARATE", ContentSequence=Sequence(items))


def report(*items: Dataset) -> Dataset:
    return header(
        SOPClassUID=ComprehensiveSRStorage,
        ValueType="CONTAINER",
        ContinuityOfContent="SEPARATE",
        ConceptNameCodeSequence=code("125200", "DCM"),
        ContentSequence=Sequence(items),
    )


def content(*items: Dataset, **options: Any) -> Sequence:
    cleaned = deidentify_dataset(
        report(*items), options=DeidOptions(**options), placement=PLACEMENT, pseudonymizer=PSEUDONYMIZER
    ).ds
    assert "DOE" not in str(cleaned).upper()
    found: Sequence = cleaned.get("ContentSequence", Sequence())
    return found


def test_a_measurement_stays_with_its_unit_and_the_meaning_of_the_standard() -> None:
    kept = content(container(number("4.7")))[0].ContentSequence[0]
    assert kept.MeasuredValueSequence[0].NumericValue == 4.7
    assert kept.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeMeaning == "cm"
    assert kept.ConceptNameCodeSequence[0].CodeMeaning != "seen by DOE"


@pytest.mark.parametrize(
    "gone",
    [
        number("4.7", name=("4711", "99DOE")),
        number("4.7", unit="DOE"),
        number("19670809"),
        item("NUM", MEASUREMENT),
        item("CODE", PROCEDURE_REPORTED, ConceptCodeSequence=code("DOE", "99DOE")),
        item("PNAME", ("121088", "DCM"), PersonName="DOE^JANE"),
        item("PNAME", PROCEDURE_REPORTED, PersonName="DOE^JANE"),
        text("seen by Jane Doe", COMMENT),
        text("seen by Jane Doe", PROCEDURE_REPORTED),
        item("TIME", PROCEDURE_REPORTED, Time="101112"),
        item("DOE", PROCEDURE_REPORTED),
        item("TCOORD", PROCEDURE_REPORTED),
        container(),
        container(text("Jane Doe", COMMENT)),
        item("IMAGE", SOURCE_IMAGE),
    ],
    ids=lambda made: f"{made.ValueType}-{made.get('TextValue', '')}",
)
def test_an_item_that_says_too_much_or_nothing_goes(gone: Dataset) -> None:
    assert len(content(gone, number("4.7"))) == 1


def test_an_item_that_refers_to_a_place_in_the_tree_goes_as_places_change() -> None:
    reference = Dataset()
    reference.ReferencedContentItemIdentifier, reference.RelationshipType = [1, 2], "INFERRED FROM"
    assert len(content(reference, number("4.7"))) == 1


def test_a_code_of_a_closed_vocabulary_stays() -> None:
    kept = content(item("CODE", PROCEDURE_REPORTED, ConceptCodeSequence=code("433236007", "SCT")))[0]
    assert kept.ConceptCodeSequence[0].CodeValue == "433236007"


def test_of_a_text_known_words_stay_and_a_needed_one_becomes_a_dummy() -> None:
    comment, site, other = content(
        text("Doe: apical 4ch", COMMENT),
        text("Jane Doe", FINDING_SITE),
        text("mid septum", PROCEDURE_REPORTED),
    )
    assert (comment.TextValue, site.TextValue, other.TextValue) == ("apical 4ch", "REMOVED", "mid septum")
    kept = content(
        text("apical", COMMENT), text("apical", FINDING_SITE), text("mid septum", PROCEDURE_REPORTED),
        clean_descriptors=False,
    )  # fmt: skip
    assert [one.TextValue for one in kept] == ["REMOVED"]


def test_a_person_whose_name_is_needed_is_a_dummy() -> None:
    assert content(item("PNAME", OBSERVER, PersonName="DOE^JANE"))[0].PersonName == "REMOVED"


def test_dates_move_and_times_go_as_the_site_says() -> None:
    items = (item("DATE", STUDY_DATE, Date="20200229"), item("TIME", STUDY_TIME, Time="101112"))
    moved, time = content(*items)
    assert moved.Date not in {"", "20200229", "20000101"}
    assert time.Time == "000000"
    dummies = content(*items, retain_modified_dates=False)
    assert [dummies[0].Date, dummies[1].Time] == ["20000101", "000000"]
    shifted = content(*items, times_of_day="shift")[1].Time
    assert shifted not in {"000000", "101112"}
    other = (number("4.7"), item("DATE", PROCEDURE_REPORTED, Date="20200229"))
    assert len(content(*other)) == 2
    assert len(content(*other, retain_modified_dates=False)) == 1


@pytest.mark.parametrize(("years", "kept"), [("67", 67), ("90", 90), ("101", 90)])
def test_the_age_of_the_subject_ends_at_90(years: str, kept: int) -> None:
    age = number(years, "a", SUBJECT_AGE)
    assert content(age)[0].MeasuredValueSequence[0].NumericValue == kept
    assert len(content(age, number("4.7"), retain_patient_characteristics=False)) == 1


def test_the_sex_of_the_subject_is_a_characteristic() -> None:
    sex = item("CODE", SUBJECT_SEX, ConceptCodeSequence=code("M", "DCM"))
    assert len(content(sex, number("4.7"))) == 2
    assert len(content(sex, number("4.7"), retain_patient_characteristics=False)) == 1


def test_a_device_is_named_only_where_a_site_wants_it() -> None:
    items = (text("US-4711", DEVICE_SERIAL), item("UIDREF", DEVICE_UID, UID="1.2.3"))
    kept = content(*items)
    assert [one.UID for one in kept] == [PSEUDONYMIZER.uid("1.2.3")]
    assert content(*items, retain_device_identity=True)[0].TextValue == "US-4711"


def test_a_reference_to_an_image_leads_to_the_image_under_its_other_uid() -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    kept = content(item("IMAGE", SOURCE_IMAGE, ReferencedSOPSequence=Sequence([reference])))[0]
    assert kept.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == PSEUDONYMIZER.uid("1.2.3")
    assert kept.ReferencedSOPSequence[0].ReferencedSOPClassUID == UltrasoundImageStorage


@pytest.mark.parametrize("is_cleaned", [True, False])
def test_content_that_is_not_cleaned_or_of_which_nothing_is_left_is_one_dummy_item(is_cleaned: bool) -> None:
    said = text("Jane Doe", COMMENT) if is_cleaned else number("4.7")
    only = content(said, clean_structured_content=is_cleaned)
    assert [(one.ValueType, one.TextValue) for one in only] == [("TEXT", "REMOVED")]
    assert only[0].ConceptNameCodeSequence[0].CodeMeaning == "Comment"


def test_the_audit_names_the_row_of_each_item() -> None:
    actions = deidentify_dataset(
        report(text("Doe", COMMENT), number("4.7")),
        options=DeidOptions(),
        placement=PLACEMENT,
        pseudonymizer=PSEUDONYMIZER,
    ).actions
    of_items = [(action.place, action.code, action.rule) for action in actions if len(action.path) == 2]
    assert of_items == [
        ("(0040,A730)[0]", "X", "E.3.4-1 (121106, DCM) TEXT"),
        ("(0040,A730)[1]", "C", "E.3.4-1 value type NUM"),
    ]
