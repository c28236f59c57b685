"""The `README.md` of a dataset: what it holds, why, and how to read it."""

from typing import Final

from beam_jobs.pool_dataset import PoolManifest
from beam_jobs.schemas import A4C_SCHEMA

_WORDS: Final = """# Unlabeled pool {name}

{frames} apical four-chamber frames of {studies} studies of {subjects} subjects, de-identified, for training
without labels. Chosen by `echobeam` from {candidates} stored frames. The view is a model's word, not a
person's. Research use only.

Equal inputs and rules give equal files; the name is made of the fingerprint, a digest of every frame's
identity and pixels: `{fingerprint}`.

## What was left out

A frame is counted under the first rule that dropped it. {held_out_subjects} subjects were held out by name,
because their labeled frames judge models.

| rule | frames |
|---|---|
{dropped}

The rules had these values; `none` is no cap.

| setting | value |
|---|---|
{rules}

## Frames by machine

A machine is the maker of the scanner, as the tables name it.

| machine | frames |
|---|---|
{machines}

## Files

{shards} Parquet files, sorted by study, instance and frame index; no study is in two of them. `manifest.json`
lists them, and whose frames there are, so that an erasure finds every pool that a subject was in.

| column | what | unit |
|---|---|---|
{columns}

```python
from glob import glob

import numpy as np
import pyarrow.dataset as ds

for batch in ds.dataset(sorted(glob("frames-*.parquet"))).to_batches(columns=["frame"]):
    frames = np.frombuffer(b"".join(batch["frame"].to_pylist()), np.uint8).reshape(-1, 120, 160)
```
"""


def describe(manifest: PoolManifest) -> str:
    """Write what a dataset is, in Markdown; equal manifests give equal text."""

    def rows(values: dict[str, int] | dict[str, float | None]) -> str:
        return "\n".join(
            f"| {name} | {'none' if value is None else f'{value:,}'} |" for name, value in values.items()
        )

    columns = "\n".join(
        f"| `{field.name}` | {field.metadata[b'description'].decode()} | {field.metadata[b'unit'].decode()} |"
        for field in A4C_SCHEMA
    )
    return _WORDS.format(
        name=manifest.name,
        **{
            name: f"{getattr(manifest, name):,}"
            for name in ("frames", "studies", "subjects", "candidates", "held_out_subjects")
        },
        fingerprint=manifest.fingerprint,
        dropped=rows(manifest.dropped),
        rules=rows(manifest.rules),
        machines=rows(manifest.machines),
        shards=len(manifest.shards),
        columns=columns,
    )
