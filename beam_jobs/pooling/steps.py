"""The steps of the pool job: Beam wiring around the plain functions beside this module.

Every step gives what it keeps, as blocks of `References`, and how many frames each rule dropped.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, TaggedOutput

from beam_jobs.pool_dataset import MANIFEST_FILE, README_FILE, PoolManifest, Shard
from beam_jobs.pooling.datasheet import describe
from beam_jobs.pooling.reading import list_buckets, read_references, read_tables
from beam_jobs.pooling.references import Key, References
from beam_jobs.pooling.rules import (
    Dropped,
    Limits,
    PoolRules,
    Rule,
    cap,
    count_ranges,
    keep_within,
    ranges_by_machine,
    set_limits,
)
from beam_jobs.pooling.shards import WrittenShard, shard_numbers, write_shard
from beam_jobs.selection import Fingerprint
from echo_models.views import A4C

_KEPT: Final = "kept"
_DROPPED: Final = "dropped"
_ALONE: Final = "alone"
_REPEATED: Final = "repeated"
_READ: Final = "read"
_PART_SHIFT: Final = np.uint64(58)
"""Keys are grouped in 64 parts, by their first six bits: as many blocks as a large archive needs."""


class Kept(NamedTuple):
    """What a step gives.

    Attributes:
        frames: PCollection of `References`.
        dropped: PCollection of (rule, number of frames), rule a `Rule` or "read".
    """

    frames: beam.PCollection
    dropped: beam.PCollection


@dataclass
class BuildPool(beam.PTransform):
    """Choose among the stored frames and copy the chosen ones into shards.

    Attributes:
        stored: the folder of stored frames, one file per study.
        results: the folder of the tables.
        destination: an empty folder for shards and manifest.
        rules: what a frame must satisfy.
        held_out: [S], S16, packed keys of subjects of whom no frame is taken.
        frames_per_shard: about how many frames a file should have.
    """

    stored: Path
    results: Path
    destination: Path
    rules: PoolRules
    held_out: npt.NDArray[np.bytes_]
    frames_per_shard: int

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Take a pipeline; give a PCollection of one `PoolManifest`, written to `destination` last."""
        read = pipeline | ReadReferences(self.stored, self.results, self.rules, self.held_out)
        distinct = read.frames | KeepDistinct()
        capped = distinct.frames | KeepUnderCaps(self.rules)
        limits = capped.frames | FindLimits(self.rules)
        within = capped.frames | KeepWithinLimits(limits)
        shards = within.frames | WriteShards(self.stored, self.destination, limits, self.frames_per_shard)
        dropped = (read.dropped, distinct.dropped, capped.dropped, within.dropped) | beam.Flatten()
        return shards | WriteManifest(self.rules, len(self.held_out), self.destination, dropped)


class ApplyRules(beam.PTransform):
    """Keep what a function keeps, and count what it drops.

    Args:
        function: takes an element and side inputs, gives `References` and the number of frames by rule.
        sides: the side inputs.
    """

    def __init__(self, function: Callable[..., tuple[References, Dropped]], *sides: Any) -> None:
        super().__init__()
        self._function = function
        self._sides = sides

    def expand(self, elements: beam.PCollection) -> Kept:
        """Take a PCollection of what the function takes."""
        applied = elements | beam.ParDo(_ApplyRulesFn(self._function), *self._sides).with_outputs(
            _DROPPED, main=_KEPT
        )
        return Kept(applied[_KEPT], applied[_DROPPED])


class _ApplyRulesFn(beam.DoFn):
    def __init__(self, function: Callable[..., tuple[References, Dropped]]) -> None:
        self._function = function

    def process(self, element: Any, *sides: Any) -> Iterator[Any]:
        kept, dropped = self._function(element, *sides)
        if len(kept):
            yield kept
        for rule, count in dropped.items():
            yield TaggedOutput(_DROPPED, (str(rule), count))


@dataclass
class RegroupFrames(beam.PTransform):
    """Put frames that share a key into one block; a block has many keys."""

    key: Key

    def expand(self, frames: beam.PCollection) -> beam.PCollection:
        """Take and give a PCollection of `References`."""
        return (
            frames
            | "Part" >> beam.FlatMap(_by_part, self.key)
            | beam.GroupByKey()
            | "Join" >> beam.MapTuple(lambda _, blocks: References.join(blocks))
        )


@dataclass
class ReadReferences(beam.PTransform):
    """Read the references of stored frames that satisfy the rules by themselves.

    Attributes:
        stored: the folder of stored frames.
        results: the folder of the tables.
        rules: what a frame must satisfy.
        held_out: [S], S16, packed keys of subjects to leave out.
    """

    stored: Path
    results: Path
    rules: PoolRules
    held_out: npt.NDArray[np.bytes_]

    def expand(self, pipeline: beam.Pipeline) -> Kept:
        """Take a pipeline; give a block per bucket of the archive."""
        buckets = pipeline | beam.Create(list_buckets(self.stored)) | beam.Reshuffle()
        read: Kept = buckets | ApplyRules(partial(_read_bucket, self))
        return read


@dataclass
class KeepDistinct(beam.PTransform):
    """Keep of frames with equal pixels the one of the lowest rank.

    All frames are compared by the first eight bytes of their digest; whole references are compared only of
    those that share them.
    """

    def expand(self, frames: beam.PCollection) -> Kept:
        """Take a PCollection of `References`."""
        repeated = (
            frames
            | "Heads" >> beam.FlatMap(_digest_heads)
            | "HeadsByPart" >> beam.GroupByKey()
            | "Repeated" >> beam.MapTuple(_repeated_heads)
        )
        split = frames | "Split" >> beam.ParDo(_SplitRepeated(), AsIter(repeated)).with_outputs(
            _REPEATED, main=_ALONE
        )
        winners = split[_REPEATED] | RegroupFrames("pixel_digest") | ApplyRules(_distinct)
        return Kept((split[_ALONE], winners.frames) | beam.Flatten(), winners.dropped)


@dataclass
class KeepUnderCaps(beam.PTransform):
    """Keep at most so many frames of a study and of a subject, those of the lowest rank."""

    rules: PoolRules

    def expand(self, frames: beam.PCollection) -> Kept:
        """Take a PCollection of `References`."""
        capped: Kept = frames | RegroupFrames("subject_key") | ApplyRules(partial(cap, rules=self.rules))
        return capped


@dataclass
class FindLimits(beam.PTransform):
    """Find up to which rank the frames of each machine stay."""

    rules: PoolRules

    def expand(self, frames: beam.PCollection) -> beam.PCollection:
        """Take a PCollection of `References`; give one of one `Limits`."""
        counts = (
            frames
            | "Ranges" >> beam.FlatMap(lambda block: ranges_by_machine(block).items())
            | beam.GroupByKey()
            | "Count" >> beam.MapTuple(lambda machine, ranges: (machine, count_ranges(ranges)))
        )
        return frames.pipeline | beam.Create([self.rules]) | "Limits" >> beam.Map(_set_limits, AsDict(counts))


@dataclass
class KeepWithinLimits(beam.PTransform):
    """Keep what is within its machine's cap and share.

    Attributes:
        limits: PCollection of one `Limits`.
    """

    limits: beam.PCollection

    def expand(self, frames: beam.PCollection) -> Kept:
        """Take a PCollection of `References`."""
        within: Kept = frames | ApplyRules(keep_within, AsSingleton(self.limits))
        return within


@dataclass
class WriteShards(beam.PTransform):
    """Copy the chosen frames into Parquet shards, cut by study and sorted.

    Attributes:
        stored: the folder of stored frames.
        destination: the folder of the shards.
        limits: PCollection of one `Limits`; how many frames stay says how many shards there are.
        frames_per_shard: about how many frames a file should have.
    """

    stored: Path
    destination: Path
    limits: beam.PCollection
    frames_per_shard: int

    def expand(self, frames: beam.PCollection) -> beam.PCollection:
        """Take a PCollection of `References`; give one of `WrittenShard`, one per file."""
        shards = AsSingleton(
            self.limits | beam.Map(lambda limits: max(1, -(-limits.frames // self.frames_per_shard)))
        )
        return (
            frames
            | "ByShard" >> beam.FlatMap(_by_shard, shards)
            | beam.GroupByKey()
            | "Write" >> beam.Map(partial(_write_shard, self.stored, self.destination), shards)
        )


@dataclass
class WriteManifest(beam.PTransform):
    """Write `manifest.json` and the dataset's `README.md`, once everything else is written.

    Attributes:
        rules: what a frame had to satisfy.
        held_out_subjects: how many subjects were left out by name.
        destination: the folder of the shards.
        dropped: PCollection of (rule, number of frames).
    """

    rules: PoolRules
    held_out_subjects: int
    destination: Path
    dropped: beam.PCollection

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        """Take a PCollection of `WrittenShard`; give one of one `PoolManifest`."""
        counts = self.dropped | "Sum" >> beam.CombinePerKey(sum)
        return (
            shards.pipeline
            | beam.Create([self.destination])
            | beam.Map(_write_manifest, AsDict(counts), AsIter(shards), self.rules, self.held_out_subjects)
        )


# --- what runs on the workers -----------------------------------------------------------------------


def _read_bucket(step: ReadReferences, bucket: str) -> tuple[References, Dropped]:
    tables = read_tables(step.results, bucket)
    references, dropped = read_references(step.stored, bucket, tables, step.rules, step.held_out)
    return references, {_READ: len(references) + sum(dropped.values()), **dropped}


def _by_part(references: References, key: Key) -> Iterator[tuple[int, References]]:
    yield from _by_number(references, references.head(key) >> _PART_SHIFT)


def _by_shard(references: References, shards: int) -> Iterator[tuple[int, References]]:
    yield from _by_number(references, shard_numbers(references, shards))


def _by_number(references: References, numbers: npt.NDArray[Any]) -> Iterator[tuple[int, References]]:
    for number in np.unique(numbers):
        yield int(number), references.take(numbers == number)


def _digest_heads(references: References) -> Iterator[tuple[int, bytes]]:
    heads = references.head("pixel_digest")
    parts = heads >> _PART_SHIFT
    for part in np.unique(parts):
        yield int(part), heads[parts == part].tobytes()


def _repeated_heads(_part: int, blocks: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    heads, counts = np.unique(np.frombuffer(b"".join(blocks), np.uint64), return_counts=True)
    return heads[counts > 1]


class _SplitRepeated(beam.DoFn):
    """Puts aside the frames whose digest may not be theirs alone."""

    def process(self, references: References, repeated: Iterable[npt.NDArray[np.uint64]]) -> Iterator[Any]:
        is_repeated = np.isin(
            references.head("pixel_digest"), np.concatenate([np.empty(0, np.uint64), *repeated])
        )
        yield references.take(~is_repeated)
        yield TaggedOutput(_REPEATED, references.take(is_repeated))


def _distinct(references: References) -> tuple[References, Dropped]:
    kept = references.take(references.lowest("pixel_digest", 1))
    return kept, {Rule.DUPLICATE: len(references) - len(kept)}


def _set_limits(rules: PoolRules, counts: Mapping[str, npt.NDArray[np.int64]]) -> Limits:
    return set_limits(counts, rules)


def _write_shard(
    stored: Path, destination: Path, group: tuple[int, Iterable[References]], shards: int
) -> WrittenShard:
    number, blocks = group
    return write_shard(References.join(blocks), stored, destination, number=number, shards=shards)


def _write_manifest(
    destination: Path,
    dropped: Mapping[str, int],
    written: Iterable[WrittenShard],
    rules: PoolRules,
    held_out_subjects: int,
) -> PoolManifest:
    shards = sorted(written, key=lambda shard: shard.number)
    fingerprint = Fingerprint()
    machines: Counter[str] = Counter()
    for shard in shards:
        fingerprint.join(shard.fingerprint)
        machines.update(shard.frames)
    candidates = dropped.get(_READ, 0)
    by_rule = {rule.value: dropped.get(rule.value, 0) for rule in Rule}
    by_rule[Rule.CHANGED_MEANWHILE] = candidates - sum(by_rule.values()) - machines.total()
    manifest = PoolManifest(
        view=A4C,
        candidates=candidates,
        frames=machines.total(),
        studies=sum(shard.studies for shard in shards),
        subjects=len(subjects := sorted({key for shard in shards for key in shard.subject_keys})),
        dropped=by_rule,
        rules=asdict(rules),
        fingerprint=fingerprint.hexdigest(),
        shards=tuple(Shard(shard.file, sum(shard.frames.values())) for shard in shards),
        subject_keys=tuple(subjects),
        machines=dict(sorted(machines.items())),
        held_out_subjects=held_out_subjects,
    )
    _write(destination / README_FILE, describe(manifest))
    _write(destination / MANIFEST_FILE, manifest.to_json())
    return manifest


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    unfinished.write_text(text)
    unfinished.rename(path)
