"""The files of the tables, in a folder or in an object store, for whoever reads them.

    <results>/<table>/study_year=<year>/bucket=<xx>/<file>.parquet

A file is a path or a `StoredObject`; `source_of` gives what `pyarrow.parquet` reads either from. A file
that is replaced or removed after it was listed raises FileNotFoundError when it is read, in a store also
between two reads of it: list again.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, TypeVar

from beam_jobs.packed import packed_holders
from beam_jobs.schemas import RESULT_SCHEMAS
from dicom_listener.object_store import StoredObject, StoreUrl, find_object, list_folders, list_objects

Results = Path | StoreUrl
"""Where the tables are."""

ResultFile = Path | StoredObject
"""One of their files."""

_SUFFIX: Final = ".parquet"
_REQUESTS: Final = 16
"""To a store at once, from one process: a question about a study is one for each table and year."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def bucket_of(study_key: str) -> str:
    """Give the bucket of a study: two hexadecimal digits, evenly spread."""
    return hashlib.sha256(study_key.encode()).hexdigest()[:2]


def source_of(file: ResultFile) -> Path | BinaryIO:
    """Give what pyarrow reads a file from."""
    return file if isinstance(file, Path) else file.open()


def partitions_of(file: ResultFile) -> dict[str, str]:
    """Give `study_year` and `bucket` of a file."""
    path = PurePosixPath(file if isinstance(file, Path) else file.key)
    year, bucket = path.parts[-3:-1]
    return {"study_year": year.partition("=")[2], "bucket": bucket.partition("=")[2]}


def list_files(results: Results, table: str, *, bucket: str = "bucket=*") -> list[ResultFile]:
    """List the files of a table, in the order of their paths.

    Args:
        results: where the tables are.
        table: one of them.
        bucket: of this partition only, by its name.

    Raises:
        dicom_listener.errors.StoreError: if the store cannot be read now.
    """
    if isinstance(results, Path):
        return [*sorted(results.glob(f"{table}/study_year=*/{bucket}/*{_SUFFIX}"))]
    if bucket == "bucket=*":
        found = list_objects(results, table)
    else:
        years = list_folders(results, table)
        parts = at_once(lambda year: list_objects(results, f"{table}/{year}/{bucket}"), years)
        found = [item for part in parts for item in part]
    return [item for item in found if _is_table_file(item)]


def list_study_files(results: Results, study_key: str) -> dict[str, list[ResultFile]]:
    """List the files that hold rows of a study, by table: its own, then packed ones.

    Raises:
        dicom_listener.errors.StoreError: if the store cannot be read now.
    """
    found: dict[str, list[ResultFile]] = {}
    bucket, name = f"bucket={bucket_of(study_key)}", f"{study_key}{_SUFFIX}"
    if isinstance(results, Path):
        own = sorted(results.glob(f"*/study_year=*/{bucket}/{name}"))
        for path in own + packed_holders(sorted(results.glob(f"*/study_year=*/{bucket}")), study_key):
            found.setdefault(path.relative_to(results).parts[0], []).append(path)
        return found
    years = at_once(lambda table: list_folders(results, table), RESULT_SCHEMAS)
    keys = [
        f"{table}/{year}/{bucket}/{name}"
        for table, of_table in zip(RESULT_SCHEMAS, years, strict=True)
        for year in of_table
    ]
    for item in at_once(lambda key: find_object(results, key), keys):
        if item is not None:
            found.setdefault(item.key.partition("/")[0], []).append(item)
    return found


def at_once(ask: Callable[[_In], _Out], questions: Iterable[_In]) -> list[_Out]:
    """Ask a store several things at once; the answers are in the order of the questions.

    Where one fails, that is told when all have come to their end: no request outlives the call.
    """
    asked = [_requests().submit(ask, question) for question in questions]
    wait(asked)
    return [answer.result() for answer in asked]


@cache
def _requests() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="object-store")


def _is_table_file(item: StoredObject) -> bool:
    match item.key.split("/"):
        case [_, year, bucket, name]:
            return year.startswith("study_year=") and bucket.startswith("bucket=") and name.endswith(_SUFFIX)
        case _:
            return False
