"""The spool: received instances on disk, byte for byte as they were sent.

A file is a DICOM file (PS3.10 section 7) made of a header that depends on nothing but the instance's
UIDs and transfer syntax, and of the encoded dataset as it came over the wire. So the same instance
sent twice is the same file, and the digest of the file names it: no UID shows in a path.
"""

import fcntl
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from dicom_listener.errors import SpoolLockedError, SpoolUnavailableError

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.5371787396893924053610232137222543159")
IMPLEMENTATION_VERSION_NAME: Final = "ECHOBEAM"
"""Without a version number, or an upgrade would make every instance that is sent again look changed."""

_PREAMBLE: Final = bytes(128) + b"DICM"


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file that is safely on disk.

    Attributes:
        path: relative to the spool.
        sha256: hexadecimal digest of the whole file.
        size_bytes: size of the whole file.
        is_new: False if a file of this content was there before.
    """

    path: str
    sha256: str
    size_bytes: int
    is_new: bool


class Spool:
    """A folder of received instances. Any thread may keep into it; readers need only its root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unfinished = root / "tmp"
        self._durable_folders: set[Path] = set()
        self._folders_lock = threading.Lock()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Own the spool for the block: create it, keep other listeners out, sweep what a crash left.

        Raises:
            SpoolLockedError: if another process receives into this spool.
            SpoolUnavailableError: if the folder cannot be made.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_folder(self._unfinished)
            lock = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SpoolUnavailableError(
                f"The spool {self.root} cannot be made ({error.strerror}): give the listener's user the "
                "right to write there, or set another folder"
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SpoolLockedError(
                    f"Another listener receives into {self.root}: stop it, or give this one its own root"
                ) from error
            self.sweep()
            yield
        finally:
            os.close(lock)

    def sweep(self) -> int:
        """Delete unfinished files; only the owner may, before it receives.

        Returns:
            How many were deleted.
        """
        leftovers = list(self._unfinished.iterdir())
        for leftover in leftovers:
            leftover.unlink()
        return len(leftovers)

    def keep(
        self,
        dataset: bytes | memoryview,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> SpooledFile:
        """Put an instance on disk and return once it would outlive a power cut.

        Args:
            dataset: the encoded dataset as it was sent, without a file header.
            sop_class_uid: a valid UID.
            sop_instance_uid: a valid UID.
            transfer_syntax_uid: what the dataset is encoded in.

        Raises:
            SpoolUnavailableError: if it cannot be written (disk full, folder gone, no permission).
        """
        header = encode_file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        digest = hashlib.sha256(header)
        digest.update(dataset)
        sha256 = digest.hexdigest()
        folder = self.root / sha256[:2]
        path = folder / f"{sha256}.dcm"
        unfinished = self._unfinished / uuid.uuid4().hex
        try:
            self._make_folder(self._unfinished)
            self._make_folder(folder)
            is_new = not path.exists()
            try:
                with unfinished.open("xb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(header)
                    file.write(dataset)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
            _fsync_folder(folder)
        except OSError as error:
            raise SpoolUnavailableError(
                f"The spool {self.root} cannot take an instance of {len(dataset)} bytes ({error.strerror}): "
                "free space or repair the disk, then let the sender try again"
            ) from error
        return SpooledFile(str(path.relative_to(self.root)), sha256, len(header) + len(dataset), is_new)

    def size_bytes(self) -> int:
        """Add up the sizes of all kept files; reads every folder, so not for every request."""
        return sum(file.stat().st_size for file in self.root.glob("[0-9a-f][0-9a-f]/*.dcm"))

    def check_writable(self) -> None:
        """Write and delete a small file.

        Raises:
            SpoolUnavailableError: if that fails.
        """
        probe = self._unfinished / f"probe-{uuid.uuid4().hex}"
        try:
            try:
                probe.write_bytes(b"\0")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise SpoolUnavailableError(
                f"The spool {self.root} cannot be written ({error.strerror})"
            ) from error

    def _make_folder(self, folder: Path) -> None:
        # Nobody may go on before the entry in the root is durable, whoever made it.
        with self._folders_lock:
            if folder not in self._durable_folders:
                folder.mkdir(mode=0o700, exist_ok=True)
                _fsync_folder(self.root)
                self._durable_folders.add(folder)


def encode_file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble, prefix and file meta information (PS3.10 section 7.1), the same at any time."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return _PREAMBLE + buffer.getvalue()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
