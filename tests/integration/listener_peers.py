"""What the listener's tests do as its peers, and how they run it as a program."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import UltrasoundMultiFrameImageStorage, Verification

from tests.programs import DEADLINE_S, wait_for

ECHOBEAM = (sys.executable, "-c", "from beam_jobs.command import main; main()")


def associate(
    port: int,
    sop_class: str = UltrasoundMultiFrameImageStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Association:
    """Open an association for one storage class and for verification."""
    ae = AE(ae_title="TESTER")
    ae.add_requested_context(UID(sop_class), UID(transfer_syntax))
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    assert assoc.is_established
    return assoc


def store(assoc: Association, ds: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> int:
    """Send one instance and give the status of the answer."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return int(assoc.send_c_store(ds).Status)


def is_refused(port: int) -> bool:
    """Say whether nobody listens on the port any more."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except ConnectionError:
        return True
    return False


@contextmanager
def process(*command: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a program for the block and kill it if it is still there."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def listening(root: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, int], Path]]:
    """Run `echobeam listen` on free ports for the block; give it, what it announces, and its log."""
    log = root.parent / "log"
    announcement = root / "run" / "listener.json"
    with log.open("wb") as stderr:
        command = (*ECHOBEAM, "listen", "--root", str(root), "--port", "0", "--http-port", "0", *options)
        with process(*command, stderr=stderr) as running:
            wait_for("the listener", announcement.exists)
            yield running, json.loads(announcement.read_text()), log
