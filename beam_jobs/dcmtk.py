"""Finds DCMTK's storescu, where the operator installed it."""

import os
import subprocess
from pathlib import Path


def find_dcmtk_storescu() -> Path | None:
    """Return DCMTK's storescu on PATH; other programs have that name too (GDCM's, pynetdicom's)."""
    for folder in os.get_exec_path():
        candidate = Path(folder) / "storescu"
        if not os.access(candidate, os.X_OK):
            continue
        try:
            said = subprocess.run(  # noqa: S603 - asks a program on PATH for its version
                [candidate, "--version"], capture_output=True, text=True, check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if "dcmtk" in said.stdout.lower():
            return candidate
    return None
