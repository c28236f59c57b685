"""Where what a backfill gets is kept: the listener's own spool and ledger, beside a running listener."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from dicom_listener.errors import SpoolUnavailableError
from dicom_listener.reception.incoming import Reception
from dicom_listener.service.tools import Tools
from dicom_listener.settings import ListenerSettings


@contextmanager
def receiving_beside(settings: ListenerSettings) -> Iterator[Reception]:
    """Open spool and ledger for the block, as the listener does; one may be running or not.

    The spool is not owned: a listener that starts meanwhile sweeps unfinished files, so that an
    instance under way is refused, and its study is fetched again.

    Raises:
        SpoolUnavailableError: if the spool's folder cannot be made.
        LedgerUnavailableError: if the ledger cannot be opened.
    """
    try:
        settings.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolUnavailableError(
            f"The spool {settings.spool} cannot be made ({error.strerror}): give this user the right to"
        ) from error
    with Tools.opened(settings, CollectorRegistry()) as tools:
        yield tools.reception
