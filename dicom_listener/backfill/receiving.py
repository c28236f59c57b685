"""Where what a backfill gets is kept: the listener's own spool and ledger, beside a running listener."""

from prometheus_client import CollectorRegistry

from dicom_listener.capacity import DiskReserve
from dicom_listener.errors import SpoolUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.metrics import ListenerMetrics
from dicom_listener.reception import Reception
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool import Spool


def reception_of(settings: ListenerSettings, ledger: Ledger) -> Reception:
    """Make what keeps instances, with the disk's reserve. A running listener may receive into it too.

    The spool is not owned: a listener that starts meanwhile sweeps unfinished files, so that an
    instance under way is refused, and its study is fetched again.

    Raises:
        SpoolUnavailableError: if the spool's folder cannot be made.
    """
    try:
        settings.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolUnavailableError(
            f"The spool {settings.spool} cannot be made ({error.strerror}): give this user the right to"
        ) from error
    return Reception(
        Spool(settings.spool),
        ledger,
        ListenerMetrics(CollectorRegistry()),
        capacity=DiskReserve(settings.spool, settings.minimum_free_bytes),
    )
