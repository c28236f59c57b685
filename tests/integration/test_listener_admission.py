"""Who is let in, as real peers see it: DCMTK's words for what it is told, counters, and the log."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from structlog.testing import capture_logs

from dicom_listener.association.admission import CONNECTIONS_OF_STRANGERS
from dicom_listener.ledger import StudyState
from dicom_listener.service.listener import Listener
from dicom_listener.settings import AllowedPeer, ListenerSettings
from dicom_listener.spool import capacity
from tests.integration.listener_peers import associate, store
from tests.programs import DEADLINE_S, need, wait_for
from tests.unit.dicom_listener.instances import make_dataset

OTHER_ADDRESS = "127.0.0.2"  # Linux has all of 127.0.0.0/8


@contextmanager
def listening(root: Path, **values: Any) -> Iterator[Listener]:
    defaults = {"port": 0, "http_port": 0, "housekeeping_s": 0.02, "drain_s": 0.0}
    with Listener(ListenerSettings(root=root, **(defaults | values))) as listener:
        yield listener


def allowed(*entries: tuple[str, str]) -> tuple[AllowedPeer, ...]:
    return tuple(
        AllowedPeer.model_validate({"ae_title": title, "address": address}) for title, address in entries
    )


def echoscu(listener: Listener, calling: str = "SONO", called: str = "ECHOBEAM") -> str:
    """Give what DCMTK's echoscu says of its echo; nothing if all went well."""
    program = need("echoscu", "dcmtk")
    titles = ("-aet", calling, "-aec", called)
    done = subprocess.run(
        [program, *titles, "127.0.0.1", str(listener.dicom_port)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def request_from(address: str, listener: Listener, calling: str = "SONO") -> Association:
    """Request an association from an address of this machine."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    return ae.associate("127.0.0.1", listener.dicom_port, ae_title="ECHOBEAM", bind_address=(address, 0))


def refused(listener: Listener, reason: str) -> float:
    found = listener.reception.metrics.refused_associations.labels(reason)
    return float(found._value.get())


def test_another_called_title_is_told_so(tmp_path: Path) -> None:
    with listening(tmp_path) as listener:
        assert "Called AE Title Not Recognized" in echoscu(listener, called="ANY-SCP")
        assert "Rejected Permanent" in echoscu(listener, called="echobeam")
        assert echoscu(listener) == ""
        assert refused(listener, "called_ae_title") == 2


def test_a_sender_that_is_not_on_the_list_is_told_so_and_the_log_says_what_to_do(tmp_path: Path) -> None:
    with listening(tmp_path, allow=allowed(("PACS", "127.0.0.1"), ("*", "10.0.0.0/8"))) as listener:
        with capture_logs() as logs:
            assert "Calling AE Title Not Recognized" in echoscu(listener, calling="SONO")
        [line] = [line for line in logs if line["event"] == "association_refused"]
        assert (line["peer"], line["calling_ae_title"]) == ("127.0.0.1", "SONO")
        assert "[[listener.allow]]" in line["advice"]
        assert echoscu(listener, calling="PACS") == ""
        assert refused(listener, "unknown_peer") == 1


def test_the_address_counts_as_well_as_the_title(tmp_path: Path) -> None:
    with listening(tmp_path, allow=allowed(("PACS", OTHER_ADDRESS))) as listener:
        assert "Calling AE Title Not Recognized" in echoscu(listener, calling="PACS")
        assoc = request_from(OTHER_ADDRESS, listener, "PACS")
        assert assoc.is_established
        assoc.release()


def test_one_address_has_its_share_and_another_still_gets_in(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(
            listening(tmp_path, maximum_associations=3, maximum_associations_per_peer=2)
        )
        first, _second = request_from("127.0.0.1", listener), request_from("127.0.0.1", listener)
        said = echoscu(listener)
        assert "Rejected Transient" in said
        assert "Local Limit Exceeded" in said
        assert refused(listener, "peer_limit") == 1
        assert request_from(OTHER_ADDRESS, listener).is_established
        assert request_from("127.0.0.3", listener).is_rejected
        assert refused(listener, "association_limit") == 1
        first.release()
        wait_for("the free slot", lambda: request_from("127.0.0.1", listener).is_established)


def test_strangers_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listening(tmp_path, allow=allowed(("*", OTHER_ADDRESS))))
        connect = partial(socket.create_connection, ("127.0.0.1", listener.dicom_port), DEADLINE_S)
        for _ in range(CONNECTIONS_OF_STRANGERS):
            stack.enter_context(connect())
        one_too_many = stack.enter_context(connect())
        assert one_too_many.recv(1) == b"", "closed at once"
        assert refused(listener, "connection_limit") == 1
        assoc = request_from(OTHER_ADDRESS, listener)
        assert assoc.is_established
        assoc.release()


def test_a_disk_at_its_reserve_refuses_and_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10_000]
    monkeypatch.setattr(capacity.DiskReserve, "free_bytes", lambda _self: free[0])
    with listening(tmp_path, minimum_free_bytes=1000) as listener:
        assoc = associate(listener.dicom_port)
        assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
        free[0] = 999
        assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0xA700
        assert "Local Limit Exceeded" in echoscu(listener)
        assert refused(listener, "disk_reserve") == 1
        free[0] = 1100
        assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0xA700, "not at the edge"
        free[0] = 1250
        assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0
        assert echoscu(listener) == ""
        assoc.release()
        study = listener.reception.ledger.show_study("1.2.3")
        assert (study.instances, study.state) == (2, StudyState.RECEIVING)


def test_a_disk_that_is_really_full_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted))
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted: that needs root and its capabilities")
    try:
        with listening(tmp_path / "root", spool=mounted / "spool", minimum_free_bytes=0) as listener:
            big = make_dataset(instance="1.2.3.1.1")
            big.add_new("PixelData", "OB", bytes(4 * 1024 * 1024))
            assoc = associate(listener.dicom_port)
            assert store(assoc, big) == 0xA700
            assert list((mounted / "spool" / "tmp").iterdir()) == []
            assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0, "a small one still fits"
            assoc.release()
            assert listener.reception.ledger.show_study("1.2.3").instances == 1
            assert len(list(mounted.glob("spool/??/*.dcm"))) == 1
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_reserve_is_met_on_a_real_disk(tmp_path: Path) -> None:
    reserve = capacity.DiskReserve(tmp_path, capacity.free_bytes_of(tmp_path) * 2)
    assert reserve.is_low()
