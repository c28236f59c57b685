"""Tables of an archive: written study by study, packed, and asked, beside one sorted file.

Made-up studies of 5,000 frames in 60 clips are put in place by the code that the worker uses, each with its
files for frames, clips and study. The same rows go into one file of frames, sorted by study, and one of
studies: the best that a query can be given. Then three questions are asked of the loose files (one a study),
of the packed ones and of the sorted file, in turn, with DuckDB:

    study   view and mean confidence of one study's frames, its partition not named, and named
    month   the same of all studies of one month of the shifted date
    views   frames of each view in each month

All is read from the system's cache as far as it fits. Rejections and audit are left out: their files are as
many and smaller.

    python -m benchmarks.parquet_scale [--rows N] [--seed N] [--json] [--report PATH] [--quick]
"""

import argparse
import datetime as dt
import json
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.compaction import CompactionRules, compact
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import A4C_SCHEMA, CLIPS_SCHEMA, FRAMES_SCHEMA, STUDIES_SCHEMA
from beam_jobs.staging import staged
from beam_jobs.tables import StudyTables
from echo_models.views import VIEWS

CLIPS: Final = 60
FRAMES: Final = 5_000
YEARS: Final = 3
_ROUNDS: Final = 3
_POOL: Final = 2_000
"""Clips made up once; each clip of a study has the predictions of one of them, and keys of its own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Files of one table.

    Attributes:
        partitions: folders that hold files.
    """

    files: int
    partitions: int
    median_bytes: int
    largest_bytes: int
    total_bytes: int


class MadeUp:
    """Studies with keys in order, so that one sorted file can be written along."""

    def __init__(self, studies: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        words = self._random.integers(0, 1 << 63, (studies, 2))
        self.keys = sorted(f"{high:016x}{low:016x}" for high, low in words)
        lengths = np.diff(np.linspace(0, FRAMES, CLIPS + 1).astype(int))
        self._lengths = lengths
        self._clips = [self._clip(int(lengths[number % CLIPS])) for number in range(_POOL)]

    def study(self, key: str) -> StudyTables:
        """Make the tables of a study, [5000] frames and [60] clips."""
        day = dt.date(2020, 1, 1) + dt.timedelta(int(self._random.integers(365 * YEARS)))
        chosen, clips = [], []
        same = {"subject_key": key[::-1], "study_key": key, "series_key": f"{key[:30]}00"}
        instances = [f"{key[:29]}{number:03x}" for number in range(CLIPS)]
        for number, length in enumerate(self._lengths):
            clip = self._clips[int(self._random.integers(_POOL // CLIPS)) * CLIPS + number]
            chosen.append(clip)
            keys = same | {"instance_key": instances[number]}
            clips.append(_filled(CLIPS_SCHEMA, keys, view=clip["view"][0].as_py(), frames=int(length)))
        frames = pa.concat_tables(chosen)
        columns = {name: frames[name] for name in frames.column_names}
        columns |= {name: pa.repeat(value, FRAMES) for name, value in same.items()}
        columns["instance_key"] = pa.array(np.repeat(np.array(instances, object), self._lengths), pa.string())
        study = _filled(STUDIES_SCHEMA, {"subject_key": key[::-1], "study_key": key}, day=day)
        results = {
            "frames": pa.table([columns[name] for name in FRAMES_SCHEMA.names], schema=FRAMES_SCHEMA),
            "clips": pa.Table.from_pylist(clips, CLIPS_SCHEMA),
            "studies": pa.Table.from_pylist([study], STUDIES_SCHEMA),
        }
        return StudyTables(key, 1, day.year, results, A4C_SCHEMA.empty_table())

    def _clip(self, length: int) -> pa.Table:
        logits = self._random.normal(0, 1, (length, len(VIEWS)))
        logits[:, self._random.integers(len(VIEWS))] += 5
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        views = np.asarray(VIEWS, dtype=object)[probabilities.argmax(axis=1)]
        made: dict[str, Any] = {
            "frame_index": np.arange(length, dtype=np.int32),
            "frame_time_ms": np.full(length, 33.3),
            "dicom_mode": ["2d"] * length,
            "view": views,
            "view_confidence": probabilities.max(axis=1).astype(np.float32),
            "view_probabilities": pa.FixedSizeListArray.from_arrays(
                pa.array(probabilities.reshape(-1), pa.float32()),
                type=FRAMES_SCHEMA.field("view_probabilities").type,
            ),
            "fov_area_ratio": self._random.uniform(0.4, 0.6, length).astype(np.float32),
            "fov_model": ["fov-1"] * length,
            "view_model": ["view-1"] * length,
        }
        fields = [field for field in FRAMES_SCHEMA if not field.name.endswith("_key")]
        columns = [
            pa.array(made[field.name], field.type) if field.name in made else _constant(field, length)
            for field in fields
        ]
        return pa.table(columns, schema=pa.schema(fields))


def _constant(field: pa.Field, length: int) -> pa.Array:
    if field.nullable:
        return pa.nulls(length, field.type)
    return pa.repeat(pa.scalar(_plain(field), field.type), length)


def _plain(field: pa.Field) -> Any:
    """Give a value of a column that no question asks for."""
    if pa.types.is_string(field.type):
        return "any"
    if pa.types.is_boolean(field.type):
        return True
    if pa.types.is_fixed_size_list(field.type):
        return [0.5] * field.type.list_size
    return [] if pa.types.is_nested(field.type) else 1


def _filled(
    schema: pa.Schema,
    keys: Mapping[str, str],
    *,
    view: str = "a4c",
    frames: int = FRAMES,
    day: dt.date | None = None,
) -> dict[str, Any]:
    row = {field.name: None if field.nullable else _plain(field) for field in schema}
    told = {"view": view, "number_of_frames": frames, "study_date": day}
    return row | {name: value for name, value in told.items() if name in schema.names} | dict(keys)


def write(made: MadeUp, results: Path, sorted_folder: Path) -> dict[str, float]:
    """Put every study in place, and its rows into the sorted files; give the seconds of either."""
    sorted_folder.mkdir()
    in_place_s = sorted_s = 0.0
    with (
        pq.ParquetWriter(sorted_folder / "frames.parquet", FRAMES_SCHEMA, compression="zstd") as frames,
        pq.ParquetWriter(sorted_folder / "studies.parquet", STUDIES_SCHEMA, compression="zstd") as studies,
    ):
        waiting: list[StudyTables] = []
        for key in made.keys:
            tables = made.study(key)
            began = time.perf_counter()
            with staged(tables, results, results.parent / "pool") as files:
                files.put_in_place()
            in_place_s += time.perf_counter() - began
            waiting.append(tables)
            if len(waiting) == 24 or key == made.keys[-1]:  # a row group of 120,000 frames
                began = time.perf_counter()
                frames.write_table(pa.concat_tables([it.results["frames"] for it in waiting]))
                studies.write_table(pa.concat_tables([it.results["studies"] for it in waiting]))
                sorted_s += time.perf_counter() - began
                waiting.clear()
    return {"put in place, frames a second": len(made.keys) * FRAMES / in_place_s,
            "one sorted file, frames a second": len(made.keys) * FRAMES / sorted_s}  # fmt: skip


def layout(results: Path, table: str) -> Layout:
    """Count the files of a table."""
    files = list(results.glob(f"{table}/*/*/*.parquet"))
    sizes = [file.stat().st_size for file in files]
    return Layout(
        len(files),
        len({file.parent for file in files}),
        int(statistics.median(sizes)),
        max(sizes),
        sum(sizes),
    )


def questions(key: str, month: str) -> dict[str, str]:
    """Give the statements, on the tables `frames` and `studies`."""
    named = f"AND bucket = '{bucket_of(key)}'"
    of_study = (
        "SELECT view, count(*), avg(view_confidence) FROM frames WHERE study_key = '{}' {} GROUP BY view"
    )
    return {
        "study": of_study.format(key, ""),
        "study, bucket named": of_study.format(key, named),
        "month": "SELECT view, count(*), avg(view_confidence) FROM frames JOIN studies USING (study_key) "  # noqa: S608 - made here
        f"WHERE date_trunc('month', study_date) = DATE '{month}' GROUP BY view",
        "views": "SELECT date_trunc('month', study_date) AS month, view, count(*) FROM frames "
        "JOIN studies USING (study_key) GROUP BY month, view",
    }


def ask(statement: str, frames: str, studies: str) -> tuple[float, list[Any]]:
    """Ask once, in a connection of its own; give seconds and the sorted answer."""
    hive = (
        "hive_partitioning = true, hive_types = {'study_year': INTEGER, 'bucket': VARCHAR}"
        if "*" in frames
        else "hive_partitioning = false"
    )
    with duckdb.connect(":memory:") as connection:
        for name, files in (("frames", frames), ("studies", studies)):
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}', {hive})")  # noqa: S608
        began = time.perf_counter()
        rows = connection.execute(statement).fetchall()
        return time.perf_counter() - began, sorted(rows, key=str)


def ask_all(made: MadeUp, results: Path, sorted_folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Ask every question of both layouts in turn; give medians in seconds.

    Raises:
        SystemExit: if they do not give the same answers.
    """
    places = {
        "partitions": [str(results / table / "*/*/*.parquet") for table in ("frames", "studies")],
        "sorted": [str(sorted_folder / f"{table}.parquet") for table in ("frames", "studies")],
    }
    medians: dict[str, dict[str, float]] = {}
    for name, statement in questions(made.keys[len(made.keys) // 2], "2021-05-01").items():
        seconds: dict[str, list[float]] = {place: [] for place in places}
        for _ in range(rounds):
            answers = []
            for place, files in places.items():
                asked = statement.partition("AND bucket")[0] + "GROUP BY view" if (
                    place == "sorted" and "bucket" in statement
                ) else statement  # fmt: skip
                took, rows = ask(asked, *files)
                seconds[place].append(took)
                answers.append([_rounded(row) for row in rows])
            if answers[0] != answers[1]:
                raise SystemExit(f"`{name}` was answered differently: {answers[0][:3]}, {answers[1][:3]}")
        medians[name] = {place: statistics.median(values) for place, values in seconds.items()}
    return medians


def _rounded(row: tuple[Any, ...]) -> list[Any]:
    return [round(value, 4) if isinstance(value, float) else value for value in row]


def measure(rows: int, seed: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Write, ask, pack, ask again."""
    made = MadeUp(max(1, rows // FRAMES), seed)
    results, sorted_folder = folder / "results", folder / "sorted"
    speeds = write(made, results, sorted_folder)
    tables = ("frames", "clips", "studies")
    found: dict[str, Any] = {
        "studies": len(made.keys),
        "rows": len(made.keys) * FRAMES,
        "sorted_bytes": (sorted_folder / "frames.parquet").stat().st_size,
        "loose": {table: asdict(layout(results, table)) for table in tables},
        "loose_questions": ask_all(made, results, sorted_folder, rounds),
    }
    began = time.perf_counter()
    packed = list(compact(results, CompactionRules(loose=1, share=0)))
    compact_s = time.perf_counter() - began
    found["packed"] = {table: asdict(layout(results, table)) for table in tables}
    found["packed_questions"] = ask_all(made, results, sorted_folder, rounds)
    speeds["packed, frames a second"] = found["rows"] / compact_s
    found["speeds"] = speeds | {"partitions packed": len(packed)}
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def tables_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Write what was found as Markdown, line by line."""
    yield (
        "| table | files: loose, packed | partitions | median KB: loose, packed | largest packed MB "
        "| bytes a row packed |"
    )
    yield "|---|---|---|---|---|---|"
    for table, loose in found["loose"].items():
        packed = found["packed"][table]
        rows = {"frames": found["rows"], "clips": found["studies"] * CLIPS, "studies": found["studies"]}[
            table
        ]
        yield (
            f"| {table} | {loose['files']:,}, {packed['files']:,} | {packed['partitions']:,} "
            f"| {loose['median_bytes'] / 1e3:,.0f}, {packed['median_bytes'] / 1e3:,.0f} "
            f"| {packed['largest_bytes'] / 1e6:.1f} | {packed['total_bytes'] / rows:.0f} |"
        )
    yield ""
    yield "| question | loose over sorted | packed over sorted |"
    yield "|---|---|---|"
    for name, loose in found["loose_questions"].items():
        packed = found["packed_questions"][name]
        yield (
            f"| {name} | {loose['partitions'] / loose['sorted']:.1f} "
            f"| {packed['partitions'] / packed['sorted']:.1f} |"
        )
    yield ""
    speeds = found["speeds"]
    base = speeds["one sorted file, frames a second"]
    yield (
        f"Rows a second over those of writing the sorted file alone: put in place study by study, durably, "
        f"{speeds['put in place, frames a second'] / base:.2f}; packed, all three tables, "
        f"{speeds['packed, frames a second'] / base:.2f} ({speeds['partitions packed']:,} partitions). "
        f"The sorted file of frames has {found['sorted_bytes'] / 1e6:,.0f} MB, the packed ones "
        f"{found['packed']['frames']['total_bytes'] / 1e6:,.0f} MB. Peak memory of it all "
        f"{found['peak_bytes'] / 1e6:,.0f} MB."
    )


def write_report(path: Path, command: str, machine: str, found: Mapping[str, Any]) -> None:
    """Write the report."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - found on PATH
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    what = (__doc__ or "").partition("\n\n    python")[0].strip()
    head = (
        f"# Parquet at scale\n\n{what}\n\nCommand: `{command}`\n\nCommit: {commit}. Machine: {machine}. "
        f"Synthetic data: {found['studies']:,} studies, {found['rows']:,} rows of frames; medians of "
        f"{_ROUNDS} rounds.\n\n"
    )
    path.write_text(head + "\n".join(tables_of(found)) + "\n", encoding="utf-8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of frames; 5,000 a study")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up predictions")
    parser.add_argument("--folder", type=Path, help="where to write; about 200 bytes a row come and go")
    parser.add_argument("--quick", action="store_true", help="few rows, once: shows that it works")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", type=Path, help="write a report in Markdown")
    parser.add_argument("--machine", default="not told", help="the machine in words, for the report")
    options = parser.parse_args()
    rows = 100_000 if options.quick else options.rows
    folder = Path(tempfile.mkdtemp(prefix="echobeam-parquet-", dir=options.folder))
    try:
        found = measure(rows, options.seed, folder, 1 if options.quick else _ROUNDS)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=2) if options.json else "\n".join(tables_of(found)))
    if options.report is not None:
        words = f"--rows {rows} --seed {options.seed} --report {options.report}"
        write_report(options.report, f"python -m benchmarks.parquet_scale {words}", options.machine, found)


if __name__ == "__main__":
    main()
