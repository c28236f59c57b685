"""Every verb can be read about, takes the root, and costs nothing until it is used."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from beam_jobs.command import VERBS, main

HERE = Path(__file__).parents[2]
HEAVY = (
    "PIL", "apache_beam", "duckdb", "h5py", "keras", "numpy", "prometheus_client", "pyarrow", "pydantic",
    "pydicom", "pynetdicom", "rich", "scipy", "simplejpeg", "sqlalchemy", "structlog", "tensorflow",
)  # fmt: skip


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}")
    else:
        yield path, command


COMMANDS = dict(commands(main, "echobeam"))


@pytest.mark.parametrize("path", COMMANDS)
def test_a_verb_ends_its_help_with_an_example_of_itself(path: str) -> None:
    command = COMMANDS[path]
    text = command.get_help(click.Context(command, info_name=path, terminal_width=100))
    assert re.search(rf"Examples?:\n +(\w+=\S+ )?{re.escape(path)}\b", text), text


@pytest.mark.parametrize("path", COMMANDS)
def test_a_verb_takes_the_root(path: str) -> None:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert "--root" in options


@pytest.mark.parametrize("path", COMMANDS)
def test_a_verb_says_what_every_option_does(path: str) -> None:
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level modules that a run of the command has imported when it ends."""
    program = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})),"
        " file=sys.stderr))\n"
        f"from beam_jobs.command import main\nmain({list(arguments)!r}, prog_name='echobeam')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_help_of_the_command_imports_nothing_heavy() -> None:
    assert imported_by("--help") & set(HEAVY) == set()


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_imports_no_numerical_library(verb: str) -> None:
    heavy = {"apache_beam", "duckdb", "keras", "pyarrow", "scipy", "tensorflow"}
    assert imported_by(verb, "--help") & heavy == set()
