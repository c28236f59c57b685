import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import pool as pool_job
from beam_jobs.errors import SetupError
from beam_jobs.pool import build_pool
from beam_jobs.pool_dataset import PoolDataset, PoolDatasetError, prune_datasets
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import FRAME_BYTES, Fingerprint, Rule, SelectionRules, select
from tests.pool_archive import StoredFrame, key, write_archive

RULES = SelectionRules(max_frames_per_study=8, max_frames_per_subject=12)


def archive() -> list[StoredFrame]:
    random = np.random.default_rng(3)
    return [
        StoredFrame(
            subject=f"subject-{study // 2}",
            study=f"study-{study}",
            instance=f"study-{study}-cine-{index % 2}",
            index=index // 2,
            texture=int(random.integers(0, 90)),
            confidence=float(random.uniform(0.4, 1)),
            fov_area_ratio=float(random.uniform(0.02, 0.6)),
            in_results=bool(random.random() < 0.9),
        )
        for study in range(8)
        for index in range(24)
    ]


def pool_of(root: Path, rules: SelectionRules = RULES, frames_per_shard: int = 20) -> PoolDataset:
    return build_pool(root / "pool", root / "results", rules, frames_per_shard=frames_per_shard)


def test_the_job_keeps_what_the_plain_selection_keeps(tmp_path: Path) -> None:
    frames = archive()
    write_archive(tmp_path, frames)
    dataset = pool_of(tmp_path)

    in_results = frozenset(f.candidate().frame_key for f in frames if f.in_results)
    plain = select([f.candidate() for f in frames], in_results, RULES)
    by_key = {f.candidate().frame_key: f for f in frames}
    expected = [np.frombuffer(by_key[c.frame_key].pixels, np.uint8).reshape(120, 160) for c in plain.kept]
    fingerprint = Fingerprint()
    for candidate in plain.kept:
        fingerprint.add(candidate)

    manifest = dataset.manifest
    assert np.array_equal(np.concatenate(list(dataset.frames())), np.stack(expected))
    assert manifest.dropped == {rule.value: plain.dropped.get(rule, 0) for rule in Rule}
    assert min(manifest.dropped[rule] for rule in Rule if rule != Rule.CHANGED_MEANWHILE) > 0
    assert manifest.candidates == len(frames)
    assert manifest.frames == len(plain.kept)
    assert manifest.studies == len({c.study_key for c in plain.kept})
    assert manifest.subjects == len({c.subject_key for c in plain.kept})
    assert manifest.fingerprint == fingerprint.hexdigest()
    assert len(manifest.shards) > 1


def test_shards_have_the_documented_columns(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    dataset = pool_of(tmp_path)
    for shard in dataset.manifest.shards:
        schema = pq.read_schema(dataset.folder / shard.file)
        assert schema.equals(A4C_SCHEMA, check_metadata=True)


def test_the_same_archive_gives_the_same_bytes_and_the_folder_stays(tmp_path: Path) -> None:
    write_archive(tmp_path / "one", archive())
    write_archive(tmp_path / "two", reversed(archive()))
    one, two = pool_of(tmp_path / "one"), pool_of(tmp_path / "two")
    before = (one.folder / "manifest.json").stat().st_mtime_ns
    assert pool_of(tmp_path / "one") == one
    assert (one.folder / "manifest.json").stat().st_mtime_ns == before
    assert one.manifest == two.manifest
    for name in sorted(path.name for path in one.folder.iterdir()):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert [path.name for path in (tmp_path / "one/pool/datasets").iterdir()] == [one.manifest.name]


def test_the_number_of_shards_does_not_change_the_frames(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    many = pool_of(tmp_path, frames_per_shard=5)
    blocks = np.concatenate(list(many.frames()))
    fingerprint = many.manifest.fingerprint
    shutil.rmtree(many.folder)
    one = pool_of(tmp_path, frames_per_shard=10_000)
    assert len(one.manifest.shards) == 1
    assert one.manifest.fingerprint == fingerprint
    assert np.array_equal(np.concatenate(list(one.frames())), blocks)


def test_a_dataset_that_was_damaged_is_built_again(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    dataset = pool_of(tmp_path)
    (dataset.folder / dataset.manifest.shards[0].file).unlink()
    assert pool_of(tmp_path) == dataset
    assert sum(len(block) for block in dataset.frames()) == dataset.manifest.frames


def test_an_option_that_beam_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no_such_option"):
        build_pool(tmp_path / "pool", tmp_path / "results", RULES, beam_options=["--no_such_option=1"])


def test_an_archive_without_frames_gives_an_empty_pool(tmp_path: Path) -> None:
    dataset = pool_of(tmp_path)
    assert (dataset.manifest.frames, dataset.manifest.candidates, dataset.manifest.shards) == (0, 0, ())
    assert dataset.sample(10, seed=1).shape == (0, 120, 160)


def test_a_frame_replaced_between_choice_and_copy_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [StoredFrame("s", "t", "i", index, index) for index in range(4)]
    write_archive(tmp_path, frames)
    real_write_shard = pool_job._write_shard

    def redo_the_study_first(*arguments: Any) -> pool_job._WrittenShard:
        write_archive(tmp_path, [*frames[:3], StoredFrame("s", "t", "i", 3, 99)])
        return real_write_shard(*arguments)

    monkeypatch.setattr(pool_job, "_write_shard", redo_the_study_first)
    manifest = pool_of(tmp_path).manifest
    assert manifest.frames == 3
    assert manifest.dropped[Rule.CHANGED_MEANWHILE] == 1


def test_a_failed_job_leaves_no_dataset(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    next((tmp_path / "pool/a4c").rglob("*.parquet")).write_bytes(b"not parquet")
    with pytest.raises(Exception, match="Parquet"):
        pool_of(tmp_path)
    assert list((tmp_path / "pool/datasets").iterdir()) == []


def test_a_sample_is_drawn_without_replacement_and_from_its_seed(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    dataset = pool_of(tmp_path)
    sample = dataset.sample(10, seed=4)
    assert len({frame.tobytes() for frame in sample}) == 10
    assert np.array_equal(sample, dataset.sample(10, seed=4))
    assert not np.array_equal(sample, dataset.sample(10, seed=5))
    assert len(dataset.sample(10_000, seed=4)) == dataset.manifest.frames


def test_a_dataset_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    folder = pool_of(tmp_path).folder
    shard = folder / PoolDataset.open(folder).manifest.shards[0].file

    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(PoolDatasetError, match="must have"):
        PoolDataset.open(folder)
    shard.unlink()
    with pytest.raises(PoolDatasetError, match="cannot be read"):
        PoolDataset.open(folder)
    (folder / "manifest.json").write_text(json.dumps({"view": "a4c"}))
    with pytest.raises(PoolDatasetError, match="build the pool again"):
        PoolDataset.open(folder)


def test_old_datasets_and_unfinished_ones_are_pruned_but_never_the_current(tmp_path: Path) -> None:
    names = []
    for texture in range(4):
        write_archive(tmp_path, [StoredFrame("s", "t", "i", 0, texture)])
        names.append(pool_of(tmp_path).manifest.name)
    datasets = tmp_path / "pool/datasets"
    (datasets / ".unfinished-1").mkdir()
    removed = prune_datasets(datasets, keep=2, current=names[0])
    left = {path.name for path in datasets.iterdir()}
    assert names[0] in left
    assert len(left) == 2
    assert set(removed) == set(names) - left


POOL_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from beam_jobs.pool import build_pool
from beam_jobs.selection import SelectionRules

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def build(root):
    return build_pool(root / "pool", root / "results", SelectionRules(), frames_per_shard=4000).manifest

small, large = map(Path, sys.argv[1:])
build(small)
before = peak_bytes()
print(build(large).frames, peak_bytes() - before)
"""


def test_the_pool_is_never_held_in_memory(tmp_path: Path) -> None:
    write_archive(tmp_path / "small", archive())
    write_large_archive(tmp_path / "large", studies=50)
    done = subprocess.run(
        [sys.executable, "-c", POOL_IN_LITTLE_MEMORY, str(tmp_path / "small"), str(tmp_path / "large")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    frames, growth_bytes = map(int, done.stdout.split())
    assert frames == 50 * 200
    assert growth_bytes < frames * FRAME_BYTES / 2  # references, about 4 kB a frame in this runner


def write_large_archive(root: Path, *, studies: int) -> None:
    """Write 200 frames a study, all different and quick to write."""
    for study in range(studies):
        frames = np.zeros((200, FRAME_BYTES), np.uint8)
        frames[:, 0], frames[:, 1] = np.arange(200), study
        name, length = key(f"study-{study}"), len(frames)
        stored = pa.table(
            {
                "subject_key": [key(f"subject-{study}")] * length,
                "study_key": [name] * length,
                "instance_key": [key(f"cine-{study}")] * length,
                "frame_index": np.arange(length, dtype=np.int32),
                "view_confidence": np.ones(length, np.float32),
                "fov_area_ratio": np.ones(length, np.float32),
                "lv_area_ratio": np.ones(length, np.float32),
                "frame": [frame.tobytes() for frame in frames],
            },
            schema=A4C_SCHEMA,
        )
        rows = stored.select(["instance_key", "frame_index"]).append_column("view", [["a4c"] * length])
        for folder, table in (("pool/a4c", stored), ("results/frames", rows)):
            path = root / folder / f"bucket={name[:2]}" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
