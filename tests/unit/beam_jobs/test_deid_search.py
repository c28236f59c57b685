"""What is searched for, and where it is found."""

from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence

from beam_jobs.deid.originals import DAMAGED, PRIVATE, UNKNOWN, Originals, header_of, read_source_header
from beam_jobs.deid.search import Kind, Search
from tests.made_files import as_bytes, header

ORIGINALS = Originals(
    names=frozenset({"Quillfeather^Ann^^Dr", "李^小明"}),
    identifiers=frozenset({"MRN47110815", "00000000", "7"}),
    dates=frozenset({date(2021, 3, 4), date(1950, 12, 31)}),
    uids=frozenset({"1.2.840.113663.1500.1.392075967.2.1"}),
)


@pytest.fixture(scope="module")
def search() -> Search:
    return Search(ORIGINALS)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("QUILLFEATHER", Kind.NAME),
        ("seen by quillfeather at noon", Kind.NAME),
        ("Ann was here", Kind.NAME),
        ("MRN47110815", Kind.IDENTIFIER),
        ("x47110815", None),
        ("04.03.2021", Kind.DATE),
        ("1.20210304.5", Kind.DATE),
        ("1.2.840.113663.1500.1.392075967.2.1.9", Kind.UID),
        ("李 明", None),
        ("小明", Kind.NAME),
        ("annual", None),
        ("Dr", None),
        ("00000000", None),
    ],
)
def test_a_text_is_searched_for_whole_words_and_for_long_originals_anywhere(
    search: Search, text: str, kind: Kind | None
) -> None:
    assert search.in_text(text) == kind


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "ascii"])
@pytest.mark.parametrize("text", ["Quillfeather", "QUILLFEATHER", "quillfeather"])
def test_bytes_are_searched_in_every_encoding_and_case(search: Search, encoding: str, text: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 999).astype(np.uint8).tobytes()
    assert search.in_bytes(noise) is None
    assert search.in_bytes(noise + text.encode(encoding) + noise) == Kind.NAME


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_an_array_of_integers_that_spells_a_name_is_found(search: Search, dtype: type) -> None:
    codes: npt.NDArray[np.generic] = np.array([ord(letter) for letter in "Quillfeather"], dtype)
    assert search.in_numbers(codes) == Kind.NAME
    assert search.in_numbers(codes[::-1]) is None


def test_a_number_that_is_an_identifier_or_a_day_is_found(search: Search) -> None:
    assert search.in_numbers(np.array([1, 47110815], np.int64)) == Kind.IDENTIFIER
    assert search.in_numbers(np.array([20210304.0])) == Kind.DATE
    assert search.in_numbers(np.array([0.5, np.nan, 7])) is None


def test_a_day_that_the_key_shifts_to_is_expected() -> None:
    shifted = Search(ORIGINALS, expected_days=[date(2021, 3, 4)])
    assert shifted.in_days([date(2021, 3, 4)]) is None
    assert shifted.in_text("20210304") is None
    assert shifted.in_days([date(1950, 12, 31)]) == Kind.DATE


def test_a_patient_called_like_a_word_of_the_tables_is_found_by_the_other_parts() -> None:
    search = Search(Originals(names=frozenset({"Long^Marigold"})), harmless=frozenset({"LONG"}))
    assert search.in_text("long axis") is None
    assert search.in_text("Marigold") == Kind.NAME
    assert search.in_text("Long^Marigold") == Kind.NAME


def test_zeros_before_a_number_do_not_make_a_small_one_an_identifier() -> None:
    search = Search(Originals(identifiers=frozenset({"0000000016", "000004711081"})))
    assert search.in_numbers(np.arange(24)) is None
    assert search.in_numbers(np.array([4711081])) == Kind.IDENTIFIER
    assert search.in_text("0000000016") == Kind.IDENTIFIER


def test_a_name_that_every_file_has_in_some_word_is_found_as_a_word_only() -> None:
    search = Search(Originals(names=frozenset({"Rating^Eve"})), fixed_text="GENERATING")
    assert search.in_bytes(b"generating") is None
    assert search.in_text("generating") is None
    assert search.in_text("Rating") == Kind.NAME
    assert search.in_bytes(b"Rating^Eve") == Kind.NAME


@given(
    noise=st.binary(max_size=300),
    place=st.integers(0, 300),
    name=st.text("abcdefgh", min_size=6, max_size=20),
)
def test_a_long_name_is_found_wherever_it_stands(noise: bytes, place: int, name: str) -> None:
    search = Search(Originals(names=frozenset({name})))
    assert search.in_bytes(noise[:place] + name.encode() + noise[place:]) == Kind.NAME


def test_nothing_is_found_where_there_is_nothing_to_look_for() -> None:
    assert Search(Originals()).in_bytes(b"anything at all") is None


def test_a_repr_shows_no_original() -> None:
    assert "Quill" not in repr(ORIGINALS)


def nested_header() -> Dataset:
    ds = header(
        PatientName="Zabriskie^Eve", PatientID="MRN1", StudyDate="20240517", InstitutionName="Wexcombe"
    )
    item, deeper = Dataset(), Dataset()
    deeper.PatientName, deeper.ReferencedSOPInstanceUID = "Oyelaran^Bo", "1.2.3.4.5"
    item.ReferencedImageSequence = Sequence([deeper])
    item.ScheduledProcedureStepStartDateTime = "20240518101112.5"
    ds.RequestAttributesSequence = Sequence([item])
    block = ds.private_block(0x0009, "A PACS", create=True)
    block.add_new(1, "LO", "anything")
    return ds


def test_originals_are_collected_at_any_depth() -> None:
    found = header_of(nested_header())
    originals = found.originals
    assert originals.names == {"Zabriskie^Eve", "Oyelaran^Bo"}
    assert originals.identifiers == {"MRN1", "Wexcombe"}
    assert originals.dates == {date(2024, 5, 17), date(2024, 5, 18)}
    assert "1.2.3.4.5" in originals.uids
    assert not [uid for uid in originals.uids if uid.startswith("1.2.840.10008.")]
    assert found.elements["PatientName"] == 2
    assert found.elements[PRIVATE] == 2
    assert originals | Originals(names=frozenset({"x"})) != originals


def test_an_unknown_tag_is_counted_without_its_number() -> None:
    ds = Dataset()
    ds.add_new(0x3A36423C, "LO", "text where a tag should be")
    assert header_of(ds).elements == Counter({UNKNOWN: 1})


def test_a_damaged_header_is_searched_byte_by_byte(tmp_path: Path) -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    whole = as_bytes(nested_header())
    place = whole.index(b"\x08\x00\x60\x00CS")
    broken = whole[:place] + (b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + item) * 5_000 + whole[place:]
    path = tmp_path / "instance.dcm"
    path.write_bytes(broken)
    found = read_source_header(path)
    assert found.elements == Counter({DAMAGED: 1})
    assert any("Zabriskie" in name for name in found.originals.names)
    assert date(2024, 5, 17) in found.originals.dates
    assert "1.2.3.4.5" in found.originals.uids


def test_a_missing_file_is_not_called_clean(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_source_header(tmp_path / "absent")
