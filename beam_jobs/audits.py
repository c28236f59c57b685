"""Read the audits that were stored when studies were processed."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from beam_jobs.release import AUDIT
from beam_jobs.staging import bucket_of


def read_audit(results: Path, study_key: str) -> list[dict[str, Any]]:
    """Give the audit of one study: an object for each instance, none if there is no such study."""
    if not study_key.isalnum():  # it becomes part of a path
        return []
    pattern = f"study_year=*/bucket={bucket_of(study_key)}/{study_key}.parquet"
    rows: list[dict[str, Any]] = []
    for path in sorted((results / AUDIT).glob(pattern)):
        rows += pq.read_table(path, partitioning=None).to_pylist()
    return rows


def summarize_audits(results: Path) -> list[dict[str, Any]]:
    """Give one object for each study: its outcome, and how many of its instances want a person's look."""
    studies = []
    columns = ["study_key", "revision", "outcome", "reason", "needs_review"]
    for path in sorted((results / AUDIT).glob("study_year=*/bucket=*/*.parquet")):
        rows = pq.read_table(path, columns=columns, partitioning=None).to_pylist()
        studies.append(
            rows[0]
            | {"instances": len(rows), "needs_review": sum(row["needs_review"] or False for row in rows)}
        )
    return studies
