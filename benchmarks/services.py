"""Run `echobeam listen` and `echobeam work` beside a benchmark, as they are installed."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

ECHOBEAM: Final = (sys.executable, "-m", "beam_jobs")
ENVIRONMENT: Final = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
DEADLINE_S: Final = 900.0

_ON_CORE: Final = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@contextmanager
def service(verb: str, root: Path, *options: str, core: int | None = None, name: str = "") -> Iterator[None]:
    """Run a verb for the block; what it says is in `<root>/<name>.log`.

    Args:
        verb: "listen" or "work".
        root: its folder.
        options: of the verb.
        core: the only one it may use; None for any.
        name: of its log, if another than the verb.
    """
    command = [*ECHOBEAM, verb, "--root", str(root), "--http-port", "0", "--quiet", *options]
    if core is not None:
        command = [sys.executable, "-c", _ON_CORE, str(core), *command[1:]]
    with (root / f"{name or verb}.log").open("w") as log:
        started = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)  # noqa: S603 - our own
    try:
        yield
    finally:
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(60)
        started.kill()
        started.wait()


def announced(root: Path, service_name: str) -> dict[str, Any]:
    """Give what a service says of itself once it is ready.

    Args:
        root: its folder.
        service_name: "listener" or "worker".

    Raises:
        RuntimeError: if it does not.
    """
    path = root / "run" / f"{service_name}.json"
    wait_until(path.exists, f"the {service_name}", logs=root)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def wait_until(happened: Callable[[], bool], what: str, *, logs: Path, look_s: float = 0.02) -> None:
    """Look again and again.

    Raises:
        RuntimeError: if it has not happened by the deadline; with the last lines of the logs.
    """
    pause, until = threading.Event(), time.monotonic() + DEADLINE_S
    while not happened():
        if time.monotonic() > until:
            said = "\n".join(_last_lines(path) for path in sorted(logs.glob("*.log")))
            raise RuntimeError(f"waited {DEADLINE_S:.0f} s in vain for {what}\n{said}")
        pause.wait(look_s)


def write_configuration(root: Path, sections: dict[str, Sequence[str]]) -> None:
    """Write `echobeam.toml` of lines by section."""
    lines = [line for name, settings in sections.items() for line in (f"[{name}]", *settings)]
    (root / "echobeam.toml").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _last_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    return "\n".join([f"--- {path.name}", *lines])
