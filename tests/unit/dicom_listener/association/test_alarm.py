import socket
import threading

import pytest

from dicom_listener.association.alarm import Alarm, TellingQueue
from tests.programs import DEADLINE_S


def test_a_ring_ends_a_wait_without_a_socket() -> None:
    alarm = Alarm()
    threading.Thread(target=alarm.ring).start()
    alarm.wait(None, DEADLINE_S)
    alarm.close()


def test_what_there_is_to_read_ends_a_wait_whichever_socket_it_is() -> None:
    alarm = Alarm()
    for _ in range(2):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"x")
            alarm.wait(ours, DEADLINE_S)
            assert ours.recv(1) == b"x"
            alarm.wait(None, 0)  # before the socket closes
    alarm.close()


def test_a_closed_socket_is_told() -> None:
    alarm = Alarm()
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    with pytest.raises(ValueError, match="file descriptor"):
        alarm.wait(ours, 0)
    alarm.close()


def test_ringing_a_closed_alarm_does_no_harm() -> None:
    alarm = Alarm()
    alarm.close()
    alarm.close()
    alarm.ring()


def test_a_full_pipe_is_a_ring_as_well() -> None:
    alarm = Alarm()
    for _ in range(100_000):
        alarm.ring()
    alarm.wait(None, DEADLINE_S)
    alarm.close()


def test_who_waits_need_not_ring_for_itself() -> None:
    alarm = Alarm()
    alarm.belongs_to_this_thread()
    alarm.ring()
    alarm.wait(None, 0)
    alarm.close()


def test_a_queue_tells_of_each_entry() -> None:
    told: list[None] = []
    queue = TellingQueue(lambda: told.append(None))
    queue.put(1)
    queue.put(2)
    assert (len(told), queue.get(), queue.get()) == (2, 1, 2)
