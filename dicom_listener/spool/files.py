"""The files of a spool, seen from outside: listed, read, digested, put aside.

They lie in 256 folders named by the first two digits of their digests, so that some folders at a time can
be compared with the ledger in memory, however large the spool is.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from dicom_listener.errors import UnreadableHeaderError
from dicom_listener.ledger import ReceivedInstance, SpooledInstance
from dicom_listener.spool.header import read_identity
from dicom_listener.spool.writing import encode_file_header

FOLDER_GROUPS: Final = tuple(
    tuple(f"{first}{second}" for second in "0123456789abcdef") for first in "0123456789abcdef"
)
"""The folders, a sixteenth of the spool together: few questions to the ledger, and little memory."""

QUARANTINE: Final = "quarantine"
"""Folder of the spool for files that belong to nothing and cannot be made to."""

_NAME: Final = re.compile(r"([0-9a-f]{64})\.dcm")
_CHUNK_BYTES: Final = 1 << 20


def list_folders(root: Path, folders: Iterable[str]) -> dict[str, int]:
    """Give the sizes of the files of some folders, in bytes, by their paths relative to the spool."""
    sizes = {}
    for folder in folders:
        with suppress(FileNotFoundError), os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    sizes[f"{folder}/{entry.name}"] = entry.stat(follow_symlinks=False).st_size
    return sizes


def digest_file(path: Path, *, told: Callable[[int], None] = lambda _size: None) -> str:
    """Digest a file piece by piece.

    Args:
        path: the file.
        told: called with the size of each piece in bytes, for a progress bar.

    Returns:
        Its SHA-256, hexadecimal.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            told(len(piece))
    return digest.hexdigest()


def read_instance(root: Path, path: str) -> ReceivedInstance:
    """Read from a file of the spool what it is, as its sender would have announced it.

    Args:
        root: the spool.
        path: relative to it.

    Raises:
        RefusedInstanceError: if it is not a whole file of this spool: the digest is not that of its
            name, the file header is not ours, or the dataset does not say what it belongs to.
        OSError: if it cannot be read.
    """
    named = _NAME.fullmatch(Path(path).name)
    if named is None or not path.startswith(named[1][:2]):
        raise UnreadableHeaderError("The file does not have a name of this spool")
    if digest_file(root / path) != named[1]:
        raise UnreadableHeaderError("The file's digest is not that of its name: it is cut short or altered")
    with (root / path).open("rb") as file:
        sop_class_uid, sop_instance_uid, transfer_syntax = _read_file_header(file)
        identity = read_identity(file, transfer_syntax)
    if (identity.sop_class_uid, identity.sop_instance_uid) != (sop_class_uid, sop_instance_uid):
        raise UnreadableHeaderError("The file header names another instance than the dataset")
    return ReceivedInstance(
        study_instance_uid=identity.study_instance_uid,
        patient_id=identity.patient_id,
        spooled=SpooledInstance(
            sop_instance_uid=identity.sop_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=str(transfer_syntax),
            path=path,
            sha256=named[1],
            size_bytes=(root / path).stat().st_size,
        ),
    )


def put_aside(root: Path, path: str) -> None:
    """Move a file into the quarantine, durably.

    Raises:
        OSError: if it cannot be moved.
    """
    quarantine = root / QUARANTINE
    quarantine.mkdir(mode=0o700, exist_ok=True)
    (root / path).replace(quarantine / Path(path).name)
    for folder in (quarantine, (root / path).parent, root):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def count_quarantined(root: Path) -> int:
    """Count the files that were put aside."""
    try:
        return sum(1 for _ in (root / QUARANTINE).iterdir())
    except FileNotFoundError:
        return 0


def _read_file_header(file: BinaryIO) -> tuple[str, str, UID]:
    """Read a file header (PS3.10 section 7.1) and leave the file at its end.

    Raises:
        RefusedInstanceError: if it is not one that this spool writes.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # they hold values
            meta = read_file_meta_info(file.name)
            uids = (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID)
            header = encode_file_header(*(str(uid) for uid in uids))
    except Exception as error:  # a parser that is fed with anything may raise anything
        raise UnreadableHeaderError("The file has no DICOM file header") from error
    if file.read(len(header)) != header:
        raise UnreadableHeaderError("The file header is not one that this listener writes")
    sop_class_uid, sop_instance_uid, transfer_syntax = uids
    return str(sop_class_uid), str(sop_instance_uid), transfer_syntax
