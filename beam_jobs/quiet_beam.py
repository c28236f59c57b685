"""Keep Beam from printing: it logs the messages of exceptions, and those may quote a header.

What failed is told by the exception itself, whose message is not logged either: see
`dicom_listener.log.describe_error`.
"""

import logging
from pathlib import Path


def quiet_beam() -> None:
    """Silence Beam's loggers, and what Beam's modules say through the root logger, for good."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    if _is_not_from_beam not in root.filters:
        root.addFilter(_is_not_from_beam)


def _is_not_from_beam(record: logging.LogRecord) -> bool:
    return "apache_beam" not in Path(record.pathname).parts
