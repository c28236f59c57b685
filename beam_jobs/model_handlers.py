"""Beam's model handlers: each resolves the production bundle of its task and calls a plain function.

A handler is pickled with the folder of the registry, never with a model. It resolves the alias when a
pipeline starts, so a promoted version works from the next batch on; the process keeps loaded bundles
by their digest, so nothing is loaded twice.

Batches are counted in frames, not in chunks. A chunk counts at most as much as a whole batch: Beam
would put an empty batch before a larger one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from apache_beam.ml.inference.base import ModelHandler

from beam_jobs.inference import (
    classify_hypertrophy,
    classify_views,
    segment_field_of_view,
    segment_left_ventricle,
)
from beam_jobs.records import (
    AssessedChunk,
    Chunk,
    ClassifiedChunk,
    EndDiastole,
    OutlinedChunk,
    SegmentedChunk,
)
from echo_models.bundle import Bundle, load_bundle_cached
from echo_models.registry import Registry

CALLS_PER_BATCH: Final = 16
"""Frames gathered for a step, in calls of its network: the last call, which is padded, matters little."""


class _BundleModelHandler(ModelHandler):
    """What the four handlers share.

    Args:
        models: folder of the registry.
        batch_size: frames in one call of the network.
    """

    task: ClassVar[str]

    def __init__(self, models: Path, *, batch_size: int) -> None:
        super().__init__()
        self._models = str(models)
        self._batch_size = batch_size

    def load_model(self) -> Bundle:
        """Load what is in production now, unless the process has it."""
        return load_bundle_cached(Registry(Path(self._models)).resolve(self.task))

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Let `BatchElements` gather chunks until they hold so many frames."""
        frames = CALLS_PER_BATCH * self._batch_size
        return {
            "min_batch_size": frames,
            "max_batch_size": frames,
            "element_size_fn": lambda chunk: min(len(chunk.frames), frames),
        }

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
        batch_size: frames in one call of the network.
    """

    task = "fov"

    def __init__(self, models: Path, *, frames_per_clip: int | None, batch_size: int) -> None:
        super().__init__(models, batch_size=batch_size)
        self._frames_per_clip = frames_per_clip

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

    def run_inference(
        self, batch: Sequence[SegmentedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[ClassifiedChunk]:
        """Name the view of every frame."""
        return classify_views(batch, model, batch_size=self._batch_size)


class LeftVentricleModelHandler(_BundleModelHandler):
    """Turns a `ClassifiedChunk` into an `OutlinedChunk`."""

    task = "lv"

    def run_inference(
        self, batch: Sequence[ClassifiedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[OutlinedChunk]:
        """Outline the left ventricle where the view is apical four chamber."""
        return segment_left_ventricle(batch, model, batch_size=self._batch_size)


class HypertrophyModelHandler(_BundleModelHandler):
    """Turns an `OutlinedChunk` into an `AssessedChunk`.

    Args:
        models: folder of the registry.
        batch_size: frames in one call of the network.
        end_diastole: which frames of a clip are assessed.
    """

    task = "lvh"

    def __init__(self, models: Path, *, batch_size: int, end_diastole: EndDiastole = "first_frames") -> None:
        super().__init__(models, batch_size=batch_size)
        self._end_diastole = end_diastole

    def run_inference(
        self, batch: Sequence[OutlinedChunk], model: Bundle, inference_args: dict[str, Any] | None = None
    ) -> list[AssessedChunk]:
        """Estimate hypertrophy from the end-diastolic frames of apical four-chamber clips."""
        return classify_hypertrophy(
            batch, model, batch_size=self._batch_size, end_diastole=self._end_diastole
        )
