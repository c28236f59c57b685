"""Run real programs beside a test, and wait for what they do with a deadline."""

import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import IO, Any, TypeVar
from urllib.request import urlopen

import pytest

DEADLINE_S = 120.0
_POLL_S = 0.05
_Answer = TypeVar("_Answer")


def need(program: str, package: str) -> str:
    """Give the path of a program, or skip the test that needs it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    return found


@contextmanager
def running(
    *command: str, says: str, environment: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
) -> Iterator[re.Match[str]]:
    """Run a program for the block, once it has said on stderr what matches; end it by SIGTERM."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        assert process.stderr is not None
        threading.Thread(target=_read_lines, args=(process.stderr, lines), daemon=True).start()
        try:
            yield _first_match(lines, re.compile(says), monotonic() + deadline_s)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@contextmanager
def running_pushgateway() -> Iterator[str]:
    """Run a Pushgateway that keeps nothing on disk (Debian's does by default); give its URL."""
    program = need("prometheus-pushgateway", "prometheus-pushgateway")
    options = ("--web.listen-address=127.0.0.1:0", "--persistence.file=")
    with running(program, *options, says=r"address=(127\.0\.0\.1:[1-9]\d*)") as match:
        yield f"http://{match[1]}"


def _read_lines(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _first_match(lines: "queue.Queue[str | None]", wanted: re.Pattern[str], deadline: float) -> re.Match[str]:
    said: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(deadline - monotonic(), 0))
        except queue.Empty:
            pytest.fail(f"{wanted.pattern!r} was not said in time, but:\n" + "".join(said))
        if line is None:
            pytest.fail(f"the program ended without saying {wanted.pattern!r}, but:\n" + "".join(said))
        match = wanted.search(line)
        if match:
            return match
        said.append(line)


def wait_for(what: str, look: Callable[[], _Answer | None], *, deadline_s: float = DEADLINE_S) -> _Answer:
    """Look again and again until there is an answer; fail at the deadline."""
    deadline = monotonic() + deadline_s
    pause = threading.Event()
    while monotonic() < deadline:
        answer = look()
        if answer:
            return answer
        pause.wait(_POLL_S)
    pytest.fail(f"{what} did not come within {deadline_s:.0f} s")


def get_json(url: str) -> Any:
    with urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - a server that this test started
        return json.load(answer)
