"""The steps of the pool job that choose: Beam wiring around the plain functions beside this module.

Every step gives what it keeps, as blocks of `References`, and how many frames each rule dropped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, TaggedOutput

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
from beam_jobs.result_files import Results

_KEPT: Final = "kept"
_DROPPED: Final = "dropped"
_ALONE: Final = "alone"
_REPEATED: Final = "repeated"
READ: Final = "read"
"""Name under which the frames that were read are counted, beside those that rules dropped."""
_PART_SHIFT: Final = np.uint64(58)
"""Keys are grouped in 64 parts, by their first six bits: as many blocks as a large archive needs."""


class Kept(NamedTuple):
    """What a step gives.

    Attributes:
        frames: PCollection of `References`.
        dropped: PCollection of (rule, number of frames), rule a `Rule` or `READ`.
    """

    frames: beam.PCollection
    dropped: beam.PCollection


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
        results: where the tables are.
        rules: what a frame must satisfy.
        held_out: [S], S16, packed keys of subjects to leave out.
    """

    stored: Path
    results: Results
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


# --- what runs on the workers -----------------------------------------------------------------------


def _read_bucket(step: ReadReferences, bucket: str) -> tuple[References, Dropped]:
    tables = read_tables(step.results, bucket)
    references, dropped = read_references(step.stored, bucket, tables, step.rules, step.held_out)
    return references, {READ: len(references) + sum(dropped.values()), **dropped}


def _by_part(references: References, key: Key) -> Iterator[tuple[int, References]]:
    yield from by_number(references, references.head(key) >> _PART_SHIFT)


def by_number(references: References, numbers: npt.NDArray[Any]) -> Iterator[tuple[int, References]]:
    """Cut a block by a number for each of its frames: [N], int."""
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
