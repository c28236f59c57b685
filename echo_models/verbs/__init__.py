"""The verbs of `echo_models`: one module each, imported when the verb is used; and what they share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import click

from echo_models.errors import ModelsError, NotInRegistryError

Result = TypeVar("Result")

FAILED: Final = 1
NOT_FOUND: Final = 3

root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    envvar="ECHOBEAM_ROOT",
    show_default=True,
    help="The folder with configuration, ledger, spool, results and models.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fail(error: ModelsError) -> NoReturn:
    """Say what went wrong, and leave with the exit code that says so."""
    click.echo(f"Error: {error}", err=True)
    sys.exit(NOT_FOUND if isinstance(error, NotInRegistryError) else FAILED)


def or_fail(action: Callable[[], Result]) -> Result:
    """Do it, or `fail`."""
    try:
        return action()
    except ModelsError as error:
        fail(error)
