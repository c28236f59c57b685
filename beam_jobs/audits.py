"""Read the audits that were stored when studies were processed."""

from itertools import groupby
from typing import Any

import pyarrow.parquet as pq

from beam_jobs.packed import read_study
from beam_jobs.release import AUDIT
from beam_jobs.result_files import Results, list_files, list_study_files, source_of


def read_audit(results: Results, study_key: str) -> list[dict[str, Any]]:
    """Give the audit of one study: an object for each instance, none if there is no such study."""
    if not study_key.isalnum():  # it becomes part of a path
        return []
    files = list_study_files(results, study_key).get(AUDIT, [])
    tables = [read_study(source_of(file), study_key) for file in files]
    return [row for table in tables for row in table.to_pylist()]


def summarize_audits(results: Results) -> list[dict[str, Any]]:
    """Give one object for each study: its outcome, and how many of its instances want a person's look."""
    studies = []
    columns = ["study_key", "revision", "outcome", "reason", "needs_review"]
    for file in list_files(results, AUDIT):
        rows = pq.read_table(source_of(file), columns=columns, partitioning=None).to_pylist()
        for _, mine in groupby(rows, key=lambda row: row["study_key"]):
            of_study = list(mine)
            reviews = sum(row["needs_review"] or False for row in of_study)
            studies.append(of_study[0] | {"instances": len(of_study), "needs_review": reviews})
    return studies
