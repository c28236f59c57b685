"""Logging for every long-running verb: readable on a terminal, JSON lines otherwise, never a patient.

Logs go to stderr. Three sources would print values from received headers and are cut down to where
they came from: the loggers of pydicom and pynetdicom, Python warnings, and the messages of exceptions
that are not ours.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

OUR_PACKAGES: Final = ("dicom_listener", "beam_jobs", "echo_models")
"""Their errors are written without values of a header, so their messages may be logged."""

WITHHELD_LOGGERS: Final = ("pydicom", "pynetdicom")
"""They print raw values: PatientName in a decoding warning, whole datasets at debug level."""

_FRAMES_SHOWN: Final = 8


def configure_logging(*, quiet: bool = False, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records to stderr, patients' values withheld.

    Args:
        quiet: show warnings and errors only.
        stream: where to write; stderr by default.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        if stream.isatty()
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_withhold)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    for name in WITHHELD_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    for name in WITHHELD_LOGGERS:
        # Python remembers the text of each warning it has shown: values of hostile headers, for ever.
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    threading.excepthook = _log_thread_exception


def describe_error(error: BaseException) -> str:
    """Say what an error is without saying what is in a patient's header.

    Our own messages are free of such values; of any other error only type and place are told.
    """
    kind = type(error)
    if kind.__module__.partition(".")[0] in OUR_PACKAGES:
        return f"{kind.__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {_place(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{kind.__name__}{place}"


def _describe_exception(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace `exc_info` by type, place and the way there; a structlog processor."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        chain = [describe_error(error)]
        while (error := error.__cause__ or error.__context__) is not None:
            chain.append(describe_error(error))
        event["error"] = " ← ".join(chain)
        source = found[1] if isinstance(found, tuple) else found
        frames = traceback.extract_tb(source.__traceback__)[-_FRAMES_SHOWN:]
        event["way"] = [f"{_place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _withhold(record: logging.LogRecord) -> bool:
    if record.name.partition(".")[0] in WITHHELD_LOGGERS:
        record.msg = f"message withheld, from {record.module}.{record.funcName}:{record.lineno}"
        record.args = ()
    elif record.name == "py.warnings":  # "file:line: Category: text", and the text may hold a raw value
        record.msg = ": ".join(record.getMessage().split(": ", 2)[:2])
        record.args = ()
    return True


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        logging.getLogger("threads").error("a thread ended with an error", exc_info=args.exc_value)


def _place(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").split("/")[-2:])
