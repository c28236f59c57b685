import errno
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage
from structlog.testing import capture_logs

from dicom_listener.association.scp import (
    Reception,
    on_accepted,
    on_association_over,
    on_c_echo,
    on_c_store,
    on_rejected,
)
from dicom_listener.ledger import Ledger, RecordOutcome
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.reception.statuses import StoreStatus
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import PLANTED_ID, PLANTED_NAME, encode, make_dataset


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def reception(tmp_path: Path, registry: CollectorRegistry) -> Iterator[Reception]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (tmp_path / "spool").mkdir()
    yield Reception(Spool(tmp_path / "spool"), ledger, ListenerMetrics(registry), clock=lambda: 1000.0)
    ledger.close()


class FakeAssociation:
    """What the handlers look at of an association; hashable by identity, as the real one is."""

    def __init__(self) -> None:
        self.requestor = SimpleNamespace(address="10.0.0.7", ae_title="SONO       ")
        self.rejected_contexts: list[Any] = []


def make_event(ds: Dataset | None = None, dataset: BytesIO | None = None) -> Any:
    ds = ds or make_dataset()
    return SimpleNamespace(
        assoc=FakeAssociation(),
        context=SimpleNamespace(transfer_syntax=ExplicitVRLittleEndian),
        request=SimpleNamespace(
            AffectedSOPClassUID=ds.SOPClassUID,
            AffectedSOPInstanceUID=ds.SOPInstanceUID,
            DataSet=dataset or encode(ds),
        ),
    )


def status_of(answer: Dataset | int) -> int:
    return int(answer.Status) if isinstance(answer, Dataset) else int(answer)


def test_an_echo_is_answered_with_success() -> None:
    assert on_c_echo(make_event()) == 0


def test_success_means_the_instance_is_on_disk_and_in_the_ledger(
    reception: Reception, registry: CollectorRegistry
) -> None:
    event = make_event()
    sent = event.request.DataSet.getvalue()
    assert on_c_store(event, reception) == StoreStatus.SUCCESS
    study = reception.ledger.show_study("1.2.3")
    assert (study.instances, study.last_received_at, study.open_associations) == (1, 1000.0, 1)
    [file] = reception.spool.root.glob("*/*.dcm")
    assert file.read_bytes().endswith(sent)
    assert registry.get_sample_value("echobeam_listener_received_instances_total", {"outcome": "new"}) == 1
    assert registry.get_sample_value("echobeam_listener_received_bytes_total") == file.stat().st_size
    assert registry.get_sample_value("echobeam_listener_spool_bytes") == file.stat().st_size
    assert registry.get_sample_value("echobeam_listener_last_success_timestamp_seconds") == 1000.0


def test_the_same_instance_twice_is_success_and_a_duplicate(
    reception: Reception, registry: CollectorRegistry
) -> None:
    assert on_c_store(make_event(), reception) == StoreStatus.SUCCESS
    size_bytes = registry.get_sample_value("echobeam_listener_spool_bytes")
    assert on_c_store(make_event(), reception) == StoreStatus.SUCCESS
    assert (
        registry.get_sample_value("echobeam_listener_received_instances_total", {"outcome": "duplicate"}) == 1
    )
    assert registry.get_sample_value("echobeam_listener_spool_bytes") == size_bytes


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_asks_the_sender_to_come_again(
    reception: Reception,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    trouble: int,
) -> None:

    def full(_descriptor: int) -> None:
        raise OSError(trouble, os.strerror(trouble))

    monkeypatch.setattr(os, "fsync", full)
    assert status_of(on_c_store(make_event(), reception)) == StoreStatus.OUT_OF_RESOURCES
    monkeypatch.undo()
    assert reception.ledger.list_studies() == []
    assert (
        registry.get_sample_value(
            "echobeam_listener_refused_instances_total", {"reason": "spool_unavailable"}
        )
        == 1
    )
    assert registry.get_sample_value("echobeam_listener_received_bytes_total") == 0


def test_without_the_ledger_the_sender_is_asked_to_come_again(reception: Reception, tmp_path: Path) -> None:
    reception.ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    assert status_of(on_c_store(make_event(), reception)) == StoreStatus.OUT_OF_RESOURCES


def test_a_dataset_of_another_class_does_not_match(reception: Reception) -> None:
    event = make_event()
    event.request.AffectedSOPClassUID = UltrasoundImageStorage
    assert status_of(on_c_store(event, reception)) == StoreStatus.DATASET_DOES_NOT_MATCH_SOP_CLASS


def test_a_class_that_is_not_listed_is_not_supported(reception: Reception) -> None:
    event = make_event()
    event.request.AffectedSOPClassUID = CTImageStorage
    assert status_of(on_c_store(event, reception)) == StoreStatus.SOP_CLASS_NOT_SUPPORTED


@pytest.mark.parametrize("uid", ["", "1.2.PLANTED", "1" * 65, "../../etc"])
def test_a_command_whose_instance_uid_is_none_is_refused(reception: Reception, uid: str) -> None:
    event = make_event()
    event.request.AffectedSOPInstanceUID = uid
    assert status_of(on_c_store(event, reception)) == StoreStatus.INVALID_SOP_INSTANCE


def test_a_dataset_of_another_instance_does_not_match(reception: Reception) -> None:
    event = make_event()
    event.request.AffectedSOPInstanceUID = UID("1.2.3.9")
    assert status_of(on_c_store(event, reception)) == StoreStatus.DATASET_DOES_NOT_MATCH_SOP_CLASS


def test_an_unreadable_header_cannot_be_understood(reception: Reception) -> None:
    event = make_event(dataset=BytesIO(b"\x08\x00" * 20))
    assert status_of(on_c_store(event, reception)) == StoreStatus.CANNOT_UNDERSTAND


def test_an_instance_is_filed_by_a_header_that_is_longer_than_its_head(reception: Reception) -> None:
    ds = make_dataset()
    ds.add_new(0x00090010, "LO", "LONG")
    ds.add_new(0x00091001, "OB", bytes(200_000))  # before the patient and the study
    assert on_c_store(make_event(ds), reception) == StoreStatus.SUCCESS
    assert reception.ledger.show_study("1.2.3").instances == 1


def test_a_request_without_a_dataset_cannot_be_understood(reception: Reception) -> None:
    event = make_event()
    event.request.DataSet = None
    assert status_of(on_c_store(event, reception)) == StoreStatus.CANNOT_UNDERSTAND


def test_a_refusal_says_why_in_the_log_and_leaves_nothing(reception: Reception) -> None:
    event = make_event()
    event.request.AffectedSOPClassUID = UltrasoundImageStorage
    on_accepted(event, reception)
    with capture_logs() as logs:
        on_c_store(event, reception)
    [line] = logs
    assert (line["event"], line["peer"], line["calling_ae_title"]) == (
        "instance_refused",
        "10.0.0.7",
        "SONO",
    )
    assert "MismatchedInstanceError" in line["error"]
    assert reception.ledger.list_studies() == []
    assert list(reception.spool.root.glob("*/*")) == []


def test_an_association_is_one_line_in_the_log_without_a_patient(reception: Reception) -> None:
    event = make_event()
    with capture_logs() as logs:
        on_accepted(event, reception)
        on_c_store(event, reception)
        on_c_store(event, reception)
        on_association_over(event, reception)
        on_association_over(event, reception)  # released, then closed
    [line] = logs
    assert (line["new"], line["duplicate"], line["changed"], line["refused"]) == (1, 1, 0, 0)
    assert PLANTED_NAME not in str(line)
    assert PLANTED_ID not in str(line)
    assert "1.2.3" not in str(line)


def test_an_association_that_is_over_holds_nothing(reception: Reception, registry: CollectorRegistry) -> None:
    event = make_event()
    on_accepted(event, reception)
    assert registry.get_sample_value("echobeam_listener_open_associations") == 1
    on_c_store(event, reception)
    assert len(reception.open_associations.names()) == 1
    on_association_over(event, reception)
    assert registry.get_sample_value("echobeam_listener_open_associations") == 0
    assert reception.open_associations.names() == []
    assert reception.ledger.show_study("1.2.3").open_associations == 0


def test_a_ledger_that_is_away_does_not_keep_an_association_from_ending(
    reception: Reception, tmp_path: Path
) -> None:
    event = make_event()
    on_accepted(event, reception)
    reception.ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with capture_logs() as logs:
        on_association_over(event, reception)
    assert [line["event"] for line in logs] == ["holds_not_released", "association"]


def test_a_rejected_association_is_counted_and_told(
    reception: Reception, registry: CollectorRegistry
) -> None:
    with capture_logs() as logs:
        on_rejected(make_event(), reception)
    assert logs[0]["event"] == "association_rejected"
    assert registry.get_sample_value("echobeam_listener_associations_total", {"result": "rejected"}) == 1


def test_contexts_that_were_refused_are_named(reception: Reception) -> None:
    event = make_event()
    event.assoc.rejected_contexts = [SimpleNamespace(abstract_syntax=UID("1.2.840.10008.5.1.4.1.1.2"))]
    with capture_logs() as logs:
        on_accepted(event, reception)
        on_association_over(event, reception)
    assert logs[0]["refused_contexts"] == ["CT Image Storage"]
    assert logs[0][RecordOutcome.NEW.value] == 0
