"""A child ends when its supervisor is gone, however that came about."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from dicom_listener.operations.lifeline import VARIABLE, Lifeline, stop_with_supervisor
from tests.programs import DEADLINE_S

CHILD = """
import signal
from dicom_listener.operations.lifeline import stop_with_supervisor
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
stop_with_supervisor()
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("drained", flush=True)
"""
# A supervisor that starts the child and waits to be killed.
SUPERVISOR = f"""
import os, subprocess, sys
from dicom_listener.operations.lifeline import Lifeline
lifeline = Lifeline()
child = subprocess.Popen(
    [sys.executable, "-c", {CHILD!r}],
    env=os.environ | lifeline.environment(),
    pass_fds=(lifeline.reading_end,),
    process_group=0,
)
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_is_asked_to_stop_when_the_lifeline_ends() -> None:
    lifeline = Lifeline()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=os.environ | lifeline.environment(),
        pass_fds=(lifeline.reading_end,),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        lifeline.close()
        assert child.stdout.readline() == "drained\n"
        assert child.wait(DEADLINE_S) == 0


def test_a_child_of_a_killed_supervisor_stops_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        said = {supervisor.stdout.readline(), supervisor.stdout.readline()}
        child = int((said - {"ready\n"}).pop())
        try:
            supervisor.send_signal(signal.SIGKILL)
            assert supervisor.stdout.readline() == "drained\n"
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_without_a_supervisor_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    stop_with_supervisor()


def test_a_child_does_not_pass_the_lifeline_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lifeline = Lifeline()
    monkeypatch.setenv(VARIABLE, str(os.dup(lifeline.reading_end)))
    stop_with_supervisor()
    assert VARIABLE not in os.environ
