"""Where a result comes from: the code that decides it, the commit, and the machine."""

import ast
import hashlib
import importlib.metadata
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[1]


@cache
def code_of(module: str) -> str:
    """Name the code that decides what an experiment comes to.

    That is its module with all of this package that it imports, directly or not. A change elsewhere leaves
    the name, and with it the results that are kept under it, as they are. Read once a process, so that a
    change while an experiment runs is not mixed into it.

    Args:
        module: of the experiment, as `__name__` has it.
    """
    digest = hashlib.sha256()
    for path in sorted(_reached(module)):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return f"echobeam {importlib.metadata.version('echobeam')} ({digest.hexdigest()[:12]})"


def _reached(module: str) -> set[Path]:
    """Find the files of a module and of what it imports from this package, imports in functions too."""
    reached: set[Path] = set()
    waiting = [module]
    while waiting:
        path = _file_of(waiting.pop())
        if path is not None and path not in reached:
            reached.add(path)
            waiting += _imports(path)
    return reached


def _file_of(module: str) -> Path | None:
    """Give a module's file, None if it is none of this package's."""
    first, *names = module.split(".")
    if first != _PACKAGE.name or not names:
        return None
    below = _PACKAGE.joinpath(*names)
    return next((path for path in (below.with_suffix(".py"), below / "__init__.py") if path.exists()), None)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def commit() -> str:
    """Name the commit this package is run from, "" where it is not run from a checkout."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - wherever git is
        cwd=_PACKAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


@cache
def machine() -> str:
    """Say in words what this runs on: cores and memory."""
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{cores} cores, {gib:.0f} GiB"
