"""Makes a worker process of an engine die over one file, as a broken decoder does: put it on PYTHONPATH.

Python runs this before anything else. The digest of the file is in the environment.
"""

import hashlib
import os
import signal
from typing import Any

_file_digest = hashlib.file_digest


def digest_or_die(*args: Any) -> Any:
    """Kill this process if the file is the deadly one."""
    digest = _file_digest(*args)
    if digest.hexdigest() == os.environ["ECHOBEAM_DEADLY_SHA256"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return digest


if "ECHOBEAM_DEADLY_SHA256" in os.environ:
    hashlib.file_digest = digest_or_die  # type: ignore[assignment]
