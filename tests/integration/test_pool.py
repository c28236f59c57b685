import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.errors import SetupError
from beam_jobs.pool import PoolError, build_pool, labeled_subjects
from beam_jobs.pool_dataset import PoolDataset, PoolDatasetError, prune_datasets
from beam_jobs.pooling import reading
from beam_jobs.pooling.references import FRAME_BYTES
from beam_jobs.pooling.rules import PoolRules, Rule
from beam_jobs.pooling.shards import WrittenShard, write_shard
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import SelectionRules
from echo_models.labels import Label, write_labels
from tests.pool_archive import StoredFrame, key, write_archive
from tests.pool_oracle import plain_pool

RULES = PoolRules(
    min_lv_area_ratio=0.02,
    max_frames_per_study=8,
    max_frames_per_subject=12,
    max_frames_per_machine=30,
    max_frames=50,
)
HELD_OUT = ["subject-3"]
WRITE_SHARD = "beam_jobs.pooling.writing.write_shard"
MAKERS = ("Philips", "Philips", "GE", None)


def archive() -> list[StoredFrame]:
    random = np.random.default_rng(3)
    return [
        StoredFrame(
            subject=f"subject-{study // 2}",
            study=f"study-{study}",
            instance=f"study-{study}-cine-{index % 2}",
            index=index // 2,
            texture=int(random.integers(0, 200)),
            confidence=float(random.uniform(0.4, 1)),
            fov_area_ratio=float(random.uniform(0.02, 0.6)),
            in_results=bool(random.random() < 0.9),
            lv_area_ratio=float(random.uniform(0, 0.3)),
            is_known=bool(random.random() < 0.9),
            manufacturer=MAKERS[study % 4],
        )
        for study in range(16)
        for index in range(24)
    ]


def pool_of(root: Path, rules: SelectionRules = RULES, frames_per_shard: int = 20) -> PoolDataset:
    held_out = [key(subject) for subject in HELD_OUT]
    return build_pool(
        root / "pool", root / "results", rules, held_out=held_out, frames_per_shard=frames_per_shard
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> PoolDataset:
    """The pool of the archive; nobody writes to it."""
    root = tmp_path_factory.mktemp("built")
    write_archive(root, archive())
    return pool_of(root)


def pixels_of(frames: Sequence[StoredFrame]) -> np.ndarray[Any, Any]:
    return np.stack([np.frombuffer(frame.pixels, np.uint8).reshape(120, 160) for frame in frames])


def test_the_job_keeps_what_plain_python_keeps(built: PoolDataset) -> None:
    kept, dropped = plain_pool(archive(), RULES, held_out=HELD_OUT)
    manifest = built.manifest
    assert np.array_equal(np.concatenate(list(built.frames())), pixels_of(kept))
    assert manifest.dropped == {rule.value: dropped[rule] for rule in Rule}
    assert min(manifest.dropped[rule] for rule in Rule if rule != Rule.CHANGED_MEANWHILE) > 0
    assert manifest.candidates == len(archive())
    assert manifest.frames == len(kept)
    assert manifest.studies == len({frame.study for frame in kept})
    assert manifest.subject_keys == tuple(sorted({key(frame.subject) for frame in kept}))
    assert manifest.machines == {
        maker: sum(frame.machine == maker for frame in kept) for maker in ("GE", "Philips", "unknown")
    }
    assert manifest.held_out_subjects == len(HELD_OUT)
    assert len(manifest.shards) > 1


def test_of_no_held_out_subject_is_a_frame_and_labels_name_them(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    labels = tmp_path / "test-set.csv"
    label = Label(subject_key=key("subject-1"), instance_key="i", frame_index=0, labeler="ana", labeled_at=0)
    write_labels(labels, [label])
    subjects = labeled_subjects([labels])
    assert subjects == {key("subject-1")}
    dataset = build_pool(tmp_path / "pool", tmp_path / "results", RULES, held_out=subjects)
    assert key("subject-1") not in dataset.manifest.subject_keys
    assert key("subject-3") in dataset.manifest.subject_keys


def test_a_subject_that_is_not_named_by_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits") as caught:
        build_pool(tmp_path / "pool", tmp_path / "results", RULES, held_out=["DOE^JANE"])
    assert "DOE" not in str(caught.value)


def test_tables_of_an_older_version_know_every_frame(tmp_path: Path) -> None:
    write_archive(tmp_path, [StoredFrame("s", "t", "i", index, index) for index in range(4)])
    for path in (tmp_path / "results/frames").rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["is_known"]), path)
    assert pool_of(tmp_path).manifest.frames == 4


def test_tables_that_are_packed_give_the_same_pool(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    loose = pool_of(tmp_path)
    for bucket in (tmp_path / "results").glob("*/*/bucket=*"):
        files = list(bucket.glob("*.parquet"))
        rows = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])
        for path in files:
            path.unlink()
        pq.write_table(rows, bucket / "packed-all.parquet")
    assert pool_of(tmp_path).manifest == loose.manifest


def test_a_table_that_is_packed_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path, archive())
    before = pool_of(tmp_path).manifest
    real_batches = reading._batches
    moved: list[Path] = []

    def pack_first(file: Path, columns: Sequence[str], rows: int) -> Any:
        if "results" in file.parts and not moved:
            moved.append(file.rename(file.with_name("packed-all.parquet")))
        return real_batches(file, columns, rows)

    monkeypatch.setattr(reading, "_batches", pack_first)
    assert pool_of(tmp_path).manifest == before
    assert moved


def test_a_dataset_says_in_words_what_it_is_and_how_to_read_it(
    built: PoolDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (built.folder / "README.md").read_text()
    for rule in Rule:
        assert f"| {rule} | {built.manifest.dropped[rule]} |" in words
    assert "| Philips |" in words
    assert "| max_frames | 50 |" in words
    assert not any(subject in words for subject in built.manifest.subject_keys)
    monkeypatch.chdir(built.folder)
    names: dict[str, Any] = {}
    exec(words.partition("```python\n")[2].partition("```")[0], names)  # noqa: S102 - the example as a reader would run it
    assert names["frames"].shape[1:] == (120, 160)


def test_new_counts_of_the_same_frames_are_told(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    before = pool_of(tmp_path)
    write_archive(tmp_path, [StoredFrame("new", "new", "new", 0, 999, confidence=0.1)])
    after = pool_of(tmp_path)
    assert after.folder == before.folder
    assert after.manifest.dropped[Rule.LOW_CONFIDENCE] == before.manifest.dropped[Rule.LOW_CONFIDENCE] + 1
    assert PoolDataset.open(after.folder) == after
    past = tmp_path / "pool" / "manifests" / f"{after.manifest.name}.json"
    assert past.read_text() == after.manifest.to_json()


def test_shards_have_the_documented_columns(built: PoolDataset) -> None:
    for shard in built.manifest.shards:
        schema = pq.read_schema(built.folder / shard.file)
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

    def redo_the_study_first(*arguments: Any, **options: Any) -> WrittenShard:
        write_archive(tmp_path, [*frames[:3], StoredFrame("s", "t", "i", 3, 99)])
        return write_shard(*arguments, **options)

    monkeypatch.setattr(WRITE_SHARD, redo_the_study_first)
    manifest = pool_of(tmp_path).manifest
    assert manifest.frames == 3
    assert manifest.dropped[Rule.CHANGED_MEANWHILE] == 1


def test_a_study_that_vanishes_meanwhile_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path, [StoredFrame("s", "t", "i", index, index) for index in range(4)])

    def remove_the_study_first(*arguments: Any, **options: Any) -> WrittenShard:
        next((tmp_path / "pool/a4c").rglob("*.parquet")).unlink()
        return write_shard(*arguments, **options)

    monkeypatch.setattr(WRITE_SHARD, remove_the_study_first)
    manifest = pool_of(tmp_path).manifest
    assert (manifest.frames, manifest.studies, manifest.subjects) == (0, 0, 0)
    assert manifest.dropped[Rule.CHANGED_MEANWHILE] == 4


def test_a_failed_job_leaves_no_dataset(tmp_path: Path) -> None:
    write_archive(tmp_path, archive())
    next((tmp_path / "pool/a4c").rglob("*.parquet")).write_bytes(b"not parquet")
    with pytest.raises(PoolError, match="Parquet"):
        pool_of(tmp_path)
    assert list((tmp_path / "pool/datasets").iterdir()) == []


def test_a_full_disk_leaves_no_dataset_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> WrittenShard:
        raise OSError(28, os.strerror(28))

    write_archive(tmp_path, archive())
    monkeypatch.setattr(WRITE_SHARD, full)
    with pytest.raises(PoolError, match="No space left on device"):
        pool_of(tmp_path)
    assert list((tmp_path / "pool/datasets").iterdir()) == []


def test_a_sample_is_drawn_without_replacement_and_from_its_seed(built: PoolDataset) -> None:
    sample = built.sample(10, seed=4)
    assert len({frame.tobytes() for frame in sample}) == 10
    assert np.array_equal(sample, built.sample(10, seed=4))
    assert not np.array_equal(sample, built.sample(10, seed=5))
    assert np.array_equal(built.sample(10_000, seed=4), np.concatenate(list(built.frames())))


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
from beam_jobs.result_files import bucket_of

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
    assert growth_bytes < 48 * 2**20  # a few batches of 10 MB; the frames would be 183 MiB


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
        keys = stored.select(["study_key", "instance_key", "frame_index"])
        rows = keys.append_column("view", [["a4c"] * length])
        for folder, table in (("pool/a4c", stored), ("results/frames/study_year=0", rows)):
            path = root / folder / f"bucket={bucket_of(name)}" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
