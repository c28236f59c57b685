"""Objects below a URL of an S3 bucket: listed, read as they were listed, put only over what is expected.

What a folder gives by rename, a store gives by one PUT: an object is there whole or not at all. Two things
it does not give, and this module does:

- Whoever puts an object says what it replaces (`If-None-Match: *` for nothing, `If-Match` for what was
  seen). So a request of a process that died, still on its way, cannot undo what somebody wrote since.
- Whoever reads an object in parts reads that of the listing (`If-Match`), or is told that it is gone. So no
  reader puts together halves of two.

Address, region and credentials are those of the environment, by the names that every S3 program knows
(`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …). They are in no setting,
message or log.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn

from dicom_listener.errors import StoreConflictError, StoreError

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]  # of Python 3.12, for the checker only

    from obstore.store import S3Config, S3Store

_URL: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._=-]+)*)/?")

_PROBE: Final = ".unfinished"
"""Folder below the prefix of what `check_store` puts for a moment; no table has this name."""

_CONNECT_S: Final = 5.0
_REQUEST_S: Final = 30.0
_RETRIES: Final = 2
"""Few: the ledger holds a study for the time of its requests."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A place in a bucket.

    Attributes:
        prefix: below which everything is; empty for the whole bucket.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "StoreUrl":
        """Read `s3://bucket/prefix`.

        Raises:
            ValueError: if it is something else; what was received is not told, it could hold a password.
        """
        match = _URL.fullmatch(text)
        if match is None or {".", ".."} & set(match[2].split("/")):
            raise ValueError(
                "expected s3://bucket/prefix, of letters, digits and . _ = - only; address and credentials "
                "are given by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the like in the environment"
            )
        return cls(match[1], match[2].strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as it was when it was listed.

    Attributes:
        key: below the prefix of the URL.
    """

    url: StoreUrl
    key: str
    size_bytes: int
    etag: str

    @property
    def name(self) -> str:
        """Give the last part of the key."""
        return self.key.rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Open it for reading, by ranges.

        Reading raises FileNotFoundError when the object is gone or another took its place.
        """
        return _Reading(self)

    def read(self) -> bytes:
        """Read the whole of it.

        Raises:
            FileNotFoundError: if it is gone, or another took its place.
            StoreError: if the store cannot be read now.
        """
        return _get_range(self, 0, self.size_bytes) if self.size_bytes else b""


def list_objects(url: StoreUrl, folder: str = "") -> list[StoredObject]:
    """List all objects of a folder and of those below it, in the order of their keys.

    Raises:
        StoreError: if the store cannot be read now.
    """
    import obstore  # noqa: PLC0415 - an extra

    with _telling(url, "list"):
        pages = obstore.list(_client(url), prefix=folder or None)
        found = [_seen(url, meta) for page in pages for meta in page]
    return sorted(found, key=lambda item: item.key)


def list_folders(url: StoreUrl, folder: str = "") -> list[str]:
    """List the names of the folders in a folder.

    Raises:
        StoreError: if the store cannot be read now.
    """
    import obstore  # noqa: PLC0415 - an extra

    with _telling(url, "list"):
        listing = obstore.list_with_delimiter(_client(url), prefix=folder or None)
    return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"])


def find_object(url: StoreUrl, key: str) -> StoredObject | None:
    """Look for one object.

    Raises:
        StoreError: if the store cannot be read now.
    """
    import obstore  # noqa: PLC0415 - an extra

    try:
        with _telling(url, "read"):
            return _seen(url, obstore.head(_client(url), key))
    except FileNotFoundError:
        return None


def put_object(
    url: StoreUrl, key: str, content: "Path | bytes", *, replacing: StoredObject | None = None
) -> None:
    """Put an object, whole, in one request.

    Where another process put the very same bytes meanwhile, that is as good.

    Args:
        url: below which it goes.
        key: below the prefix.
        content: the bytes, or the file that has them.
        replacing: what is there now; None if nothing is.

    Raises:
        StoreConflictError: if something else is there than was expected; nothing was changed.
        StoreError: if the store did not answer or refused. The object may be there all the same.
    """
    data = content if isinstance(content, bytes) else content.read_bytes()
    try:
        _put(url, key, data, replacing)
    except StoreConflictError:
        there = find_object(url, key)
        if there is None or there.size_bytes != len(data) or there.read() != data:
            raise


def delete_objects(url: StoreUrl, keys: Sequence[str]) -> None:
    """Delete objects; one that is not there counts as deleted.

    Raises:
        StoreError: if the store did not answer or refused.
    """
    import obstore  # noqa: PLC0415 - an extra

    if keys:
        with _telling(url, "delete"):
            obstore.delete(_client(url), list(keys))


def check_store(url: StoreUrl) -> None:
    """Find out whether a store keeps what is promised of it, by an object that is gone afterwards.

    Raises:
        StoreError: if it does not answer, or the credentials may not list, read, write or delete; if it
            replaces an object that must be new; if it keeps old versions, so that nothing is erased.
    """
    key = f"{_PROBE}/{token_hex(8)}"
    list_folders(url)
    try:
        version = _put(url, key, b"one", None)
        _expect_refusal(url, key, None)
        seen = find_object(url, key)
        if seen is None or seen.read() != b"one":
            raise StoreError(f"{url}: expected to read what was just put; received something else")
        _put(url, key, b"two", seen)
        _expect_refusal(url, key, seen)
    finally:
        delete_objects(url, [key])
    if version is not None and version != "null":
        raise StoreError(
            f"{url}: the bucket keeps old versions of its objects, so that nothing can be erased from it. "
            "Expected a bucket without versioning"
        )


def _expect_refusal(url: StoreUrl, key: str, replacing: StoredObject | None) -> None:
    try:
        _put(url, key, b"refused", replacing)
    except StoreConflictError:
        return
    header = "If-None-Match" if replacing is None else "If-Match"
    raise StoreError(
        f"{url}: the store does not heed {header}: expected it to refuse to replace an object. Without it "
        "a study could be undone by a process that died; use another store, or a folder"
    )


def _put(url: StoreUrl, key: str, data: bytes, replacing: StoredObject | None) -> str | None:
    """Put an object; give the version that a bucket with versioning makes."""
    import obstore  # noqa: PLC0415 - an extra

    with _telling(url, "write"):
        done = obstore.put(
            _client(url),
            key,
            data,
            mode="create" if replacing is None else {"e_tag": replacing.etag},
            use_multipart=False,
        )
    return done["version"]


def _seen(url: StoreUrl, meta: Any) -> StoredObject:
    etag = meta["e_tag"]
    if etag is None:
        raise StoreError(f"{url}: the store gives no ETag with an object; use another, or a folder")
    return StoredObject(url, meta["path"], meta["size"], etag)


def _get_range(item: StoredObject, start: int, end: int) -> bytes:
    """Read some bytes of the object that was listed, and of no other."""
    import obstore  # noqa: PLC0415 - an extra

    try:
        with _telling(item.url, "read"):
            found = obstore.get(
                _client(item.url), item.key, options={"range": (start, end), "if_match": item.etag}
            )
            return bytes(found.bytes())
    except StoreConflictError as error:
        raise FileNotFoundError(f"{item.key} was replaced since it was listed") from error


@cache
def _client(url: StoreUrl) -> "S3Store":
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings: S3Config = {"endpoint": endpoint} if endpoint else {}
    if "AWS_REGION" not in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        settings["region"] = "us-east-1"  # what stores that have no regions expect
    return S3Store(
        url.bucket,
        prefix=url.prefix or None,
        config=settings,
        client_options={
            "allow_http": (endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(seconds=_REQUEST_S),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_REQUEST_S)},
    )


@contextmanager
def _telling(url: StoreUrl, what: str) -> Iterator[None]:
    """Turn the errors of the client into ours, which say no more than anybody may read."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError  # noqa: PLC0415

    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise StoreConflictError(f"{url}: an object is not the one that was expected") from error
    except BaseError as error:
        _raise_told(url, what, error)


def _raise_told(url: StoreUrl, what: str, error: Exception) -> NoReturn:
    told = str(error)
    # Of an answer no more than its code: what else it quotes may be of the request.
    codes = re.findall(r"<Code>(\w+)</Code>", told) or re.findall(r"with status (\d{3})", told)
    why = codes[0] if codes else type(error).__name__
    raise StoreError(
        f"{url}: the store did not {what} ({why}). Check the bucket, its policy, and AWS_ENDPOINT_URL, "
        "AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of this process"
    ) from error


class _Reading(io.RawIOBase, BinaryIO):
    """Bytes of one stored object, by ranges."""

    def __init__(self, item: StoredObject) -> None:
        self._item = item
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._item.size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "Buffer") -> int:
        target = memoryview(buffer)
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._item.size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        data = _get_range(self._item, self._position, self._position + wanted) if wanted else b""
        self._position += len(data)
        return data
