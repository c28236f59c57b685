from datetime import date
from pathlib import Path

import pytest

from dicom_listener.backfill.plan import digest, question_by_keys, questions_by_day, questions_by_list
from dicom_listener.errors import StartRefusedError
from dicom_listener.peers.find import StudyQuery


def test_a_range_is_asked_for_day_by_day() -> None:
    questions = list(questions_by_day(date(2024, 2, 28), date(2024, 3, 1), {"PatientID": "7"}))
    assert [one.query.first_day for one in questions] == [
        date(2024, 2, 28),
        date(2024, 2, 29),
        date(2024, 3, 1),
    ]
    assert all(one.query.first_day == one.query.last_day for one in questions)
    assert all(one.query.keys == {"PatientID": "7"} for one in questions)
    assert not any("7" in one.name.replace("2024", "") for one in questions if one.query.keys)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(StartRefusedError, match="turn it round"):
        list(questions_by_day(date(2024, 2, 2), date(2024, 2, 1), {}))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            "study_instance_uid\n1.2.3\n1.2.4\n",
            [{"StudyInstanceUID": "1.2.3"}, {"StudyInstanceUID": "1.2.4"}],
        ),
        ("nr,AccessionNumber\n1, A7 \n2,\n\n", [{"AccessionNumber": "A7"}]),
        ("\ufeffStudy Instance UID\r\n1.2.3\r\n", [{"StudyInstanceUID": "1.2.3"}]),
        ("accession_number\n", []),
    ],
)
def test_a_list_is_asked_for_line_by_line(tmp_path: Path, text: str, keys: list[dict[str, str]]) -> None:
    (tmp_path / "list.csv").write_text(text, newline="")
    questions = questions_by_list(tmp_path / "list.csv")
    assert [one.query.keys for one in questions] == keys
    assert all(one.must_find for one in questions)


def test_a_question_is_called_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("accession_number\nSECRET7\n")
    [question] = questions_by_list(tmp_path / "list.csv")
    assert question.name == "line 2 of the list"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column"),
        (b"name\nx\n", "no column"),
        (b"\xff\xfe\n", "UTF-8"),
        (b"study_instance_uid\n1.2.3\nSECRET\n", "line 3"),
        (b"accession_number\nSECRET*\nSECRET7SECRET7SECRET\n", "line 2, 3"),
    ],
)
def test_a_list_that_names_no_studies_is_refused_without_quoting_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(StartRefusedError, match=said) as refused:
        questions_by_list(tmp_path / "list.csv")
    assert "SECRET" not in str(refused.value)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefusedError, match="cannot be read"):
        questions_by_list(tmp_path / "none.csv")


def test_a_digest_tells_questions_apart_and_hides_them() -> None:
    one, other = StudyQuery(keys={"PatientID": "7"}), StudyQuery(keys={"PatientID": "8"})
    assert digest([one]) == digest([question_by_keys({"PatientID": "7"}).query]) != digest([other])
    assert digest([StudyQuery(date(2024, 1, 1), None)]) != digest([StudyQuery(date(2024, 1, 2), None)])
