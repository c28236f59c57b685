"""The last steps of the pool job: shards, then the manifest and the dataset's words."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsIter, AsSingleton

from beam_jobs.pool_dataset import MANIFEST_FILE, README_FILE, PoolManifest, Shard
from beam_jobs.pooling.datasheet import describe
from beam_jobs.pooling.references import References
from beam_jobs.pooling.rules import PoolRules, Rule
from beam_jobs.pooling.shards import WrittenShard, shard_numbers, write_shard
from beam_jobs.pooling.steps import READ, by_number
from beam_jobs.selection import Fingerprint
from echo_models.views import A4C


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


def _by_shard(references: References, shards: int) -> Iterator[tuple[int, References]]:
    yield from by_number(references, shard_numbers(references, shards))


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
    candidates = dropped.get(READ, 0)
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
