"""The spool: received instances on disk, byte for byte as they were sent.

A file is a DICOM file (PS3.10 section 7) made of a header that depends on nothing but the instance's
UIDs and transfer syntax, and of the encoded dataset as it came over the wire. So the same instance
sent twice is the same file, and the digest of the file names it: no UID shows in a path.
"""

import fcntl
import hashlib
import os
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydicom.uid import UID

from dicom_listener.errors import SpoolLockedError, SpoolUnavailableError

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.5371787396893924053610232137222543159")
IMPLEMENTATION_VERSION_NAME: Final = "ECHOBEAM"
"""Without a version number, or an upgrade would make every instance that is sent again look changed."""

_PREAMBLE: Final = bytes(128) + b"DICM"
_RECEIVERS: Final = ".receivers"
_LOOK_AGAIN_S: Final = 0.1
_WITH_HEADER_BYTES: Final = 256 * 1024
"""How much of the first fragment is copied to be written with the header: one call is cheaper than two."""


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
    def receiving(self, *, patience_s: float = 0) -> Iterator[None]:
        """Own the spool for the block: create it, keep other listeners out, sweep what a crash left.

        Args:
            patience_s: how long receivers of a listener that was killed may go on draining.

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
            self._await_receivers(patience_s)
            self.sweep()
            yield
        finally:
            os.close(lock)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Receive for the owner, in a process of one's own: the next owner waits until the block ends."""
        with _opened_lock(self.root / _RECEIVERS) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def _await_receivers(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        with _opened_lock(self.root / _RECEIVERS) as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise SpoolLockedError(
                            f"Receivers of an earlier listener still receive into {self.root}: wait until "
                            "they have drained, or stop them"
                        ) from error
                    time.sleep(_LOOK_AGAIN_S)
                else:
                    return

    def sweep(self, *, untouched_since: float | None = None) -> int:
        """Delete unfinished files; only the owner may.

        Args:
            untouched_since: only those that nothing was written to since then, seconds since the epoch;
                None for all, before anything is received.

        Returns:
            How many were deleted.
        """
        deleted = 0
        for unfinished in self._unfinished.iterdir():
            with suppress(FileNotFoundError):  # finished meanwhile
                if untouched_since is None or unfinished.stat().st_mtime < untouched_since:
                    unfinished.unlink()
                    deleted += 1
        return deleted

    def begin(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> "SpoolWriter":
        """Begin an instance: its file is unfinished, and nobody's, until it is finished.

        Args:
            sop_class_uid: a valid UID.
            sop_instance_uid: a valid UID.
            transfer_syntax_uid: what the dataset is encoded in.

        Raises:
            SpoolUnavailableError: if it cannot be written (disk full, folder gone, no permission).
        """
        header = encode_file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        with self._told(len(header)):
            self._make_folder(self._unfinished)
            return SpoolWriter(self, self._unfinished / uuid.uuid4().hex, header)

    def keep(
        self,
        dataset: bytes | memoryview,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> SpooledFile:
        """Put a whole instance on disk and return once it would outlive a power cut.

        Args:
            dataset: the encoded dataset as it was sent, without a file header.
            sop_class_uid: a valid UID.
            sop_instance_uid: a valid UID.
            transfer_syntax_uid: what the dataset is encoded in.

        Raises:
            SpoolUnavailableError: if it cannot be written (disk full, folder gone, no permission).
        """
        with self.begin(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        ) as writer:
            writer.write(dataset)
            return writer.finish()

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

    @contextmanager
    def _told(self, size_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolUnavailableError(
                f"The spool {self.root} cannot take {size_bytes} bytes of an instance ({error.strerror}): "
                "free space or repair the disk, then let the sender try again"
            ) from error

    def _make_folder(self, folder: Path) -> None:
        # Nobody may go on before the entry in the root is durable, whoever made it.
        with self._folders_lock:
            if folder not in self._durable_folders:
                folder.mkdir(mode=0o700, exist_ok=True)
                _fsync_folder(self.root)
                self._durable_folders.add(folder)


class SpoolWriter:
    """One instance on its way into the spool. One thread writes; leaving the `with` block discards it.

    Attributes:
        path: the unfinished file.
        dataset_bytes: what has been written of the dataset.
        dataset_offset: where in the file the dataset begins.
    """

    def __init__(self, spool: Spool, path: Path, header: bytes) -> None:
        self.path = path
        self.dataset_bytes = 0
        self.dataset_offset = len(header)
        self._spool = spool
        self._digest = hashlib.sha256(header)
        self._header = header  # goes out with the first fragment
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, fragment: bytes | memoryview) -> None:
        """Append to the dataset.

        Raises:
            SpoolUnavailableError: if it cannot be written.
        """
        with self._spool._told(len(fragment)):  # noqa: SLF001 - two classes, one job
            if self._header:
                _write_all(self._file, memoryview(self._header + fragment[:_WITH_HEADER_BYTES]))
                self._header = b""
                _write_all(self._file, memoryview(fragment)[_WITH_HEADER_BYTES:])
            else:
                _write_all(self._file, memoryview(fragment))
        self._digest.update(fragment)
        self.dataset_bytes += len(fragment)

    def finish(self) -> SpooledFile:
        """Put the file into its place and return once it would outlive a power cut.

        Raises:
            SpoolUnavailableError: if that fails; the file is then neither here nor there.
        """
        sha256 = self._digest.hexdigest()
        folder = self._spool.root / sha256[:2]
        place = folder / f"{sha256}.dcm"
        with self._spool._told(self.dataset_bytes):  # noqa: SLF001
            self._spool._make_folder(folder)  # noqa: SLF001
            is_new = not place.exists()
            try:
                _write_all(self._file, memoryview(self._header))
                os.fsync(self._file)
                self.path.replace(place)
                file, self._file = self._file, -1  # it has its name: no more to be discarded
                os.close(file)
            finally:
                self.discard()
            _fsync_folder(folder)
        return SpooledFile(
            f"{sha256[:2]}/{sha256}.dcm", sha256, self.dataset_offset + self.dataset_bytes, is_new
        )

    def discard(self) -> None:
        """Close the file, and delete it unless it is finished. Harmless to repeat."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        self.path.unlink(missing_ok=True)


@contextmanager
def _opened_lock(path: Path) -> Iterator[int]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


def _write_all(file: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(file, rest) :]


def encode_file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble, prefix and file meta information (PS3.10 section 7.1), the same at any time."""
    elements = (
        _long_element(0x0001, b"OB", b"\0\1")
        + _element(0x0002, b"UI", _padded(sop_class_uid))
        + _element(0x0003, b"UI", _padded(sop_instance_uid))
        + _element(0x0010, b"UI", _padded(transfer_syntax_uid))
        + _element(0x0012, b"UI", _padded(IMPLEMENTATION_CLASS_UID))
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode())
    )
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def _long_element(number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHL", 0x0002, number, vr, 0, len(value)) + value


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
