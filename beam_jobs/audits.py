"""Read the audits that were stored when studies were processed."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from beam_jobs.packed import packed_holders, read_study
from beam_jobs.release import AUDIT
from beam_jobs.staging import bucket_of


def read_audit(results: Path, study_key: str) -> list[dict[str, Any]]:
    """Give the audit of one study: an object for each instance, none if there is no such study."""
    if not study_key.isalnum():  # it becomes part of a path
        return []
    partitions = sorted((results / AUDIT).glob(f"study_year=*/bucket={bucket_of(study_key)}"))
    own = [path for folder in partitions for path in folder.glob(f"{study_key}.parquet")]
    tables = [read_study(path, study_key) for path in own + packed_holders(partitions, study_key)]
    return [row for table in tables for row in table.to_pylist()]


def summarize_audits(results: Path) -> list[dict[str, Any]]:
    """Give one object for each study: its outcome, and how many of its instances want a person's look."""
    studies = []
    columns = ["study_key", "revision", "outcome", "reason", "needs_review"]
    for path in sorted((results / AUDIT).glob("study_year=*/bucket=*/*.parquet")):
        rows = pq.read_table(path, columns=columns, partitioning=None).to_pylist()
        for _, mine in groupby(rows, key=lambda row: row["study_key"]):
            of_study = list(mine)
            reviews = sum(row["needs_review"] or False for row in of_study)
            studies.append(of_study[0] | {"instances": len(of_study), "needs_review": reviews})
    return studies
