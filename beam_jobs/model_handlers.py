"""Beam's model handlers: each resolves the production bundle of its task and calls a plain function.

A handler is pickled with the folder of the registry, never with a model. It resolves the alias when a
pipeline starts, so a promoted version works from the next batch on; the process keeps loaded bundles
by their digest, so nothing is loaded twice.

Batches are counted in what the network is asked about, not in chunks: of one clip a network may see three
frames, of another all. So each call but the last of a batch is full, and a network that is asked little
waits for more clips rather than run on padding. How many frames may wait for that is bounded.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from apache_beam.ml.inference.base import ModelHandler

from beam_jobs.inference import (
    a4c_indexes,
    classify_hypertrophy,
    classify_views,
    hypertrophy_indexes,
    segment_field_of_view,
    segment_left_ventricle,
)
from beam_jobs.records import (
    AssessedChunk,
    Chunk,
    ClassifiedChunk,
    EndDiastole,
    OutlinedChunk,
    Precision,
    SegmentedChunk,
)
from echo_models.bundle import Bundle, frames_per_call, load_bundle_cached
from echo_models.registry import Registry
from echo_models.rounding import FLAGS, computes_bfloat16

WAITING_FRAMES: Final = 1024
"""Frames that may wait for one step, some 20 MB; where calls are large, those of `WAITING_CALLS`."""

WAITING_CALLS: Final = 16

_log = structlog.get_logger(__name__)


def load_network(models: Path, task: str, precision: Precision) -> Bundle:
    """Load what is in production for a task, in bfloat16 if that is wanted and this machine has it."""
    is_rounded = precision == "bfloat16" and _has_bfloat16()
    return load_bundle_cached(Registry(models).resolve(task), is_rounded=is_rounded)


@functools.cache
def _has_bfloat16() -> bool:
    """Say whether this machine computes in bfloat16; if not, warn, once in a process."""
    if computes_bfloat16():
        return True
    _log.warning("bfloat16_not_available", expected=sorted(FLAGS), computing_in="float32")
    return False


class _BundleModelHandler(ModelHandler, ABC):
    """What the four handlers share.

    Args:
        models: folder of the registry.
        batch_size: the most frames in one call of the network.
        precision: what the network computes in.
    """

    task: ClassVar[str]
    calls: ClassVar[int]
    """Calls of the network that a batch is gathered for: few enough that decoding goes on meanwhile, and so
    many that the last one, which is padded, matters little."""

    def __init__(self, models: Path, *, batch_size: int, precision: Precision = "float32") -> None:
        super().__init__()
        self._models = str(models)
        self._batch_size = batch_size
        self._precision = precision

    def load_model(self) -> Bundle:
        """Load what is in production now, unless the process has it."""
        return load_network(Path(self._models), self.task, self._precision)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Let `BatchElements` gather chunks until their network has enough to do, or too many wait."""
        call = frames_per_call(self._batch_size)
        most, waiting = self.calls * call, max(WAITING_FRAMES, WAITING_CALLS * call)

        def size(chunk: Any) -> int:
            share = -(-len(chunk.frames) * most // waiting)
            # Beam would put an empty batch before a chunk larger than a whole one.
            return min(max(self.asked(chunk), share), most)

        return {"min_batch_size": most, "max_batch_size": most, "element_size_fn": size}

    @abstractmethod
    def asked(self, chunk: Any) -> int:
        """Count the frames of a chunk that the network is asked about."""

    def get_num_bytes(self, batch: Sequence[Chunk]) -> int:
        """Count the pixels; the base class would pickle the batch to count its bytes."""
        return sum(chunk.frames.nbytes for chunk in batch)

    def get_metrics_namespace(self) -> str:
        """Name Beam's own metrics of this step."""
        return f"echobeam_{self.task}"


class FieldOfViewModelHandler(_BundleModelHandler):
    """Turns a `Chunk` into a `SegmentedChunk`.

    Args:
        models: folder of the registry.
        frames_per_clip: frames of a chunk to segment; None for all.
        others: as every handler.
    """

    task = "fov"
    calls = 1

    def __init__(self, models: Path, *, frames_per_clip: int | None, **others: Any) -> None:
        super().__init__(models, **others)
        self._frames_per_clip = frames_per_clip

    def asked(self, chunk: Chunk) -> int:
        """Count the frames in which the field of view is looked for."""
        return min(len(chunk.frames), self._frames_per_clip or len(chunk.frames))

    def run_inference(
        self, batch: Sequence[Chunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[SegmentedChunk]:
        """Find the field of view of each chunk."""
        return segment_field_of_view(
            batch, model, frames_per_clip=self._frames_per_clip, batch_size=self._batch_size
        )


class ViewModelHandler(_BundleModelHandler):
    """Turns a `SegmentedChunk` into a `ClassifiedChunk`."""

    task = "view"
    calls = 16

    def asked(self, chunk: SegmentedChunk) -> int:
        """Count all."""
        return len(chunk.frames)

    def run_inference(
        self, batch: Sequence[SegmentedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[ClassifiedChunk]:
        """Name the view of every frame."""
        return classify_views(batch, model, batch_size=self._batch_size)


class LeftVentricleModelHandler(_BundleModelHandler):
    """Turns a `ClassifiedChunk` into an `OutlinedChunk`."""

    task = "lv"
    calls = 8

    def asked(self, chunk: ClassifiedChunk) -> int:
        """Count the apical four-chamber frames."""
        return len(a4c_indexes(chunk.view_probabilities, chunk.view_known))

    def run_inference(
        self, batch: Sequence[ClassifiedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[OutlinedChunk]:
        """Outline the left ventricle where the view is apical four chamber."""
        return segment_left_ventricle(batch, model, batch_size=self._batch_size)


class HypertrophyModelHandler(_BundleModelHandler):
    """Turns an `OutlinedChunk` into an `AssessedChunk`.

    Args:
        models: folder of the registry.
        end_diastole: which frames of a clip are assessed.
        others: as every handler.
    """

    task = "lvh"
    calls = 1

    def __init__(self, models: Path, *, end_diastole: EndDiastole = "first_frames", **others: Any) -> None:
        super().__init__(models, **others)
        self._end_diastole = end_diastole

    def asked(self, chunk: OutlinedChunk) -> int:
        """Count the frames that tell of hypertrophy."""
        return len(hypertrophy_indexes(chunk, self._end_diastole))

    def run_inference(
        self, batch: Sequence[OutlinedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[AssessedChunk]:
        """Estimate hypertrophy from the end-diastolic frames of apical four-chamber clips."""
        return classify_hypertrophy(
            batch, model, batch_size=self._batch_size, end_diastole=self._end_diastole
        )
