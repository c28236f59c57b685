"""A pipe between a supervisor and its children, so that they end when it is killed.

The supervisor alone holds the writing end and never writes. Whatever ends it closes the pipe; a child
that reads the end of it asks itself to stop as SIGTERM would, and finishes what it holds.
"""

import os
import signal
import threading
from typing import Final

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""What asks a process to stop."""

VARIABLE: Final = "ECHOBEAM_LIFELINE"
"""Environment variable that tells a child which file descriptor to watch."""


class Lifeline:
    """The supervisor's side. Keep it as long as the children are to run."""

    def __init__(self) -> None:
        self.reading_end, self._writing_end = os.pipe()  # neither is inherited unless passed on

    def environment(self) -> dict[str, str]:
        """Give the environment variables of a child; pass it `reading_end` as an open descriptor."""
        return {VARIABLE: str(self.reading_end)}

    def close(self) -> None:
        """Let go: children that still run are asked to stop."""
        os.close(self._writing_end)
        os.close(self.reading_end)


def stop_with_supervisor() -> None:
    """Send this process SIGTERM when its supervisor is gone; without a supervisor, do nothing.

    Call it once signals are handled or blocked as this process wants them.
    """
    descriptor = os.environ.pop(VARIABLE, None)  # it is not for children of ours
    if descriptor is None:
        return

    def watch() -> None:
        # Python runs handlers in the main thread; a process that waits for signals has blocked them there
        # and must not have them delivered here.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        while os.read(int(descriptor), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
