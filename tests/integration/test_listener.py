"""Real associations with the running listener."""

import errno
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from pydicom import dcmread, examples
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage, Verification

from dicom_listener.errors import PortInUseError, SpoolLockedError, SpoolUnavailableError
from dicom_listener.ledger import StudyState
from dicom_listener.reception.contexts import (
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    UltrasoundImageStorageRetired,
    UltrasoundMultiFrameImageStorageRetired,
)
from dicom_listener.service import keeper
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings
from tests.integration.listener_peers import associate, is_refused, store
from tests.programs import DEADLINE_S, wait_for
from tests.unit.dicom_listener.instances import encode, make_dataset


def make_settings(root: Path, **values: Any) -> ListenerSettings:
    defaults = {"port": 0, "http_port": 0, "quiet_period_s": 60, "housekeeping_s": 0.02}
    return ListenerSettings(root=root, **(defaults | values))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with Listener(make_settings(tmp_path)) as listener:
        yield listener


@contextmanager
def associated(
    listener: Listener,
    sop_class: str = UltrasoundMultiFrameImageStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Iterator[Association]:
    assoc = associate(listener.dicom_port, sop_class, transfer_syntax)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def send(listener: Listener, *instances: Dataset, **context: str) -> list[int]:
    with associated(listener, **context) as assoc:
        return [store(assoc, ds) for ds in instances]


def get(listener: Listener, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{listener.http_port}{path}", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def state_of(listener: Listener, study: str) -> StudyState:
    return listener.reception.ledger.show_study(study).state


def is_complete(listener: Listener, study: str) -> bool:
    return state_of(listener, study) is StudyState.COMPLETE


def test_an_echo_is_answered(listener: Listener) -> None:
    with associated(listener) as assoc:
        assert assoc.send_c_echo().Status == 0


@pytest.mark.parametrize(
    "transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_success_means_on_disk_byte_for_byte_and_in_the_ledger(
    listener: Listener, tmp_path: Path, transfer_syntax: UID
) -> None:
    ds = make_dataset()
    with associated(listener, transfer_syntax=transfer_syntax) as assoc:
        assert store(assoc, ds, transfer_syntax) == 0
        # still within the association: Success was the promise
        [file] = tmp_path.glob("spool/??/*.dcm")
        assert file.read_bytes().endswith(encode(ds, transfer_syntax).getvalue())
        assert dcmread(file).file_meta.TransferSyntaxUID == transfer_syntax
        assert listener.reception.ledger.show_study("1.2.3").instances == 1


def test_a_real_compressed_cine_is_kept_as_it_is_in_its_file(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = examples.get_path("ybr_color")
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # sends the file's bytes undecoded
    with associated(listener, transfer_syntax=JPEGBaseline8Bit) as assoc:
        assert assoc.send_c_store(source).Status == 0
    [kept] = tmp_path.glob("spool/??/*.dcm")
    assert dataset_bytes(kept) == dataset_bytes(source)


def dataset_bytes(path: Path) -> bytes:
    length = dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    return path.read_bytes()[128 + 4 + 12 + length :]


def test_every_storage_class_is_accepted_and_stored(listener: Listener) -> None:
    # the two retired ultrasound classes too: pynetdicom aborts on them unless they are registered
    assert {UltrasoundImageStorageRetired, UltrasoundMultiFrameImageStorageRetired} <= set(STORAGE_CLASSES)
    ae = AE()
    for sop_class in STORAGE_CLASSES:
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", listener.dicom_port, ae_title="ECHOBEAM")
    for number, sop_class in enumerate(STORAGE_CLASSES):
        ds = make_dataset(sop_class=sop_class, instance=f"1.2.3.1.{number + 1}")
        assert (sop_class.keyword, store(assoc, ds)) == (sop_class.keyword, 0)
    assoc.release()
    assert listener.reception.ledger.show_study("1.2.3").instances == len(STORAGE_CLASSES)


def test_every_transfer_syntax_is_accepted_alone(listener: Listener) -> None:
    ae = AE()
    for number, transfer_syntax in enumerate(TRANSFER_SYNTAXES):
        sop_class = STORAGE_CLASSES[number % len(STORAGE_CLASSES)]
        ae.add_requested_context(sop_class, transfer_syntax)
        if number % len(STORAGE_CLASSES) == len(STORAGE_CLASSES) - 1 or number == len(TRANSFER_SYNTAXES) - 1:
            assoc = ae.associate("127.0.0.1", listener.dicom_port, ae_title="ECHOBEAM")
            assert assoc.is_established
            assert assoc.rejected_contexts == []
            assoc.release()
            ae = AE()


@pytest.mark.parametrize(
    ("sop_class", "transfer_syntax"),
    [
        (UltrasoundMultiFrameImageStorage, DeflatedExplicitVRLittleEndian),
        (CTImageStorage, ExplicitVRLittleEndian),
    ],
)
def test_what_is_not_listed_is_not_negotiated(
    listener: Listener, sop_class: UID, transfer_syntax: UID
) -> None:
    with associated(listener, sop_class, transfer_syntax) as assoc:
        [rejected] = assoc.rejected_contexts
        assert rejected.abstract_syntax == sop_class


def test_the_same_twice_is_a_duplicate_and_something_else_a_change(listener: Listener) -> None:
    ledger = listener.reception.ledger
    assert send(listener, make_dataset(), make_dataset()) == [0, 0]
    study = ledger.show_study("1.2.3")
    assert (study.instances, study.revision, study.conflicts) == (1, 1, ())
    changed = make_dataset()
    changed.Modality = "OT"
    assert send(listener, changed) == [0]
    study = ledger.show_study("1.2.3")
    assert (study.instances, study.revision, len(study.conflicts)) == (1, 2, 1)
    _, metrics = get(listener, "/metrics")
    for outcome in ("new", "duplicate", "changed"):
        assert f'echobeam_listener_received_instances_total{{outcome="{outcome}"}} 1.0' in metrics


def test_a_bad_header_is_refused_and_the_association_goes_on(listener: Listener) -> None:
    bad = make_dataset(instance="1.2.3.1.2")
    del bad.StudyInstanceUID
    assert send(listener, bad, make_dataset()) == [0xC000, 0]
    _, metrics = get(listener, "/metrics")
    assert 'echobeam_listener_refused_instances_total{reason="unreadable_header"} 1.0' in metrics


def test_several_associations_at_once_lose_nothing(listener: Listener) -> None:
    def send_study(number: int) -> list[int]:
        study = f"1.2.3.{number}"
        return send(listener, *(make_dataset(study=study, instance=f"{study}.1.{n}") for n in range(1, 9)))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send_study, range(1, 5))) == [[0] * 8] * 4
    assert [study.instances for study in listener.reception.ledger.list_studies()] == [8] * 4


def test_an_open_association_holds_its_study_however_quiet_it_is(tmp_path: Path) -> None:
    clock = Clock()
    with Listener(make_settings(tmp_path), clock=clock) as listener:
        with associated(listener) as assoc:
            assert store(assoc, make_dataset(study="1.2.3")) == 0
            for other in range(1, 4):  # longer in all than a hold lasts by itself
                study = f"1.2.4.{other}"
                assert send(listener, make_dataset(study=study, instance=f"{study}.1.1")) == [0]
                wait_for(f"the end of association {other}", lambda: len(open_names(listener)) == 1)
                clock.now += 61
                wait_for(f"completion of {study}", partial(is_complete, listener, study))
                assert state_of(listener, "1.2.3") is StudyState.RECEIVING
        wait_for("completion", partial(is_complete, listener, "1.2.3"))


def open_names(listener: Listener) -> list[str]:
    return listener.reception.open_associations.names()


def test_a_late_instance_sends_a_done_study_round_again(tmp_path: Path) -> None:
    clock = Clock()
    with Listener(make_settings(tmp_path), clock=clock) as listener:
        ledger = listener.reception.ledger
        for number in (1, 2):
            assert send(listener, make_dataset(instance=f"1.2.3.1.{number}")) == [0]
            wait_for("the end of the association", lambda: open_names(listener) == [])
            clock.now += 61
            [claimed] = wait_for(
                "a claim",
                lambda: ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=clock.now),
            )
            with ledger.committing(claimed.claim_token, now=clock.now):
                pass
            assert (claimed.revision, len(claimed.instances)) == (number, number)
            assert state_of(listener, "1.2.3") is StudyState.DONE


def test_it_says_where_it_listens_and_that_it_is_well(tmp_path: Path) -> None:
    with Listener(make_settings(tmp_path)) as listener:
        announced = json.loads((tmp_path / "run" / "listener.json").read_text())
        assert (announced["dicom_port"], announced["http_port"]) == (listener.dicom_port, listener.http_port)
        assert get(listener, "/healthz") == (200, "ok\n")
        assert get(listener, "/readyz") == (200, "ready\n")
        assert get(listener, "/elsewhere")[0] == 404
    assert not (tmp_path / "run" / "listener.json").exists()


def test_it_is_not_ready_when_the_spool_cannot_be_written(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "spool" / "tmp").rmdir()
    (tmp_path / "spool" / "tmp").touch()
    assert get(listener, "/readyz")[0] == 503
    assert get(listener, "/healthz")[0] == 200
    assert send(listener, make_dataset()) == [0xA700]


def test_it_is_not_ready_when_the_ledger_cannot_be_written(listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"no database" * 1000)
    (tmp_path / "other").replace(tmp_path / "ledger.sqlite")
    for beside in ("-wal", "-shm"):  # out of these the first page would come back
        (tmp_path / f"ledger.sqlite{beside}").unlink(missing_ok=True)
    listener.reception.ledger.close()  # last: whoever has it open has the file that was there
    assert get(listener, "/readyz")[0] == 503
    assert send(listener, make_dataset()) == [0xA700]


def test_too_many_associations_are_rejected_and_counted(tmp_path: Path) -> None:
    with Listener(make_settings(tmp_path, maximum_associations=1)) as listener, associated(listener):
        ae = AE()
        ae.add_requested_context(Verification)
        assert ae.associate("127.0.0.1", listener.dicom_port, ae_title="ECHOBEAM").is_rejected
        wait_for(
            "the count",
            lambda: 'associations_total{result="rejected"} 1.0' in get(listener, "/metrics")[1],
        )


def test_a_running_association_is_drained(tmp_path: Path) -> None:
    listener = Listener(make_settings(tmp_path))
    listener.__enter__()
    with associated(listener) as assoc:
        assert store(assoc, make_dataset()) == 0
        stopping = threading.Thread(target=listener.__exit__, args=(None, None, None))
        stopping.start()
        wait_for("the closed door", lambda: is_refused(listener.dicom_port))
        assert get(listener, "/readyz")[0] == 503
        assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0
        assert stopping.is_alive()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()
    with Listener(make_settings(tmp_path)) as again:
        assert again.reception.ledger.show_study("1.2.3").instances == 2


def test_an_association_that_does_not_end_is_aborted(tmp_path: Path) -> None:
    listener = Listener(make_settings(tmp_path, drain_s=0.1))
    listener.__enter__()
    with associated(listener) as assoc:
        listener.__exit__(None, None, None)
        wait_for("the abort", lambda: assoc.is_aborted)


def test_a_taken_port_refuses_the_start_and_leaves_nothing_behind(listener: Listener, tmp_path: Path) -> None:
    for name, port in (("port", listener.dicom_port), ("http_port", listener.http_port)):
        settings = make_settings(tmp_path / "other", **{name: port})
        with pytest.raises(PortInUseError), Listener(settings):
            pass
        assert not (tmp_path / "other" / "run" / "listener.json").exists()
    with Listener(make_settings(tmp_path / "other")) as other:  # refused if the spool were still owned
        assert get(other, "/readyz")[0] == 200


def test_a_spool_that_cannot_be_compared_with_the_ledger_refuses_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_be_read(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(keeper, "reconcile", cannot_be_read)
    with pytest.raises(SpoolUnavailableError, match="Permission denied"), Listener(make_settings(tmp_path)):
        pass


def test_what_a_crash_left_is_adopted_at_the_start_and_shown(tmp_path: Path) -> None:
    with Listener(make_settings(tmp_path)) as listener:
        assert send(listener, make_dataset()) == [0]
    (tmp_path / "ledger.sqlite").unlink()  # as if it had never come to the row
    (tmp_path / "spool" / "tmp" / "unfinished").touch()
    with Listener(make_settings(tmp_path)) as listener:
        assert listener.reception.ledger.show_study("1.2.3").instances == 1
        assert (
            'echobeam_listener_reconciled_files_total{result="adopted"} 1.0' in get(listener, "/metrics")[1]
        )
        assert list((tmp_path / "spool" / "tmp").iterdir()) == []
        assert send(listener, make_dataset()) == [0]
        assert listener.reception.ledger.show_study("1.2.3").conflicts == ()


@pytest.mark.usefixtures("listener")
def test_a_second_listener_on_the_same_spool_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(SpoolLockedError), Listener(make_settings(tmp_path)):
        pass


def test_a_sender_that_vanishes_leaves_nothing_unfinished(listener: Listener, tmp_path: Path) -> None:
    with associated(listener) as assoc:
        assert store(assoc, make_dataset()) == 0
        connection = assoc.dul.socket.socket
        connection.shutdown(socket.SHUT_RDWR)
        wait_for("the sender to notice", lambda: not assoc.is_established)
        connection.close()
    ledger = listener.reception.ledger
    wait_for("the end of the hold", lambda: ledger.show_study("1.2.3").open_associations == 0)
    assert open_names(listener) == []
    assert list((tmp_path / "spool" / "tmp").iterdir()) == []
