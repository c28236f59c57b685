"""Who is admitted, what the others are told, and that each refusal is counted and explained."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dicom_listener.association.admission import (
    CONNECTIONS_OF_STRANGERS,
    SPARE_CONNECTIONS,
    Admission,
    AllowList,
    parse_address,
)
from dicom_listener.association.slots import Slots
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.reception.statuses import REJECTIONS, AssociationRefusal
from dicom_listener.settings import AllowedPeer, ListenerSettings

PERMANENT_CALLED_AE_TITLE = (1, 1, 7)  # PS3.8 Table 9-21
PERMANENT_CALLING_AE_TITLE = (1, 1, 3)
TRANSIENT_LOCAL_LIMIT = (2, 3, 2)
TRANSIENT_NO_REASON = (2, 1, 1)


class FakeAcse:
    def __init__(self) -> None:
        self.rejected: list[tuple[int, ...]] = []

    def send_reject(self, *codes: int) -> None:
        self.rejected.append(codes)


class FakeAssociation:
    """What admission looks at of an association; hashable by identity, as the real one is."""

    def __init__(self, address: str, calling: str, called: str) -> None:
        primitive = SimpleNamespace(calling_ae_title=calling, called_ae_title=called)
        self.requestor = SimpleNamespace(address=address, primitive=primitive)
        self.acse = FakeAcse()
        self.is_killed = False
        self.has_thread = True

    def kill(self) -> None:
        self.is_killed = True

    def is_alive(self) -> bool:
        return self.has_thread


class FakeRoom:
    def __init__(self) -> None:
        self.low = False

    def is_low(self) -> bool:
        return self.low


class Door:
    """An admission with what it works with."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.room = FakeRoom()
        self.slots = Slots(folder / "slots")
        self.admission = Admission(
            ListenerSettings(root=folder, **settings),
            ListenerMetrics(self.registry),
            self.room,
            self.slots,
        )

    def request(
        self, address: str = "127.0.0.1", calling: str = "SONO", called: str = "ECHOBEAM"
    ) -> FakeAssociation:
        assoc = FakeAssociation(address, calling, called)
        self.admission.on_requested(SimpleNamespace(assoc=assoc))
        assert assoc.is_killed == bool(assoc.acse.rejected)
        return assoc

    def over(self, assoc: FakeAssociation) -> None:
        self.admission.on_over(SimpleNamespace(assoc=assoc))

    def refused(self, reason: AssociationRefusal) -> float | None:
        labels = {"reason": reason.value}
        return self.registry.get_sample_value("echobeam_listener_refused_associations_total", labels)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path, maximum_associations=3, maximum_associations_per_peer=2)


def peers(*entries: tuple[str, str]) -> tuple[AllowedPeer, ...]:
    return tuple(
        AllowedPeer.model_validate({"ae_title": title, "address": address}) for title, address in entries
    )


# ---------------------------------------------------------------------- the list


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_without_a_list_the_senders_of_this_machine_are_accepted(address: str) -> None:
    assert AllowList(()).has("ANY", address)


@pytest.mark.parametrize("address", ["10.0.0.7", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.7"])
def test_without_a_list_nobody_else_is(address: str) -> None:
    assert not AllowList(()).has("ANY", address)
    assert not AllowList(()).has_address(address)


def test_a_sender_is_its_title_and_its_address() -> None:
    allow = AllowList(peers(("PACS", "10.0.0.7"), ("*", "192.0.2.0/24"), ("SONO", "2001:db8::/32")))
    assert allow.has("PACS", "10.0.0.7")
    assert allow.has("PACS", "::ffff:10.0.0.7")
    assert allow.has("WHOEVER", "192.0.2.200")
    assert allow.has("SONO", "2001:db8::7")
    assert not allow.has("PACS", "10.0.0.8")
    assert not allow.has("pacs", "10.0.0.7")
    assert not allow.has("*", "10.0.0.7")
    assert allow.has_address("10.0.0.7")
    assert not allow.has_address("10.0.0.8")


def test_with_a_list_this_machine_is_no_exception() -> None:
    assert not AllowList(peers(("PACS", "10.0.0.7"))).has("PACS", "127.0.0.1")


def test_open_mode_accepts_anyone() -> None:
    assert AllowList((), anyone=True).has("WHOEVER", "203.0.113.5")


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_address("here")


# ---------------------------------------------------------------------- requests


def test_a_known_sender_that_calls_us_is_admitted(door: Door) -> None:
    assert door.request(calling="SONO     ", called="ECHOBEAM  ").acse.rejected == []


def test_another_called_title_is_rejected_for_good(door: Door) -> None:
    assert door.request(called="ANY-SCP").acse.rejected == [PERMANENT_CALLED_AE_TITLE]
    assert door.refused(AssociationRefusal.CALLED_AE_TITLE) == 1


def test_an_unknown_sender_is_rejected_for_good_with_advice_in_the_log(door: Door) -> None:
    with capture_logs() as logs:
        assert door.request("10.0.0.7", "PACS").acse.rejected == [PERMANENT_CALLING_AE_TITLE]
    assert door.refused(AssociationRefusal.UNKNOWN_PEER) == 1
    [line] = logs
    assert (line["peer"], line["calling_ae_title"], line["reason"]) == ("10.0.0.7", "PACS", "unknown_peer")
    assert "[[listener.allow]]" in line["advice"]


def test_who_tries_again_and_again_is_counted_each_time_and_told_of_once_a_minute(door: Door) -> None:
    with capture_logs() as logs:
        for _ in range(5):
            door.request("10.0.0.7", "PACS")
        door.request("10.0.0.8", "PACS")
    assert door.refused(AssociationRefusal.UNKNOWN_PEER) == 6
    assert [(line["peer"], line["times"]) for line in logs] == [("10.0.0.7", 1), ("10.0.0.8", 1)]


def test_a_full_disk_rejects_until_there_is_room(door: Door) -> None:
    door.room.low = True
    assert door.request().acse.rejected == [TRANSIENT_LOCAL_LIMIT]
    assert door.refused(AssociationRefusal.DISK_RESERVE) == 1
    door.room.low = False
    assert door.request().acse.rejected == []


def test_one_address_has_so_many_associations(door: Door) -> None:
    first, _ = door.request("127.0.0.1"), door.request("127.0.0.1")
    assert door.request("127.0.0.1").acse.rejected == [TRANSIENT_LOCAL_LIMIT]
    assert door.refused(AssociationRefusal.PEER_LIMIT) == 1
    door.over(first)
    door.over(first)  # released, then closed
    assert door.request("127.0.0.1").acse.rejected == []


def test_all_together_have_so_many_and_a_rejected_one_takes_no_slot(door: Door) -> None:
    first = door.request("127.0.0.1")
    door.request("127.0.0.2")
    door.request("127.0.0.3")
    for _ in range(3):
        assert door.request("127.0.0.4").acse.rejected == [TRANSIENT_LOCAL_LIMIT]
    assert door.refused(AssociationRefusal.ASSOCIATION_LIMIT) == 3
    door.over(first)
    assert door.request("127.0.0.4").acse.rejected == []


def test_limits_count_the_associations_of_every_process(door: Door, tmp_path: Path) -> None:
    # another admission on the same slots is what another process is: the locks are of open files
    other = Door(tmp_path, maximum_associations=3, maximum_associations_per_peer=2)
    door.request()
    other.request()
    assert door.request().acse.rejected == [TRANSIENT_LOCAL_LIMIT]


def test_an_association_that_broke_off_unnoticed_holds_no_slot(door: Door) -> None:
    door.request().has_thread = False
    door.request().has_thread = False
    assert door.request().acse.rejected == []


def test_what_goes_wrong_in_here_never_admits_anyone(door: Door, tmp_path: Path) -> None:
    (tmp_path / "slots").rmdir()
    assert door.request().acse.rejected == [TRANSIENT_NO_REASON]
    assert door.refused(AssociationRefusal.INTERNAL_ERROR) == 1


# ---------------------------------------------------------------------- connections


def test_a_known_address_has_a_few_more_connections_than_associations(door: Door) -> None:
    most = 2 + SPARE_CONNECTIONS
    assert [door.admission.connected("127.0.0.1") for _ in range(most)] == [None] * most
    assert door.admission.connected("127.0.0.1") == "connection_limit"
    assert door.refused(AssociationRefusal.CONNECTION_LIMIT) == 1
    assert door.admission.connected("127.0.0.2") is None
    door.admission.disconnected("127.0.0.1")
    assert door.admission.connected("127.0.0.1") is None


def test_strangers_share_a_few_connections_and_cannot_take_those_of_others(door: Door) -> None:
    strangers = [f"10.0.0.{number}" for number in range(CONNECTIONS_OF_STRANGERS)]
    assert [door.admission.connected(stranger) for stranger in strangers] == [None] * len(strangers)
    with capture_logs() as logs:
        assert door.admission.connected("10.0.1.1") == "connection_limit"
    assert "close the port" in logs[0]["advice"]
    assert door.admission.connected("127.0.0.1") is None
    door.admission.disconnected(strangers[0])
    assert door.admission.connected("10.0.1.1") is None


def test_every_refusal_of_a_request_has_codes_of_the_standard() -> None:
    assert set(AssociationRefusal) - REJECTIONS.keys() == {AssociationRefusal.CONNECTION_LIMIT}
    permitted = {1: {1, 2, 3, 7}, 2: {1, 2}, 3: {1, 2}}  # PS3.8 Table 9-21: reasons, by source
    for result, source, reason in REJECTIONS.values():
        assert result in {1, 2}
        assert reason in permitted[source]
