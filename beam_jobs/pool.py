"""Build the unlabeled pool of apical four-chamber frames: a Beam job.

Only references travel: keys, frame index and pixel digest, as columns in blocks of a few hundred studies
(`beam_jobs.pooling.references`). Pixels are read twice, a few hundred at a time, once to be digested and once
to be copied, and never cross a shuffle; so the pool may be far larger than memory. The job is bounded, reads
what `WriteStudies` wrote, and is a function of those files and the rules alone.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from beam_jobs.engine import new_pipeline
from beam_jobs.errors import BeamJobsError
from beam_jobs.pool_dataset import (
    PAST_MANIFESTS,
    TEMPORARY_PREFIX,
    PoolDataset,
    PoolDatasetError,
    PoolManifest,
)
from beam_jobs.pooling.references import pack_texts
from beam_jobs.pooling.rules import PoolRules
from beam_jobs.pooling.steps import FindLimits, KeepDistinct, KeepUnderCaps, KeepWithinLimits, ReadReferences
from beam_jobs.pooling.writing import WriteManifest, WriteShards
from beam_jobs.result_files import Results
from beam_jobs.selection import SelectionRules
from echo_models.labels import read_labels
from echo_models.views import A4C


@dataclass
class BuildPool(beam.PTransform):
    """Choose among the stored frames and copy the chosen ones into shards.

    Attributes:
        stored: the folder of stored frames, one file per study.
        results: where the tables are.
        destination: an empty folder for shards and manifest.
        rules: what a frame must satisfy.
        held_out: [S], S16, packed keys of subjects of whom no frame is taken.
        frames_per_shard: about how many frames a file should have.
    """

    stored: Path
    results: Results
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


class PoolError(BeamJobsError):
    """The pool could not be built; no dataset was left."""


def build_pool(
    pool: Path,
    results: Results,
    rules: SelectionRules,
    *,
    held_out: Collection[str] = (),
    frames_per_shard: int = 10_000,
    beam_options: Sequence[str] = (),
) -> PoolDataset:
    """Write the dataset of this archive's frames under `pool/datasets/<name>/`.

    The folder appears whole or not at all. Equal frames give the same name; a dataset that is already
    there, whole and of the same manifest, is kept.

    Args:
        pool: the folder with `a4c/`, the stored frames, and `datasets/`; each dataset's manifest is kept
            under `manifests/` also when its frames are pruned.
        results: where the tables are.
        rules: what a frame must satisfy; those of `PoolRules` that are not said have their defaults.
        held_out: keys of subjects of whom no frame is taken (`labeled_subjects`).
        frames_per_shard: about how many frames a file should have.
        beam_options: passed to Beam as they are.

    Raises:
        SetupError: Beam has no such option.
        ValueError: a subject is held out by something else than its key.
        PoolError: a step failed; the message ends in what it said.
    """
    job = new_pipeline(beam_options)
    build = BuildPool(
        pool / A4C,
        results,
        destination=pool / "datasets" / f"{TEMPORARY_PREFIX}{os.getpid()}",
        rules=PoolRules.extend(rules),
        held_out=pack_texts(sorted(set(held_out))),
        frames_per_shard=frames_per_shard,
    )
    unfinished = build.destination
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with job as pipeline:
            _ = pipeline | build
        manifest = PoolDataset.open(unfinished).manifest
        folder = unfinished.with_name(manifest.name)
        if _manifest_of(folder) != manifest:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    except (RuntimeError, ValueError) as error:
        # Beam makes a RuntimeError of most errors of a step, its traceback in the message.
        raise PoolError(f"the pool could not be built: {str(error).strip().splitlines()[-1]}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _remember(manifest, pool / PAST_MANIFESTS)
    return PoolDataset(folder, manifest)


def labeled_subjects(labels: Iterable[Path]) -> frozenset[str]:
    """Give the keys of all subjects of whom there is a label.

    With the labels that models are validated and tested on, these are the subjects to hold out of the pool.

    Args:
        labels: files of labels, or folders of files (`echo_models.labels`).

    Raises:
        TableError: if labels have faults.
        DatasetError: if there are none.
    """
    return frozenset(label.subject_key for path in labels for label in read_labels(path))


def _remember(manifest: PoolManifest, past: Path) -> None:
    past.mkdir(exist_ok=True)
    unfinished = past / f"{TEMPORARY_PREFIX}{os.getpid()}"
    unfinished.write_text(manifest.to_json())
    unfinished.replace(past / f"{manifest.name}.json")


def _manifest_of(folder: Path) -> PoolManifest | None:
    try:
        return PoolDataset.open(folder).manifest
    except PoolDatasetError:
        return None
