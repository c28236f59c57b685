"""Keep several long-running programs alive as one: start, announce, restart, drain.

The supervisor knows nothing of DICOM or Beam. A service is a command that writes a small file of
its own (`run/<name>.json`, with its process id) once it is ready, removes it when it stops, ends on
SIGTERM after finishing what it holds, and says by its exit code whether trying again makes sense. It
watches its lifeline, and so ends when the supervisor is killed.

Everything that can happen (a child ended, the operator asked to stop) arrives on one queue, so the
loop is in one thread and the signal handler only puts a word on the queue.
"""

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog

from dicom_listener.exit_codes import ExitCode
from dicom_listener.operations.lifeline import Lifeline
from dicom_listener.operations.runfile import read_run_file

READY_POLL_S: Final = 0.1
"""How often the files that say "ready" are looked for while a service starts."""

HOPELESS: Final = frozenset({ExitCode.REFUSED, ExitCode.BUSY})
"""Exit codes after which the same command ends the same way: configuration refused, port in use."""


@dataclass(frozen=True)
class Service:
    """A program to keep alive.

    Attributes:
        name: in log lines, and the stem of the file it writes when ready.
        command: program and arguments.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a crashed service is started again, and when to give up.

    Attributes:
        first_s: wait after the first crash; each further one doubles it.
        most_s: the wait never exceeds this.
        forgiven_after_s: a service that ran this long starts counting from zero again.
        give_up_after: crashes in a row after which the supervisor stops with an error.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    forgiven_after_s: float = 120.0
    give_up_after: int = 8

    def wait_s(self, crashes: int) -> float:
        """Return the wait before the next start, after `crashes` (1 or more) crashes in a row."""
        return float(min(self.most_s, self.first_s * 2 ** (crashes - 1)))


@dataclass(frozen=True)
class _Ended:
    """A child ended: which, and with what code."""

    service: Service
    returncode: int


@dataclass
class _Child:
    """What is known of one service while the supervisor runs."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    ready: dict[str, Any] | None = None
    crashes: int = 0
    restart_at: float | None = None


@dataclass
class Supervisor:
    """Run services until told to stop; restart those that crash.

    Attributes:
        services: what to run, in the order in which they are started.
        run_folder: where each service writes `<name>.json` once it is ready.
        on_ready: called once, when all are ready, with what each wrote, by name.
        environment: the children's environment; the supervisor's own when None.
        drain_s: how long a child may take to finish after SIGTERM before it is killed.
        on_ended: called with the process id of each child that ended, whatever the reason.
    """

    services: Sequence[Service]
    run_folder: Path
    on_ready: Callable[[Mapping[str, dict[str, Any]]], None]
    environment: Mapping[str, str] | None = None
    backoff: Backoff = Backoff()
    drain_s: float = 120.0
    on_ended: Callable[[int], None] = lambda _pid: None
    _lifeline: Lifeline = field(default_factory=Lifeline)
    _events: "queue.SimpleQueue[_Ended | None]" = field(default_factory=queue.SimpleQueue)
    _children: dict[Service, _Child] = field(default_factory=dict)
    _announced: bool = False
    _stopping: bool = False

    def stop(self) -> None:
        """Ask `run` to drain and return; asked again, do not wait for the drain.

        Safe in a signal handler and from any thread.
        """
        if self._stopping:
            for child in self._children.values():
                if child.process is not None:
                    child.process.kill()  # no study is lost: claims return by themselves
        self._stopping = True
        self._events.put(None)  # SimpleQueue.put is reentrant, Queue.put is not

    def run(self) -> int:
        """Start the services and keep them alive until `stop` is called.

        Returns:
            0 after a stop that every child followed with 0; the child's own code if a child ended
            with one that trying again cannot change (`HOPELESS`); 1 if a child kept crashing, had
            to be killed, or ended its drain with an error.
        """
        log = structlog.get_logger(__name__)
        self._children = {service: _Child() for service in self.services}
        try:
            for service in self.services:
                self._start(service)
            outcome = self._watch(log)
        finally:
            drained = self._drain(log)
            self._lifeline.close()
        return outcome or drained

    def ready_services(self) -> list[str]:
        """Name the services that run and are ready. Safe from any thread."""
        return [service.name for service, child in list(self._children.items()) if child.ready is not None]

    def _watch(self, log: Any) -> int:
        """Handle what happens until a stop (returns 0) or a hopeless child (returns its code)."""
        while True:
            try:
                happened = self._events.get(timeout=self._next_look_s())
            except queue.Empty:
                self._restart_due()
                self._look_for_ready()
                continue
            if happened is None:
                return 0
            code = self._after_end(happened, log)
            if code:
                return code

    def _start(self, service: Service) -> None:
        # A group of its own: Ctrl-C on the terminal reaches the supervisor, which drains in order.
        process = subprocess.Popen(  # noqa: S603 - the commands are this package's own verbs
            service.command,
            env={
                **(os.environ if self.environment is None else self.environment),
                **self._lifeline.environment(),
            },
            pass_fds=(self._lifeline.reading_end,),
            process_group=0,
            stdin=subprocess.DEVNULL,
        )
        child = self._children[service]
        child.process, child.started_at, child.ready, child.restart_at = process, monotonic(), None, None

        def wait() -> None:
            self._events.put(_Ended(service, process.wait()))

        threading.Thread(target=wait, name=f"wait-{service.name}", daemon=True).start()

    def _after_end(self, ended: _Ended, log: Any) -> int:
        """Plan the restart of a child that ended; a code other than 0 means: give up."""
        child = self._children[ended.service]
        if child.process is not None:
            self.on_ended(child.process.pid)
        child.process = None
        was_ready, child.ready = child.ready is not None, None
        if ended.returncode in HOPELESS and not was_ready:
            log.error("service_refused_to_start", service=ended.service.name, exit_code=ended.returncode)
            return ended.returncode
        ran_s = monotonic() - child.started_at
        child.crashes = 1 if ran_s >= self.backoff.forgiven_after_s else child.crashes + 1
        if child.crashes >= self.backoff.give_up_after:
            log.error("service_keeps_crashing", service=ended.service.name, crashes=child.crashes)
            return ExitCode.FAILED
        wait_s = self.backoff.wait_s(child.crashes)
        child.restart_at = monotonic() + wait_s
        log.warning(
            "service_ended",
            service=ended.service.name,
            exit_code=ended.returncode,
            ran_s=round(ran_s, 1),
            restart_in_s=wait_s,
        )
        return 0

    def _next_look_s(self) -> float | None:
        """Return how long nothing needs doing unless something happens; None is for ever."""
        if any(child.process is not None and child.ready is None for child in self._children.values()):
            return READY_POLL_S
        due = [child.restart_at for child in self._children.values() if child.restart_at is not None]
        return max(0.0, min(due) - monotonic()) if due else None

    def _restart_due(self) -> None:
        for service, child in self._children.items():
            if child.restart_at is not None and child.restart_at <= monotonic():
                self._start(service)

    def _look_for_ready(self) -> None:
        for service, child in self._children.items():
            if child.process is not None and child.ready is None:
                child.ready = read_run_file(self.run_folder / f"{service.name}.json", pid=child.process.pid)
        if not self._announced and all(child.ready is not None for child in self._children.values()):
            self._announced = True
            self.on_ready({service.name: child.ready or {} for service, child in self._children.items()})

    def _drain(self, log: Any) -> int:
        """Ask every child to finish, wait, kill what does not; 0 if all ended with 0."""
        self._look_for_ready()  # one that became ready since the last look must end with 0
        running = [
            (service, child.process, child.ready is not None)
            for service, child in self._children.items()
            if child.process is not None
        ]
        for _, process, _ in running:
            process.send_signal(signal.SIGTERM)
        deadline = monotonic() + self.drain_s
        failed = False
        for service, process, was_ready in running:
            code = _wait_or_kill(process, deadline)
            # Before it is ready a service has no handler yet, and nothing in hand to finish.
            clean = code == 0 or (code == -signal.SIGTERM and not was_ready)
            if not clean:
                log.error("service_drain_failed", service=service.name, exit_code=code)
            failed = failed or not clean
        return ExitCode.FAILED if failed else 0


def _wait_or_kill(process: "subprocess.Popen[bytes]", deadline: float) -> int:
    """Return the exit code of a child that was asked to end; kill it at the deadline."""
    try:
        return process.wait(timeout=max(0.0, deadline - monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
