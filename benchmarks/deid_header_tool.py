"""Time one de-identification tool over the headers of files; run by `benchmarks.deid_headers`.

It imports nothing of the project unless the project is what it times, so that it runs in the virtual
environment of a peer:  python deid_header_tool.py TOOL REPEATS < paths, one a line.  It prints a JSON
object: for each path the median of the header alone and of reading, header and writing, in seconds, or
null where the tool fails.
"""

import gc
import importlib
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pydicom

Deidentify = Callable[[Any], Any]


def echobeam() -> Deidentify:
    """Give the profile with a site's usual options."""
    profile = importlib.import_module("beam_jobs.deid.profile")
    keys = importlib.import_module("beam_jobs.deid.keys")
    records = importlib.import_module("beam_jobs.records")
    pseudonymizer = keys.Pseudonymizer(bytes(range(32)))
    options = profile.DeidOptions()
    placement = records.Placement("claim", "5" * 32, "6" * 32, 1, 1, "7" * 32, "8" * 32)

    def deidentify(ds: Any) -> Any:
        return profile.deidentify_dataset(
            ds, options=options, placement=placement, pseudonymizer=pseudonymizer
        ).ds

    return deidentify


def dicognito() -> Deidentify:
    """Give dicognito's anonymizer, which changes the dataset that it gets."""
    anonymizer = importlib.import_module("dicognito.anonymizer").Anonymizer(seed="benchmark")

    def deidentify(ds: Any) -> Any:
        anonymizer.anonymize(ds)
        return ds

    return deidentify


def dicom_anonymizer() -> Deidentify:
    """Give dicom-anonymizer's function with its default rules."""
    anonymize = importlib.import_module("dicomanonymizer").anonymize_dataset

    def deidentify(ds: Any) -> Any:
        anonymize(ds)
        return ds

    return deidentify


def deid() -> Deidentify:
    """Give deid's parser with its base recipe and private elements removed."""
    parser = importlib.import_module("deid.dicom.parser").DicomParser
    recipe = importlib.import_module("deid.config").DeidRecipe()

    def deidentify(ds: Any) -> Any:
        parsed = parser(ds, recipe=recipe)
        parsed.parse(strip_sequences=False, remove_private=True)
        return parsed.dicom

    return deidentify


TOOLS = {"echobeam": echobeam, "dicognito": dicognito, "dicom-anonymizer": dicom_anonymizer, "deid": deid}


def read(path: str) -> Any:
    """Read a header."""
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def write(ds: Any) -> None:
    """Encode a dataset."""
    ds.save_as(BytesIO(), implicit_vr=False, little_endian=True)


def measure(path: str, deidentify: Deidentify, repeats: int) -> tuple[float, float] | None:
    """Give the medians of the header alone, and of the whole way, None where the tool fails."""
    header_s, whole_s = [], []
    try:
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            ds = read(path)
            before = time.perf_counter()
            done = deidentify(ds)
            after = time.perf_counter()
            write(done)
            end = time.perf_counter()
            if repeat:  # the first round loads tables and compiles nothing again
                header_s.append(after - before)
                whole_s.append(end - start)
    except Exception:  # noqa: BLE001 - a peer may fail on a file in any way; it is counted
        return None
    return statistics.median(header_s), statistics.median(whole_s)


def main() -> None:
    """Time the tool that the command line names."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    tool, repeats = sys.argv[1], int(sys.argv[2])
    paths = [line.strip() for line in sys.stdin if line.strip()]
    deidentify = TOOLS[tool]()
    gc.disable()
    print(json.dumps({path: measure(path, deidentify, repeats) for path in paths}))


if __name__ == "__main__":
    main()
