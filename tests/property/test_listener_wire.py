"""Mutated inputs over real connections, and the readers of the wire against simpler ones."""

from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF

from benchmarks import fuzz
from dicom_listener.association.commands import encode_store_response, parse_command
from dicom_listener.association.guard import BreachError
from dicom_listener.association.wire import split_pdvs
from dicom_listener.errors import RefusedInstanceError
from dicom_listener.spool.header import read_identity
from tests.raw_peer import encode_pdu, encode_pdv, encode_store_command
from tests.unit.dicom_listener.instances import encode, make_dataset

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
UIDS = st.from_regex(r"(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){0,6}", fullmatch=True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, at what is not a UID any more
def test_no_spoiled_input_does_harm() -> None:
    outcome = fuzz.run(800, seed=5)
    assert sum(outcome.inputs.values()) == 800
    assert {"0x0000", "0xC000"} <= outcome.statuses.keys()
    assert {"unreadable_pdu", "unexpected_pdu", "oversized_pdu"} <= outcome.breaches.keys()


def test_a_server_that_is_at_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_encoded: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dicom_listener.association.messages.parse_command", fail)
    with pytest.raises(fuzz.FaultError):
        fuzz.run(50, seed=5)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Draw a header with what may come before the series UID."""
    ds = make_dataset(study=draw(UIDS), instance=draw(UIDS))
    ds.PatientID = draw(st.text("abcÄ-1 ", max_size=20)).strip()
    ds.StudyDescription = draw(st.text("xyz ", max_size=30))
    items = draw(st.lists(st.integers(0, 3), max_size=3))
    if items:
        ds.ReferencedImageSequence = Sequence([_item(depth) for depth in items])
        ds["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
    if draw(st.booleans()):
        ds.add_new(0x0009_0010, "LO", "MAKER")
        ds.add_new(0x0009_1001, draw(st.sampled_from(["OB", "UN", "LT"])), b"AB" * draw(st.integers(0, 400)))
    return ds


def _item(depth: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3.4"
    if depth:
        item.PurposeOfReferenceCodeSequence = Sequence([_item(depth - 1)])
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = bool(depth % 2)
    item.is_undefined_length_sequence_item = bool(depth % 2)
    return item


@given(datasets(), st.sampled_from(SYNTAXES))
@settings(max_examples=80, deadline=None)
def test_the_identity_is_what_pydicom_reads(ds: Dataset, transfer_syntax: UID) -> None:
    encoded = encode(ds, transfer_syntax)
    expected = read_dataset(encoded, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    encoded.seek(0)
    identity = read_identity(encoded, transfer_syntax)
    assert identity.sop_instance_uid == expected.SOPInstanceUID
    assert identity.study_instance_uid == expected.StudyInstanceUID
    assert identity.series_instance_uid == expected.SeriesInstanceUID
    raw = expected.get_item("PatientID").value or b""
    assert identity.patient_id == raw.decode("latin-1").strip()


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_harm_as_a_dataset(data: bytes, transfer_syntax: UID) -> None:
    with pytest.raises(RefusedInstanceError):
        read_identity(BytesIO(data), transfer_syntax)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_bytes_are_a_command_or_refused(data: bytes) -> None:
    with suppress(BreachError):
        assert 0 <= parse_command(data).field <= 0xFFFF


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=50)), min_size=1))
@settings(max_examples=150, deadline=None)
def test_values_are_split_as_pynetdicom_splits_them(values: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(encode_pdv(*value) for value in values)
    pdu = P_DATA_TF()
    pdu.decode(encode_pdu(4, body))
    expected = [
        (item.presentation_context_id, item.presentation_data_value)
        for item in pdu.presentation_data_value_items
    ]
    split = [
        (context_id, bytes((control,)) + bytes(fragment))
        for context_id, control, fragment in split_pdvs(memoryview(body))
    ]
    assert split == expected


@given(UIDS, UIDS, st.integers(0, 0xFFFF), st.sampled_from([0, 0xA700, 0xC000]), st.text("abc", max_size=64))
@settings(max_examples=100, deadline=None)
def test_an_answer_is_what_pynetdicom_reads(
    sop_class: str, instance: str, message_id: int, status: int, comment: str
) -> None:
    command = parse_command(encode_store_command(instance, sop_class))
    command = type(command)(command.field, message_id, sop_class, instance, has_dataset=True)
    message = C_STORE_RSP()
    message.command_set = decode(
        BytesIO(encode_store_response(command, status, comment)), is_implicit_vr=True, is_little_endian=True
    )
    answer = message.message_to_primitive()
    assert (answer.Status, answer.MessageIDBeingRespondedTo) == (status, message_id)
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (sop_class, instance)
    assert (answer.ErrorComment or "") == comment
