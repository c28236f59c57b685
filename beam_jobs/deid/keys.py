"""Keyed pseudonyms: the same patient gets the same key, and nobody without the secret can tell whose.

A key is HMAC-SHA256 of the identifier under one secret of 32 bytes, cut to 128 bits. Each kind of
key has a domain of its own, so that equal identifiers of two kinds give unrelated keys.

Rotating the secret means another key file; results say by `key_id` which secret made them.
"""

import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from beam_jobs.deid.errors import KeyFileError

KEY_BYTES: Final = 32

_PSEUDONYM_HEX_DIGITS: Final = 32
_KEY_ID_HEX_DIGITS: Final = 16
_LONGEST_SHIFT_DAYS: Final = 365
_DAY_S: Final = 86_400
_UUID_VERSION: Final = 0x8 << 76
_UUID_VARIANT: Final = 0x2 << 62
_UUID_MARKS: Final = 0xF << 76 | 0x3 << 62


class Pseudonymizer:
    """Turns identifiers into keys and gives each subject a shift of its dates.

    It is pickled as the path of its key file: the secret never enters a pipeline's description.

    Args:
        key: the secret, 32 bytes.
        key_file: where it was read from, if from a file.

    Attributes:
        key_id: a fingerprint of the secret, 16 hexadecimal digits. It is public: it tells which secret
            made a result, and nothing about the secret.

    Raises:
        KeyFileError: if the secret is not 32 bytes long.
    """

    def __init__(self, key: bytes, key_file: Path | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise KeyFileError(
                f"The key of the pseudonyms must be {KEY_BYTES} bytes; received {len(key)}. "
                "Restore the file from its backup: another key would give every subject another name."
            )
        self._key = key
        self._key_file = key_file
        self.key_id: Final = self._digest("key-id", "").hex()[:_KEY_ID_HEX_DIGITS]

    @classmethod
    def from_key_file(cls, path: Path) -> "Pseudonymizer":
        """Read the secret, making a new one where there is none.

        The file appears whole and with mode 0600, or not at all; of two processes that make it at
        once, both use the one that came first.

        Raises:
            KeyFileError: if group or others may read or write the file, it is not a regular file,
                or it is not 32 bytes long.
        """
        path = Path(path)
        try:
            return cls(_read_key(path), path)
        except FileNotFoundError:
            _create_key(path)
        return cls(_read_key(path), path)

    @classmethod
    def from_existing_key_file(cls, path: Path) -> "Pseudonymizer":
        """Read the secret; who wants to find a patient again is not served by a new one.

        Raises:
            KeyFileError: as `from_key_file`, and if there is no file.
        """
        path = Path(path)
        try:
            return cls(_read_key(path), path)
        except FileNotFoundError:
            raise KeyFileError(
                f"The key file must exist to be used here; {path} does not. Name the one whose key id the "
                "results have, or restore it from its backup."
            ) from None

    def subject_key(self, patient_id: str, study_instance_uid: str) -> str:
        """Name the subject; a study without a patient ID is a subject of its own."""
        patient_id = _without_padding(patient_id)
        if not patient_id:
            return self._pseudonym("subject-of-study", study_instance_uid)
        return self._pseudonym("subject", patient_id)

    def study_key(self, uid: str) -> str:
        """Name a study."""
        return self._pseudonym("study", uid)

    def series_key(self, uid: str) -> str:
        """Name a series."""
        return self._pseudonym("series", uid)

    def instance_key(self, uid: str) -> str:
        """Name an instance."""
        return self._pseudonym("instance", uid)

    def day_shift(self, subject_key: str) -> int:
        """Give the days to add to every date of a subject: whole, in -365..-1, the same for all."""
        number = int.from_bytes(self._digest("day-shift", subject_key))
        return -1 - number % _LONGEST_SHIFT_DAYS

    def second_shift(self, subject_key: str) -> int:
        """Give the seconds, in 0..86399, to add to the times of a subject's day beside `day_shift`."""
        return int.from_bytes(self._digest("second-shift", subject_key)) % _DAY_S

    def uid(self, uid: str) -> str:
        """Give the UID that stands for another, the same wherever it is referred to.

        It is a random UUID to whoever has not the secret: `2.25.` and its number (PS3.5 B.2; version 8
        of RFC 9562).
        """
        number = int.from_bytes(self._digest("uid", _without_padding(uid))[:16])
        return f"2.25.{number & ~_UUID_MARKS | _UUID_VERSION | _UUID_VARIANT}"

    def __repr__(self) -> str:
        return f"Pseudonymizer(key_file={str(self._key_file)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        if self._key_file is None:
            raise TypeError(
                "A pseudonymizer made from bytes cannot be pickled, as its secret would travel along; "
                "make it with from_key_file where it is used"
            )
        return (Pseudonymizer.from_key_file, (self._key_file,))

    def _pseudonym(self, domain: str, identifier: str) -> str:
        return self._digest(domain, _without_padding(identifier)).hex()[:_PSEUDONYM_HEX_DIGITS]

    def _digest(self, domain: str, identifier: str) -> bytes:
        # A NUL cannot occur in a domain, so no domain and identifier run into another pair.
        message = b"echobeam/" + domain.encode() + b"\0" + identifier.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, "sha256")


def _without_padding(identifier: str) -> str:
    """Drop what pads a value to even length (PS3.5 6.2): it is not part of the identifier."""
    return identifier.strip(" \0")


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"The key file must be a regular file; {path} is not. Name another.")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyFileError(
                f"The key file must be open to its owner alone (mode 0600); {path} has mode "
                f"{stat.S_IMODE(status.st_mode):04o}. Whoever reads it can find the patients again: "
                f"if nobody has, run: chmod 600 {path}"
            )
        return file.read(KEY_BYTES + 1)


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, never replaces a key that another process has just made.
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
