"""What bfloat16 would bring in inference: speed beside float32, and whether the labels stay.

A processor must have instructions for it (`avx512_bf16`, `amx_bf16`), else TensorFlow computes by way of
float32 and is slower; the flags that Linux tells are looked at. Where they are missing the speed is not
measured, and the row says so. Whether the labels stay does not depend on the processor and is measured
everywhere: the bundles that ship, their layers made to compute in bfloat16, on frames of a phantom of every
view. A label is the view of a frame, "unknown" left out of account; or on which side of one half a pixel or
a probability lies.

    python -m benchmarks.bfloat16 [--quick] [--json] [--anyway]
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
import structlog

from benchmarks.rounds import Aim, Row, Spread, in_turn, parser_of, quietly, ratios, tell
from echo_models.bundle import load_bundle
from echo_models.manifest import TASKS
from echo_models.phantom import generate_frames
from echo_models.preprocessing import apply_mask, to_input
from echo_models.registry import Registry
from echo_models.rounding import FLAGS, flags_here, in_bfloat16

BATCH: Final = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    subjects: int
    frames_per_clip: int
    rounds: int


QUICK: Final = Size(subjects=1, frames_per_clip=1, rounds=1)
FULL: Final = Size(subjects=8, frames_per_clip=4, rounds=7)


def labels_of(task: str, outputs: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Decide by probabilities: the view of each frame, or on which side of one half the others lie."""
    return outputs.argmax(axis=1) if task == "view" else outputs[..., -1] >= 0.5


def phantom_frames(size: Size) -> npt.NDArray[np.uint8]:
    """Draw frames of every view, masked by their true field of view: [N, 120, 160], uint8."""
    clips = generate_frames(seed=77, subjects=size.subjects, frames_per_clip=size.frames_per_clip)
    return np.concatenate(
        [apply_mask(clip.frames, np.broadcast_to(clip.fov_mask, clip.frames.shape).copy()) for clip in clips]
    )


def measure(size: Size, *, is_timed: bool) -> Iterator[Row]:
    """Compare each bundle with itself in bfloat16."""
    inputs = to_input(phantom_frames(size))
    with TemporaryDirectory(prefix="echobeam-bfloat16-") as folder:
        registry = Registry(Path(folder))
        registry.install_shipped()
        for task in TASKS:
            exact = load_bundle(registry.resolve(task)).model
            rounded = in_bfloat16(exact)
            same = labels_of(task, _predict(exact, inputs)) == labels_of(task, _predict(rounded, inputs))
            share = float(same.mean())
            yield Row(
                f"bfloat16, {task}: share of labels that are the same",
                "float32",
                Spread(share, share, share),
                aim=Aim(0.999),
                note=f"{same.size:,} labels of {len(inputs)} synthetic frames",
            )
            if is_timed:
                times = in_turn(
                    {"float32": _asking(exact, inputs), "bfloat16": _asking(rounded, inputs)}, size.rounds
                )
                yield Row(
                    f"bfloat16, {task}: speed",
                    "float32",
                    ratios(times["float32"], times["bfloat16"]),
                    aim=Aim(1.7),
                    note=f"{len(inputs)} frames, batches of {BATCH}, {size.rounds} rounds",
                )


def _asking(model: keras.Model, inputs: npt.NDArray[np.float32]) -> Callable[[], object]:
    return lambda: _predict(model, inputs)


def _predict(model: keras.Model, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Ask in batches of one shape: [N, ...], float32."""
    padding = -len(inputs) % BATCH
    padded = np.pad(inputs, [(0, padding), *[(0, 0)] * (inputs.ndim - 1)])
    parts = [
        np.asarray(model.predict_on_batch(padded[start : start + BATCH]), np.float32)
        for start in range(0, len(padded), BATCH)
    ]
    return np.concatenate(parts)[: len(inputs)]


def main() -> None:
    """Measure and tell."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--anyway", action="store_true", help="measure the speed where the processor lacks the instructions"
    )
    options = parser.parse_args()
    quietly()
    flags = flags_here()
    rows = []
    if not flags:
        _log.warning("bfloat16_not_available", expected=sorted(FLAGS), computing_in="float32")
        rows.append(
            Row(
                "bfloat16: speed",
                "float32",
                None,
                aim=Aim(1.7),
                note=f"not available on this processor: it has none of {', '.join(sorted(FLAGS))}",
            )
        )
    size = QUICK if options.quick else FULL
    rows += measure(size, is_timed=bool(flags) or options.anyway)
    tell(rows, options)


if __name__ == "__main__":
    main()
