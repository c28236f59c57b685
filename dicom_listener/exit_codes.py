"""With which code a verb ends. Each error says its own; docs/reference/exit-codes.md says what they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a script or a service manager may do next."""

    FAILED = 1
    """It ran, and failed or found a problem: look."""
    REFUSED = 2
    """It was not started, because of usage, configuration or what is not installed: correct it."""
    NOT_FOUND = 3
    """What was named is not there."""
    BUSY = 4
    """Something else holds it: try again later."""


class VerbError(Exception):
    """An error that ends a verb: its message is for people, and its code for scripts.

    Attributes:
        exit_code: of the verb. A subclass that says none has that of its base.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the verb with the code of its error, and the error's message on stderr.

    Raises:
        SystemExit: in place of a `VerbError`.
    """
    import click  # noqa: PLC0415 - errors are for those, too, who have no command line

    try:
        yield
    except VerbError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
