"""Whatever element holds a mark, wherever it lies and however it is written, none comes out."""

import random
import string
import struct
from contextlib import suppress
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

from beam_jobs.deid import RejectedError
from beam_jobs.deid.profile import DeidentifiedDataset, DeidOptions, deidentify_dataset
from beam_jobs.deid.profile.table import ALLOW_LIST_FILE, attribute_rules, read_table
from beam_jobs.deid.quiet import quiet_pydicom
from tests import marks
from tests.made_files import PLACEMENT, PSEUDONYMIZER, header
from tests.marks import encoded

OPTIONS = st.builds(
    DeidOptions,
    clean_graphics=st.booleans(),
    clean_structured_content=st.booleans(),
    clean_descriptors=st.booleans(),
    retain_modified_dates=st.booleans(),
    retain_patient_characteristics=st.booleans(),
    times_of_day=st.sampled_from(["remove", "shift"]),
)
SOP_CLASSES = st.sampled_from(
    [
        "1.2.840.10008.5.1.4.1.1.3.1",
        "1.2.840.10008.5.1.4.1.1.6.2",
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.11.1",
        "1.2.3",
    ]
)
PUBLIC = [number for number in DicomDictionary if 8 <= number >> 16 < 0xFFFC and number != 0x00080005]
SEQUENCES = [number for number in PUBLIC if marks.vr_of(number) == "SQ"]
ALLOWED_SEQUENCES = [
    int(Tag(row["keyword"])) for row in read_table(ALLOW_LIST_FILE) if row["kind"] in {"sequence", "codes"}
]
NAMED = [
    *(rule.tag_number for rule in attribute_rules() if not rule.is_pattern and rule.tag_number in PUBLIC),
    *(int(Tag(row["keyword"])) for row in read_table(ALLOW_LIST_FILE)),
]
"""What the plans name: taken more often than the thousands of others, which are all treated alike."""

PRIVATE = [0x00091001, 0x200D1001, 0x7FE11010, 0x00290010]
VRS = [vr for vr in marks.VALUES if vr not in {"AT", "AS", "TM"}]
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bytes_of(vr: str) -> bytes:
    """Give the bytes of a mark, as a file has them."""
    ds = Dataset()
    ds.add(marks.element(0x00090010, vr, marks.VALUES[vr]))
    data = encoded(ds)
    return data[12 if (vr[0] in "OU" and vr not in {"UI", "UL", "US"}) or vr == "SV" else 8 :]


BYTES = {vr: bytes_of(vr) for vr in marks.VALUES}


def marked(chance: random.Random, depth: int = 2) -> Dataset:
    """Make a dataset with marks as a file may hold them, some of another kind than their tag says.

    Drawn from a seed, because a dataset of hundreds of elements is more than Hypothesis likes to draw.
    """
    tags = [*chance.sample(NAMED, 150), *chance.sample(PUBLIC, 50)]
    own = [(number, marks.vr_of(number)) for number in tags]
    others = [(number, chance.choice(VRS)) for number in [*chance.sample(NAMED, 20), *PRIVATE]]
    elements: dict[BaseTag, Any] = {}
    for number, vr in [*own, *others]:
        if vr in BYTES:
            tag, value, is_implicit = Tag(number), BYTES[vr], chance.random() < 0.5
            elements[tag] = RawDataElement(
                tag, None if is_implicit else vr, len(value), value, 0, is_implicit, True
            )
    if depth:
        for number in [*chance.sample(ALLOWED_SEQUENCES, 3), *chance.sample(SEQUENCES, 2)]:
            items = [marked(chance, depth - 1) for _ in range(chance.randint(1, 2))]
            elements[Tag(number)] = pydicom.DataElement(number, "SQ", Sequence(items))
    return Dataset(elements)


def run(ds: Dataset, options: DeidOptions) -> DeidentifiedDataset:
    return deidentify_dataset(ds, options=options, placement=PLACEMENT, pseudonymizer=PSEUDONYMIZER)


@QUICK
@given(seed=st.integers(0, 2**32), options=OPTIONS, sop_class=SOP_CLASSES)
def test_no_mark_comes_out_of_any_element(seed: int, options: DeidOptions, sop_class: str) -> None:
    ds = marked(random.Random(seed))
    ds[Tag("SOPClassUID")] = marks.element(0x00080016, "UI", sop_class)
    done = run(ds, options)
    assert marks.find_marks(encoded(done.ds)) == []
    assert marks.WORD not in "".join(f"{action.place}{action.code}{action.rule}" for action in done.actions)


@QUICK
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 20), options=OPTIONS)
def test_a_header_with_changed_bytes_comes_through_or_is_rejected(
    seed: int, changes: int, options: DeidOptions
) -> None:
    chance = random.Random(seed)
    item = Dataset()
    item.RegionSpatialFormat, item.PhysicalDeltaX = 1, 0.1
    data = bytearray(encoded(header(PatientName="DOE", StudyDate="20200229", regions=[item, item], Rows=4)))
    for _ in range(changes):
        data[chance.randrange(len(data))] = chance.randrange(256)
    try:
        with quiet_pydicom():
            ds = pydicom.filereader.read_dataset(BytesIO(bytes(data)), False, True)
    except Exception:  # noqa: BLE001 - what pydicom cannot read at all does not come to the profile
        return
    # What a walk cannot get through at all is rejected.
    with suppress(RejectedError):
        assert b"DOE" not in encoded(run(ds, options).ds)


@given(text=st.text(st.characters(codec="utf-8"), max_size=64))
def test_of_a_text_nothing_but_known_words_stays(text: str) -> None:
    ds = Dataset()
    tag = pydicom.tag.Tag("SeriesDescription")
    value = text.encode()
    ds[tag] = pydicom.dataelem.RawDataElement(tag, "LO", len(value), value, 0, False, True)
    kept = str(run(ds, DeidOptions()).ds.get("SeriesDescription", ""))
    words = {word.lower() for word in kept.split()}
    assert words <= {part.lower() for part in _alphanumeric_runs(text)}
    assert not any(word.isdigit() for word in words)


def _alphanumeric_runs(text: str) -> list[str]:
    letters = string.ascii_letters + string.digits
    return "".join(letter if letter in letters else " " for letter in text).split()


@given(day=st.dates(date(1900, 1, 1), date(2099, 12, 31)), apart=st.integers(-5000, 5000))
def test_dates_of_a_subject_keep_their_distance(day: date, apart: int) -> None:
    other = day + timedelta(apart)
    ds = header(StudyDate=f"{day:%Y%m%d}", AcquisitionDate=f"{other:%Y%m%d}")
    done = run(ds, DeidOptions()).ds
    first, second = (pydicom.valuerep.DA(done[keyword].value) for keyword in ("StudyDate", "AcquisitionDate"))
    assert first is not None
    assert second is not None
    assert second - first == timedelta(apart)


@given(
    values=st.lists(st.integers(0, 65535), min_size=1, max_size=300),
    words=st.sampled_from(["DOE^JANE", "Jane Doe"]),
)
def test_a_name_in_a_table_of_numbers_is_found(values: list[int], words: str) -> None:
    table = struct.pack(f"<{len(values)}H", *values) + struct.pack(f"<{len(words)}H", *map(ord, words))
    ds = Dataset()
    ds.RedPaletteColorLookupTableData = table
    kept: Any = run(ds, DeidOptions()).ds.get("RedPaletteColorLookupTableData")
    assert kept is None
