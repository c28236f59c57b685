"""Prism, Beam's own portable engine, and pools of worker processes for it, as real programs.

Prism is built by Go: `go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0`. It is looked for on
PATH.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pytest

from tests.programs import DEADLINE_S, wait_for

MODULE: Final = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
_POOL: Final = "apache_beam.runners.worker.worker_pool_main"


def find_prism() -> str | None:
    """Give the path of Prism; None where there is none."""
    return shutil.which("prism")


@pytest.fixture(scope="session")
def prism_program() -> str:
    """Give the path of Prism; skip the test where there is none."""
    found = find_prism()
    if found is None:
        pytest.skip(f"Prism is not installed (go install {MODULE})")
    return found


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs.

    Attributes:
        endpoint: where it is reached.
    """

    endpoint: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Give the port of its endpoint."""
        return int(self.endpoint.rpartition(":")[2])

    def kill(self) -> None:
        """Kill it at once, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def children(self) -> list[int]:
        """List the process ids of the programs that it started."""
        return children_of(self.process.pid)


def children_of(pid: int) -> list[int]:
    """List the children of a process, whichever of its threads started them."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, children.read_text(encoding="ascii").split())
    return found


def start_prism(program: str, *, port: int = 0, log: Path) -> Program:
    """Start Prism on a port, 0 for a free one; it answers once this returns."""
    process = _start([program, f"--job_port={port}", "--serve_http=false", "--log_kind=text"], log)
    said = _wait_for_line(process, log, r"Serving JobManagement.*endpoint=localhost:(\d+)")
    return Program(f"localhost:{said}", process)


def start_pool(
    folder: Path,
    *,
    port: int = 0,
    log: Path,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Program:
    """Start a pool of worker processes.

    Args:
        folder: its working folder.
        port: where it waits for orders; 0 for a free one.
        log: takes what it and its processes say.
        environment: of it and its processes.
        within: a command before it, such as one that enters a network namespace.
        options: of Beam's pool.
    """
    # Without -P the checkout would be on the path of whoever works in it: another host has it installed.
    command = [*within, sys.executable, "-P", "-m", _POOL, f"--service_port={port}", *options]
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = _start(
        command, log, folder=folder, environment={**(environment or os.environ), "PATH": programs}
    )
    said = _wait_for_line(process, log, r"Started worker pool servicer at port: localhost:(\d+)")
    return Program(f"localhost:{said}", process)


@contextmanager
def running(*programs: Program) -> Iterator[None]:
    """Kill programs, and what they started, when the block ends."""
    try:
        yield
    finally:
        for program in programs:
            end(program)


def end(program: Program) -> None:
    """Kill a program and what it started."""
    children = program.children()
    program.kill()
    for pid in children:
        kill(pid)


def kill(pid: int) -> None:
    """Kill a process, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _start(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    with log.open("w", encoding="utf-8") as file:
        said: IO[str] = file
        return subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=environment, text=True)


def _wait_for_line(process: "subprocess.Popen[str]", log: Path, pattern: str) -> str:

    def look() -> str | None:
        found = re.search(pattern, log.read_text(encoding="utf-8"))
        if found is None and process.poll() is not None:
            pytest.fail(f"the program ended without saying {pattern!r}:\n{log.read_text(encoding='utf-8')}")
        return found[1] if found else None

    return wait_for(f"what matches {pattern!r}", look)
