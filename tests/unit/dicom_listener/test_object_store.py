import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import GenericError

from dicom_listener import object_store
from dicom_listener.errors import StoreConflictError, StoreError
from dicom_listener.object_store import (
    StoredObject,
    StoreUrl,
    check_store,
    delete_objects,
    find_object,
    list_folders,
    list_objects,
    put_object,
)
from tests.object_stores import memory_url  # noqa: F401 - a fixture

MARK = "kept-to-oneself"


def found(url: StoreUrl, key: str) -> StoredObject:
    item = find_object(url, key)
    assert item is not None
    return item


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b=c/", "my.bucket-1", "a/b=c"),
    ],
)
def test_a_url_names_bucket_and_prefix(text: str, bucket: str, prefix: str) -> None:
    assert StoreUrl.parse(text) == StoreUrl(bucket, prefix)
    assert StoreUrl.parse(str(StoreUrl.parse(text))) == StoreUrl(bucket, prefix)


@pytest.mark.parametrize(
    "text",
    [
        f"s3://user:{MARK}@bucket/prefix",
        f"s3://bucket/prefix?secret={MARK}",
        f"https://bucket/{MARK}",
        f"s3://bucket/../{MARK}",
        f"s3://bucket//{MARK}",
        f"s3://B/{MARK}",
        f"s3:///{MARK}",
    ],
)
def test_what_is_no_such_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected s3://bucket/prefix") as refused:
        StoreUrl.parse(text)
    assert MARK not in str(refused.value)


def test_objects_and_folders_are_listed_in_order(memory_url: StoreUrl) -> None:  # noqa: F811
    for key in ("b/2", "a/1", "b/c/3"):
        put_object(memory_url, key, key.encode())
    assert [item.key for item in list_objects(memory_url)] == ["a/1", "b/2", "b/c/3"]
    assert [item.name for item in list_objects(memory_url, "b")] == ["2", "3"]
    assert list_folders(memory_url) == ["a", "b"]
    assert list_folders(memory_url, "b") == ["c"]
    assert list_folders(memory_url, "none") == []
    delete_objects(memory_url, ["b/2", "none"])
    delete_objects(memory_url, [])
    assert [item.key for item in list_objects(memory_url, "b")] == ["b/c/3"]


def test_an_object_replaces_only_what_was_seen(memory_url: StoreUrl) -> None:  # noqa: F811
    put_object(memory_url, "a", b"first")
    with pytest.raises(StoreConflictError):
        put_object(memory_url, "a", b"other")
    seen = found(memory_url, "a")
    put_object(memory_url, "a", b"second", replacing=seen)
    with pytest.raises(StoreConflictError):
        put_object(memory_url, "a", b"third", replacing=seen)
    assert found(memory_url, "a").read() == b"second"
    delete_objects(memory_url, ["a"])
    with pytest.raises(StoreConflictError):
        put_object(memory_url, "a", b"third", replacing=seen)
    assert find_object(memory_url, "a") is None


def test_putting_what_somebody_put_already_is_as_good(memory_url: StoreUrl) -> None:  # noqa: F811
    put_object(memory_url, "a", b"same")
    put_object(memory_url, "a", b"same")
    with pytest.raises(StoreConflictError):
        put_object(memory_url, "a", b"also")


def test_an_object_is_read_as_it_was_listed_or_not_at_all(memory_url: StoreUrl) -> None:  # noqa: F811
    put_object(memory_url, "a", b"0123456789")
    seen = found(memory_url, "a")
    opened = seen.open()
    assert (opened.read(3), opened.tell()) == (b"012", 3)
    assert opened.seek(-2, os.SEEK_END) == 8
    assert (opened.read(), opened.read()) == (b"89", b"")
    assert (opened.seek(1), opened.seek(1, os.SEEK_CUR), opened.read(1)) == (1, 2, b"2")
    put_object(memory_url, "a", b"abcdefghij", replacing=seen)
    opened.seek(0)
    with pytest.raises(FileNotFoundError, match="replaced"):
        opened.read(3)
    with pytest.raises(FileNotFoundError):
        seen.read()
    delete_objects(memory_url, ["a"])
    with pytest.raises(FileNotFoundError):
        opened.read(3)


def test_parquet_is_read_from_an_object_and_an_empty_one_is_read_as_nothing(memory_url: StoreUrl) -> None:  # noqa: F811
    table = pa.table({"number": list(range(1000))})
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    put_object(memory_url, "a.parquet", file.getvalue().to_pybytes())
    assert pq.read_table(found(memory_url, "a.parquet").open()).equals(table)
    put_object(memory_url, "empty", b"")
    assert found(memory_url, "empty").read() == b""


def test_a_store_that_keeps_its_word_is_accepted_and_left_as_it_was(memory_url: StoreUrl) -> None:  # noqa: F811
    put_object(memory_url, "frames/a", b"")
    check_store(memory_url)
    assert [item.key for item in list_objects(memory_url)] == ["frames/a"]


@pytest.mark.parametrize(("heeds", "named"), [("nothing", "If-None-Match"), ("absence", "If-Match")])
def test_a_store_that_replaces_what_it_must_not_is_refused(
    memory_url: StoreUrl,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    heeds: str,
    named: str,
) -> None:
    put = object_store._put

    def careless(url: StoreUrl, key: str, data: bytes, replacing: StoredObject | None) -> str | None:
        if heeds == "absence" and replacing is None:
            return put(url, key, data, None)
        return put(url, key, data, find_object(url, key))

    monkeypatch.setattr(object_store, "_put", careless)
    with pytest.raises(StoreError, match=f"does not heed {named}"):
        check_store(memory_url)
    assert list_objects(memory_url) == []


def test_a_bucket_that_keeps_old_versions_is_refused(
    memory_url: StoreUrl,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = object_store._put
    monkeypatch.setattr(object_store, "_put", lambda *arguments: put(*arguments) or "3sL4kqtJlcpXroDTDmJ")
    with pytest.raises(StoreError, match="keeps old versions"):
        check_store(memory_url)


def test_an_error_tells_the_code_of_an_answer_and_nothing_else_of_it(
    memory_url: StoreUrl,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{MARK}</AWSAccessKeyId></Error>"
    for text, told in (
        (answer, "InvalidAccessKeyId"),
        (f"with status 503: {MARK}", "503"),
        (MARK, "GenericError"),
    ):
        error = GenericError(text)

        def fail(_url: StoreUrl, *, error: GenericError = error) -> None:
            raise error

        monkeypatch.setattr(object_store, "_client", fail)
        with pytest.raises(StoreError, match=rf"did not list \({told}\)") as failed:
            list_objects(memory_url)
        assert MARK not in str(failed.value)
