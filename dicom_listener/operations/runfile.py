"""The file that says a service is ready and where it listens: `run/<service>.json`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def announced(path: Path, **ports: int) -> Iterator[None]:
    """Write the file, atomically, and remove it when the block ends.

    After a crash the file stays; whoever reads it asks the process or the port whether it lives.

    Args:
        path: where to write.
        ports: what to say besides the process's id, such as `http_port`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"pid": os.getpid(), **ports}) + "\n", encoding="utf-8")
    unfinished.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_run_file(path: Path, *, pid: int | None = None) -> dict[str, Any] | None:
    """Read what a service wrote when it became ready.

    Args:
        path: the file, as JSON.
        pid: refuse a file that another process left behind.

    Returns:
        The file's content; None while there is none, it is not complete, or it is not `pid`'s.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or (pid is not None and content.get("pid") != pid):
        return None
    return content
