"""Build the unlabeled pool of apical four-chamber frames: a Beam job.

Only references travel: a frame's keys, confidence and pixel digest. Pixels are read twice, a few
hundred at a time, once to be digested and once to be copied, and never cross a shuffle; so the pool
may be far larger than memory. The job is bounded, reads what `WriteStudies` wrote, and is a function
of those files alone.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import AsDict, AsIter, AsSingleton

from beam_jobs.engine import new_pipeline
from beam_jobs.pool_dataset import (
    MANIFEST_FILE,
    PAST_MANIFESTS,
    READ_ROWS,
    TEMPORARY_PREFIX,
    PoolDataset,
    PoolDatasetError,
    PoolManifest,
    Shard,
)
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import (
    Candidate,
    Fingerprint,
    Rule,
    SelectionRules,
    broken_rule,
    frame_key,
    pixel_digest,
    place,
)
from echo_models.views import A4C

_REFERENCE_COLUMNS: Final = [
    "subject_key",
    "study_key",
    "instance_key",
    "frame_index",
    "view_confidence",
    "fov_area_ratio",
]
_RULES_OF_CHOICE: Final = tuple(rule for rule in Rule if rule != Rule.CHANGED_MEANWHILE)
_READ: Final = "read"
_STUDIES: Final = "studies"
_SUBJECTS: Final = "subjects"


def build_pool(
    pool: Path,
    results: Path,
    rules: SelectionRules,
    *,
    frames_per_shard: int = 10_000,
    beam_options: Sequence[str] = (),
) -> PoolDataset:
    """Write the dataset of this archive's frames under `pool/datasets/<name>/`.

    The folder appears whole or not at all. Equal inputs and rules give the same name, and a dataset
    that is already there, whole, is kept.

    Args:
        pool: the folder with `a4c/`, the stored frames, and `datasets/`; each dataset's manifest is kept
            under `manifests/` also when its frames are pruned.
        results: the folder with `frames/`, the table of all frames.
        rules: what a frame must satisfy.
        frames_per_shard: about how many frames a file should have.
        beam_options: passed to Beam as they are.

    Raises:
        SetupError: Beam has no such option.
    """
    job = new_pipeline(beam_options)
    datasets = pool / "datasets"
    unfinished = datasets / f"{TEMPORARY_PREFIX}{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with job as pipeline:
            _ = pipeline | BuildPool(pool / A4C, results / "frames", unfinished, rules, frames_per_shard)
        folder = datasets / PoolDataset.open(unfinished).manifest.name
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    dataset = PoolDataset.open(folder)
    _remember(dataset.manifest, pool / PAST_MANIFESTS)
    return dataset


def _remember(manifest: PoolManifest, past: Path) -> None:
    past.mkdir(exist_ok=True)
    unfinished = past / f"{TEMPORARY_PREFIX}{os.getpid()}"
    unfinished.write_text(manifest.to_json())
    unfinished.replace(past / f"{manifest.name}.json")


def _is_whole(folder: Path) -> bool:
    try:
        PoolDataset.open(folder)
    except PoolDatasetError:
        return False
    return True


@dataclass
class BuildPool(beam.PTransform):
    """Choose among the stored frames and copy the chosen ones into shards.

    Attributes:
        stored: the folder of stored frames, one file per study.
        frames_table: the folder of the frames table.
        destination: an empty folder for shards and manifest.
        rules: what a frame must satisfy.
        frames_per_shard: about how many frames a file should have.
    """

    stored: Path
    frames_table: Path
    destination: Path
    rules: SelectionRules = field(default_factory=SelectionRules)
    frames_per_shard: int = 10_000

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of one `PoolManifest`, written to `destination` last."""
        candidates = pipeline | ReadCandidates(self.stored)
        frame_keys = pipeline | ReadFrameKeys(self.frames_table)
        in_results = candidates | KeepFramesInResults(frame_keys)
        confident = in_results | "KeepConfident" >> KeepUnbroken(self.rules, Rule.LOW_CONFIDENCE)
        in_view = confident | "KeepInView" >> KeepUnbroken(self.rules, Rule.SMALL_FIELD_OF_VIEW)
        distinct = in_view | "KeepDistinct" >> KeepLowestRanks("pixel_digest", 1)
        by_study = distinct | "CapStudies" >> KeepLowestRanks("study_key", self.rules.max_frames_per_study)
        kept = by_study | "CapSubjects" >> KeepLowestRanks("subject_key", self.rules.max_frames_per_subject)
        counts = pipeline | CountElements(
            {
                _READ: candidates,
                Rule.NOT_IN_RESULTS: in_results,
                Rule.LOW_CONFIDENCE: confident,
                Rule.SMALL_FIELD_OF_VIEW: in_view,
                Rule.DUPLICATE: distinct,
                Rule.OVER_STUDY_CAP: by_study,
                Rule.OVER_SUBJECT_CAP: kept,
                _STUDIES: kept
                | "StudiesOf" >> beam.Map(lambda c: c.study_key)
                | "Studies" >> beam.Distinct(),
                _SUBJECTS: kept
                | "SubjectsOf" >> beam.Map(lambda c: c.subject_key)
                | "Subjects" >> beam.Distinct(),
            }
        )
        shards = kept | WriteShards(self.stored, self.destination, counts, self.frames_per_shard)
        return pipeline | WriteManifest(self.rules, self.destination, counts, shards)


@dataclass
class ReadCandidates(beam.PTransform):
    """Read the references of stored frames; their pixels are digested and left where they are."""

    stored: Path

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of `Candidate`, one per stored frame.

        A study's file that vanishes meanwhile gives none.
        """
        return (
            pipeline
            | "ListStored" >> beam.Create(_parquet_files(self.stored))
            | "SpreadStored" >> beam.Reshuffle()
            | "ReadStored" >> beam.FlatMap(_read_candidates, str(self.stored))
        )


@dataclass
class ReadFrameKeys(beam.PTransform):
    """Read which frames the frames table calls apical four chamber."""

    frames_table: Path

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of `frame_key`, str."""
        return (
            pipeline
            | "ListFrames" >> beam.Create(_parquet_files(self.frames_table))
            | "SpreadFrames" >> beam.Reshuffle()
            | "ReadFrames" >> beam.FlatMap(_read_frame_keys, str(self.frames_table))
        )


@dataclass
class KeepFramesInResults(beam.PTransform):
    """Drop stored frames that the frames table does not have.

    Attributes:
        frame_keys: PCollection of the `frame_key` of every frame of the table.
    """

    frame_keys: beam.PCollection

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        """Take a PCollection of `Candidate`; give one, with at most one element per frame."""
        return (
            {
                "candidates": candidates | "KeyByFrame" >> beam.Map(lambda c: (c.frame_key, c)),
                "rows": self.frame_keys | "KeyRows" >> beam.Map(lambda key: (key, None)),
            }
            | beam.CoGroupByKey()
            | beam.FlatMap(_first_candidate_in_results)
        )


@dataclass
class KeepUnbroken(beam.PTransform):
    """Drop frames that break this rule by themselves."""

    rules: SelectionRules
    rule: Rule

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        """Take and give a PCollection of `Candidate`."""
        return candidates | beam.Filter(lambda c: broken_rule(c, self.rules) != self.rule)


@dataclass
class KeepLowestRanks(beam.PTransform):
    """Keep at most so many frames that share a key: those of the lowest rank.

    Memory is bounded by `limit` per key.

    Attributes:
        attribute: the attribute of `Candidate` that is the key.
    """

    attribute: str
    limit: int

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        """Take and give a PCollection of `Candidate`."""
        return (
            candidates
            | "Key" >> beam.Map(lambda c: (getattr(c, self.attribute), c))
            | "Lowest" >> beam.combiners.Top.PerKey(self.limit, key=lambda c: c.rank, reverse=True)
            | "Unkey" >> beam.FlatMap(lambda group: group[1])
        )


@dataclass
class CountElements(beam.PTransform):
    """Count the elements of several PCollections, each under its name."""

    collections: Mapping[str, beam.PCollection]

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of (name, int), one per name that has elements."""
        return (
            [
                elements | f"Name[{name}]" >> beam.Map(lambda _, name=str(name): name)
                for name, elements in self.collections.items()
            ]
            | beam.Flatten()
            | beam.combiners.Count.PerElement()
        )


@dataclass(frozen=True, slots=True)
class _WrittenShard:
    """What a shard turned out to be, for the manifest."""

    number: int
    file: str
    frames: int
    fingerprint: str
    subject_keys: tuple[str, ...]


@dataclass
class WriteShards(beam.PTransform):
    """Copy the chosen frames into Parquet shards, cut by study and sorted.

    Attributes:
        stored: the folder of stored frames.
        destination: the folder of the shards.
        counts: PCollection of (name, int); how many frames were chosen says how many shards.
        frames_per_shard: about how many frames a file should have.
    """

    stored: Path
    destination: Path
    counts: beam.PCollection
    frames_per_shard: int

    def expand(self, chosen: beam.PCollection) -> beam.PCollection:
        """Take a PCollection of `Candidate`; give one of `_WrittenShard`, one per file."""
        shards = AsSingleton(
            self.counts
            | beam.Filter(lambda count: count[0] == Rule.OVER_SUBJECT_CAP)
            | beam.Map(lambda count: -(-count[1] // self.frames_per_shard)),
            default_value=1,
        )
        return (
            chosen
            | beam.Map(lambda c, shards: (_shard_number(c.study_key, shards), c), shards)
            | beam.GroupByKey()
            | beam.Map(_write_shard, shards, str(self.stored), str(self.destination))
        )


@dataclass
class WriteManifest(beam.PTransform):
    """Write `manifest.json`, once everything else is written.

    Attributes:
        rules: what a frame had to satisfy.
        destination: the folder of the shards.
        counts: PCollection of (name, int).
        shards: PCollection of `_WrittenShard`.
    """

    rules: SelectionRules
    destination: Path
    counts: beam.PCollection
    shards: beam.PCollection

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of one `PoolManifest`."""
        return (
            pipeline
            | beam.Create([str(self.destination)])
            | beam.Map(_write_manifest, AsDict(self.counts), AsIter(self.shards), self.rules)
        )


def _parquet_files(folder: Path) -> list[str]:
    """List the files below a folder, relative to it; unfinished ones have another ending."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))


def _batches(folder: str, source: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(Path(folder) / source)
    except FileNotFoundError:  # the study was redone since the files were listed
        return
    with file:
        yield from file.iter_batches(READ_ROWS, columns=columns)


def _read_candidates(source: str, folder: str) -> Iterator[Candidate]:
    for batch in _batches(folder, source, [*_REFERENCE_COLUMNS, "frame"]):
        digests = [pixel_digest(pixels) for pixels in batch.column("frame").to_pylist()]
        references = batch.select(_REFERENCE_COLUMNS).to_pylist()
        for reference, digest in zip(references, digests, strict=True):
            yield Candidate(**reference, pixel_digest=digest, source=source)


def _read_frame_keys(source: str, folder: str) -> Iterator[str]:
    for batch in _batches(folder, source, ["instance_key", "frame_index", "view"]):
        for row in batch.filter(pc.equal(batch.column("view"), A4C)).to_pylist():
            yield frame_key(row["instance_key"], row["frame_index"])


def _first_candidate_in_results(group: tuple[str, Mapping[str, Iterable[Any]]]) -> Iterable[Candidate]:
    _, found = group
    return sorted(found["candidates"], key=lambda c: c.source)[:1] if any(True for _ in found["rows"]) else []


def _shard_number(study_key: str, shards: int) -> int:
    """Cut the studies by range of their keys, which are hashes and so spread evenly."""
    return int(study_key[:8], 16) * shards >> 32


def _write_shard(
    group: tuple[int, Iterable[Candidate]], shards: int, stored: str, destination: str
) -> _WrittenShard:
    """Copy one shard's frames, a study at a time; its file appears whole, whoever else tries too."""
    number, candidates = group
    file = f"frames-{number:05d}-of-{shards:05d}.parquet"
    unfinished = Path(destination) / f"{file}.{os.urandom(4).hex()}"
    frames = 0
    fingerprint = Fingerprint()
    subjects: set[str] = set()
    chosen = sorted(candidates, key=lambda c: (c.study_key, c.source, *place(c)))
    with pq.ParquetWriter(unfinished, A4C_SCHEMA, compression="zstd") as writer:
        for source, of_source in groupby(chosen, key=lambda c: c.source):
            wanted = {candidate.frame_key: candidate for candidate in of_source}
            found = _copy_frames(stored, source, wanted, writer)
            frames += len(found)
            for candidate in found:
                fingerprint.add(candidate)
                subjects.add(candidate.subject_key)
    unfinished.rename(Path(destination) / file)
    return _WrittenShard(number, file, frames, fingerprint.hexdigest(), tuple(sorted(subjects)))


def _copy_frames(
    stored: str, source: str, wanted: dict[str, Candidate], writer: pq.ParquetWriter
) -> list[Candidate]:
    """Write the wanted frames of one file, in order; leave out those whose pixels have changed."""
    found: dict[str, dict[str, Any]] = {}
    for batch in _batches(stored, source, A4C_SCHEMA.names):
        keys = [
            frame_key(*pair)
            for pair in zip(batch["instance_key"].to_pylist(), batch["frame_index"].to_pylist(), strict=True)
        ]
        for row in batch.filter(pa.array([key in wanted for key in keys], pa.bool_())).to_pylist():
            key = frame_key(row["instance_key"], row["frame_index"])
            if pixel_digest(row["frame"]) == wanted[key].pixel_digest:
                found[key] = row
    in_order = sorted((wanted[key] for key in found), key=place)
    writer.write_table(pa.Table.from_pylist([found[c.frame_key] for c in in_order], schema=A4C_SCHEMA))
    return in_order


def _write_manifest(
    destination: str, counts: dict[str, int], shards: Iterable[_WrittenShard], rules: SelectionRules
) -> PoolManifest:
    written = sorted(shards, key=lambda shard: shard.number)
    fingerprint = Fingerprint()
    for shard in written:
        fingerprint.join(shard.fingerprint)
    frames = sum(shard.frames for shard in written)
    remaining = [counts.get(name, 0) for name in (_READ, *_RULES_OF_CHOICE)] + [frames]
    manifest = PoolManifest(
        view=A4C,
        candidates=counts.get(_READ, 0),
        frames=frames,
        studies=counts.get(_STUDIES, 0),
        subjects=counts.get(_SUBJECTS, 0),
        dropped={
            rule.value: before - after
            for rule, (before, after) in zip(Rule, pairwise(remaining), strict=True)
        },
        rules=asdict(rules),
        fingerprint=fingerprint.hexdigest(),
        shards=tuple(Shard(shard.file, shard.frames) for shard in written),
        subject_keys=tuple(sorted({key for shard in written for key in shard.subject_keys})),
    )
    unfinished = Path(destination) / f"{MANIFEST_FILE}.{os.urandom(4).hex()}"
    unfinished.write_text(manifest.to_json())
    unfinished.rename(Path(destination) / MANIFEST_FILE)
    return manifest
