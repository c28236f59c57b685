"""Keep Beam from printing: it logs the messages of exceptions, and those may quote a header.

What failed is told by the exception itself, whose message is not logged either: see
`dicom_listener.log.describe_error`. An engine, though, gets the whole text of what a step raised, and
logs it: so a step that reads patients' headers raises `StepError` instead, which says type and place.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import structlog

from beam_jobs.errors import StepError
from dicom_listener.log import configure_logging, describe_error

_Fn = TypeVar("_Fn", bound=type[Any])  # a DoFn; whoever starts without Beam imports this, too


def quiet_beam() -> None:
    """Silence Beam's loggers, and what Beam's modules say through the root logger, for good."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    if _is_not_from_beam not in root.filters:
        root.addFilter(_is_not_from_beam)


def settle_process() -> None:
    """Make a worker process of an engine log like ours: to stderr, without patients' values.

    Beam starts such processes, and nobody reads their stdout: a line printed there for each study would
    stop them once the pipe is full.
    """
    if not structlog.is_configured():
        configure_logging()
        quiet_beam()


def telling_no_values(fn: _Fn) -> _Fn:
    """Make a DoFn raise type and place of what went wrong, not its message."""
    for name in ("process", "finish_bundle"):
        if name in vars(fn):
            setattr(fn, name, _telling_no_values(getattr(fn, name)))
    return fn


def _telling_no_values(gives: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(gives)
    def guarded(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from gives(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it was, its message may quote a header
            raise StepError(describe_error(error)) from None

    return guarded


def _is_not_from_beam(record: logging.LogRecord) -> bool:
    return "apache_beam" not in Path(record.pathname).parts
