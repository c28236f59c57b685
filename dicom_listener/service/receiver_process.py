"""One of several processes that receive: `python -m dicom_listener.service.receiver_process NAME`.

Started by `dicom_listener.service.processes`, which hands down settings, ports and the folder of metrics.
"""

import os
import signal
import sys
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry

from dicom_listener.exit_codes import exit_codes
from dicom_listener.log import configure_logging
from dicom_listener.operations.lifeline import STOP_SIGNALS, stop_with_supervisor
from dicom_listener.operations.runfile import announced
from dicom_listener.service.housekeeping import Housekeeper
from dicom_listener.service.processes import SETTINGS_VARIABLE
from dicom_listener.service.receiver import Receiver
from dicom_listener.service.tools import Tools
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.writing import Spool

_log = structlog.get_logger("dicom_listener.service.receiver")


def receive(name: str, settings: ListenerSettings) -> None:
    """Receive until SIGTERM, then drain.

    Args:
        name: of this process; it announces itself as `run/NAME.json`.
        settings: with the ports that the parent reserved.

    Raises:
        CertificateError: if TLS cannot work any more.
        PortInUseError: if a port cannot be shared.
        LedgerUnavailableError: if the ledger cannot be opened.
    """
    # Blocked before any thread starts, so that none of them takes a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    stop_with_supervisor()
    with ExitStack() as stack:
        stack.enter_context(Spool(settings.spool).joined())
        tools = stack.enter_context(Tools.opened(settings, CollectorRegistry()))
        chores = tools.receiving_chores()
        stack.enter_context(Housekeeper(chores, settings.housekeeping_s, tools.reception.clock))
        receiver = stack.enter_context(Receiver(tools, shares_ports=True))
        stack.enter_context(announced(settings.root / "run" / f"{name}.json", **receiver.ports()))
        _log.info("receiving", process=name)
        signal.sigwait(STOP_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


if __name__ == "__main__":
    configure_logging(quiet="--quiet" in sys.argv)
    with exit_codes():
        receive(sys.argv[1], ListenerSettings.model_validate_json(os.environ.pop(SETTINGS_VARIABLE)))
