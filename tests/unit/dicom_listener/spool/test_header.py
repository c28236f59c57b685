from io import BytesIO

import pytest
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_listener.errors import InvalidInstanceUidError, UnreadableHeaderError
from dicom_listener.spool.header import read_identity
from tests.unit.dicom_listener.instances import PLANTED_ID, encode, make_dataset


@pytest.mark.parametrize(
    "transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit]
)
def test_the_identity_is_read_in_any_encoding(transfer_syntax: UID) -> None:
    ds = make_dataset()
    identity = read_identity(encode(ds, transfer_syntax), transfer_syntax)
    assert identity.sop_class_uid == ds.SOPClassUID
    assert identity.sop_instance_uid == ds.SOPInstanceUID
    assert identity.study_instance_uid == ds.StudyInstanceUID
    assert identity.series_instance_uid == ds.SeriesInstanceUID
    assert identity.patient_id == PLANTED_ID


def test_pixels_are_never_read() -> None:
    stream = encode(make_dataset(pixel_bytes=60000))
    read_identity(stream, ExplicitVRLittleEndian)
    assert stream.tell() < 1000


def test_an_absent_patient_id_is_empty() -> None:
    ds = make_dataset()
    del ds.PatientID
    assert read_identity(encode(ds), ExplicitVRLittleEndian).patient_id == ""


def test_a_patient_id_in_any_character_set_is_a_string() -> None:
    ds = make_dataset()
    ds.PatientID = None
    ds.add_new("PatientID", "LO", b"\xc4\xd6\xff ")
    assert read_identity(encode(ds), ExplicitVRLittleEndian).patient_id == "\xc4\xd6\xff"


def test_a_stray_delimiter_between_elements_does_not_end_the_header() -> None:
    ds = make_dataset()
    whole = encode(ds).getvalue()
    place = whole.index(b"\x20\x00\x0d\x00UI")
    stray = b"\xfe\xff\xdd\xe0\0\0\0\0"
    stream = BytesIO(whole[:place] + stray + whole[place:])
    assert read_identity(stream, ExplicitVRLittleEndian).study_instance_uid == ds.StudyInstanceUID


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
def test_an_absent_identifying_uid_makes_the_header_unreadable(keyword: str) -> None:
    ds = make_dataset()
    delattr(ds, keyword)
    with pytest.raises(UnreadableHeaderError):
        read_identity(encode(ds), ExplicitVRLittleEndian)


@pytest.mark.parametrize("value", [b"1.2.03", b"1.2.PLANTED", b"1" * 66, b".7", b"1..2"])
def test_a_malformed_uid_is_refused_without_repeating_it(value: bytes) -> None:
    ds = make_dataset()
    whole = encode(ds).getvalue()
    element = b"\x20\x00\x0d\x00UI"
    place = whole.index(element)
    value += b"\0" * (len(value) % 2)
    malformed = whole[:place] + element + len(value).to_bytes(2, "little") + value
    malformed += whole[whole.index(b"\x20\x00\x0e\x00UI") :]
    with pytest.raises(InvalidInstanceUidError) as caught:
        read_identity(BytesIO(malformed), ExplicitVRLittleEndian)
    assert value.decode().strip("\0") not in str(caught.value)


@pytest.mark.parametrize("length", range(0, 150, 7))
def test_a_truncated_header_is_unreadable(length: int) -> None:
    with pytest.raises(UnreadableHeaderError):
        read_identity(BytesIO(encode(make_dataset()).getvalue()[:length]), ExplicitVRLittleEndian)


def test_noise_is_unreadable() -> None:
    with pytest.raises(UnreadableHeaderError):
        read_identity(BytesIO(bytes(range(256)) * 8), ImplicitVRLittleEndian)


def undefined(tag: bytes, vr: bytes, content: bytes) -> bytes:
    """Encode an element without length, in Explicit VR Little Endian."""
    return tag + vr + b"\0\0" + b"\xff" * 4 + content + b"\xfe\xff\xdd\xe0\0\0\0\0"


def before_the_patient(inserted: bytes) -> BytesIO:
    whole = encode(make_dataset()).getvalue()
    place = whole.index(b"\x10\x00\x10\x00PN")
    return BytesIO(whole[:place] + inserted + whole[place:])


ITEM = b"\xfe\xff\x00\xe0" + b"\xff" * 4
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"


@pytest.mark.parametrize(
    "inserted",
    [
        undefined(b"\x08\x00\x40\x11", b"SQ", ITEM + ITEM_END),
        undefined(
            b"\x08\x00\x40\x11",
            b"SQ",
            ITEM
            + undefined(b"\x08\x00\x40\x11", b"SQ", ITEM + b"\x08\0\x60\0CS\2\0US" + ITEM_END)
            + ITEM_END,
        ),
        # what the sender did not know either is in Implicit VR; its length looks like the VR "AA"
        undefined(b"\x09\x00\x10\x10", b"UN", ITEM + b"\x09\0\x11\x10AA\0\0" + b"x" * 0x4141 + ITEM_END),
        undefined(b"\x09\x00\x10\x10", b"SQ", b"\xfe\xff\x00\xe0\x04\0\0\0abcd"),
        b"\x09\x00\x10\x10OB\0\0\x00\x00\x01\x00" + bytes(65536),
    ],
    ids=["empty item", "nested", "unknown", "item with a length", "long private value"],
)
def test_what_is_not_wanted_is_skipped(inserted: bytes) -> None:
    assert read_identity(before_the_patient(inserted), ExplicitVRLittleEndian).patient_id == PLANTED_ID


@pytest.mark.parametrize(
    ("inserted", "why"),
    [
        (undefined(b"\x08\x00\x40\x11", b"SQ", ITEM * 100), "nested too deep"),
        (b"\x08\x00\x60\x00CS\0\0" * 100_001, "more than 100000 elements"),
        (b"\x10\x00\x20\x00UN\0\0" + b"\xff" * 4, "has no length"),
        (undefined(b"\x08\x00\x40\x11", b"SQ", ITEM)[:-4], "cannot be parsed"),
    ],
)
def test_a_header_that_would_take_for_ever_is_unreadable(inserted: bytes, why: str) -> None:
    with pytest.raises(UnreadableHeaderError, match=why):
        read_identity(before_the_patient(inserted), ExplicitVRLittleEndian)


def test_a_long_value_is_not_taken_into_memory() -> None:
    ds = make_dataset()
    ds.PatientID = None
    ds.add_new("PatientID", "UT", "7" * 1_000_000)
    assert read_identity(encode(ds), ExplicitVRLittleEndian).patient_id == "7" * 256
