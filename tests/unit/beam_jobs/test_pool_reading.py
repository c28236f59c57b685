from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.pooling import reading
from beam_jobs.pooling.reading import list_buckets, read_references, read_tables
from beam_jobs.pooling.rules import PoolRules, Rule
from tests.pool_archive import StoredFrame, write_archive

NOBODY = np.empty(0, "S16")
FRAMES = [StoredFrame("s", "t", "i", index, index, manufacturer="GE") for index in range(3)]


def test_a_frame_has_the_machine_of_its_study_and_unknown_without_one(tmp_path: Path) -> None:
    write_archive(tmp_path, [*FRAMES, StoredFrame("s", "v", "j", 0, 9)])
    machines = set()
    for bucket in list_buckets(tmp_path / "pool/a4c"):
        tables = read_tables(tmp_path / "results", bucket)
        found, _ = read_references(tmp_path / "pool/a4c", bucket, tables, PoolRules(), NOBODY)
        machines |= {(len(found), machine) for machine in found.rows["machine"].tolist()}
    assert machines == {(3, b"GE"), (1, b"unknown")}


def test_without_tables_no_frame_is_in_the_results(tmp_path: Path) -> None:
    write_archive(tmp_path, FRAMES)
    (bucket,) = list_buckets(tmp_path / "pool/a4c")
    tables = read_tables(tmp_path / "nowhere", bucket)
    found, dropped = read_references(tmp_path / "pool/a4c", bucket, tables, PoolRules(), NOBODY)
    assert len(found) == 0
    assert dropped[Rule.NOT_IN_RESULTS] == 3


def test_an_unknown_frame_is_of_the_results_and_can_be_wanted(tmp_path: Path) -> None:
    write_archive(tmp_path, [StoredFrame("s", "t", "i", 0, 0, is_known=False)])
    (bucket,) = list_buckets(tmp_path / "pool/a4c")
    tables = read_tables(tmp_path / "results", bucket)
    kept = [
        len(read_references(tmp_path / "pool/a4c", bucket, tables, rules, NOBODY)[0])
        for rules in (PoolRules(), PoolRules(known_only=False))
    ]
    assert kept == [0, 1]


def test_tables_that_vanish_again_and_again_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path, FRAMES)
    tries: list[Path] = []

    def vanished(file: Path, *_: Any) -> Any:
        tries.append(file)
        raise FileNotFoundError(file)

    monkeypatch.setattr(reading, "_batches", vanished)
    (bucket,) = list_buckets(tmp_path / "pool/a4c")
    with pytest.raises(FileNotFoundError):
        read_tables(tmp_path / "results", bucket)
    assert len(tries) == 5


def test_stored_frames_of_another_form_are_refused(tmp_path: Path) -> None:
    write_archive(tmp_path, FRAMES)
    (bucket,) = list_buckets(tmp_path / "pool/a4c")
    (file,) = (tmp_path / "pool/a4c" / bucket).iterdir()
    rows = pq.read_table(file, partitioning=None)
    short = rows.set_column(rows.schema.get_field_index("study_key"), "study_key", pa.array(["short"] * 3))
    pq.write_table(short, file)
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        read_references(
            tmp_path / "pool/a4c", bucket, read_tables(tmp_path / "results", bucket), PoolRules(), NOBODY
        )
