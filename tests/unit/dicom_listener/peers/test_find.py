from datetime import date

import pytest
from pydicom.dataset import Dataset

from dicom_listener.peers.find import STUDY_KEYS, StudyQuery

DAY = date(2024, 5, 17)


def answer(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_a_question_asks_for_every_key_at_the_study_level() -> None:
    identifier = StudyQuery().identifier()
    assert identifier.QueryRetrieveLevel == "STUDY"
    assert all(keyword in identifier for keyword in STUDY_KEYS)
    assert identifier.StudyDate == ""


@pytest.mark.parametrize(
    ("first", "last", "encoded"),
    [
        (DAY, DAY, "20240517"),
        (DAY, date(2024, 6, 1), "20240517-20240601"),
        (DAY, None, "20240517-"),
        (None, DAY, "-20240517"),
    ],
)
def test_days_are_encoded_as_a_range(first: date | None, last: date | None, encoded: str) -> None:
    assert StudyQuery(first, last).identifier().StudyDate == encoded


def test_a_key_that_is_not_asked_for_anyway_is_asked_for_too() -> None:
    identifier = StudyQuery(keys={"ReferringPhysicianName": "X*", "PatientID": "7"}).identifier()
    assert (identifier.ReferringPhysicianName, identifier.PatientID) == ("X*", "7")


@pytest.mark.parametrize(
    ("keys", "values", "is_match"),
    [
        ({"StudyDescription": "*echo*"}, {"StudyDescription": "Stress ECHO adult"}, True),
        ({"StudyDescription": "*echo*"}, {"StudyDescription": "Thorax"}, False),
        ({"StudyDescription": "[a]*"}, {"StudyDescription": "[a] b"}, True),
        ({"ModalitiesInStudy": "US"}, {"ModalitiesInStudy": ["SR", "US"]}, True),
        ({"ModalitiesInStudy": "US"}, {"ModalitiesInStudy": "CT"}, False),
        ({"PatientID": "7"}, {"PatientID": ""}, True),  # not told, so believed
        ({"PatientID": "7"}, {}, True),
        ({"PatientID": "7"}, {"PatientID": "77"}, False),
    ],
)
def test_an_answer_to_another_question_is_passed_over(
    keys: dict[str, str], values: dict[str, object], is_match: bool
) -> None:
    assert StudyQuery(keys=keys).matches(answer(**values)) is is_match


@pytest.mark.parametrize(
    ("day", "is_match"), [("20240516", False), ("20240517", True), ("20240518", False), ("", True)]
)
def test_an_answer_of_another_day_is_passed_over(day: str, is_match: bool) -> None:
    assert StudyQuery(DAY, DAY).matches(answer(StudyDate=day)) is is_match
