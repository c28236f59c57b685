import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs.model_handlers import (
    CALLS_PER_BATCH,
    FieldOfViewModelHandler,
    HypertrophyModelHandler,
    LeftVentricleModelHandler,
    ViewModelHandler,
)
from beam_jobs.records import Chunk
from tests.bright import publish_bright, write_bright_registry
from tests.unit.beam_jobs.predictions import HEADER, placement

HANDLERS = (ViewModelHandler, LeftVentricleModelHandler, HypertrophyModelHandler)


def clip(frames: int) -> Chunk:
    return Chunk(
        placement("i"),
        HEADER,
        0,
        np.zeros((frames, 120, 160), np.uint8),
        1,
        frame_times_ms=np.full(frames, 33.3),
    )


def test_batches_are_counted_in_frames_and_no_chunk_is_larger_than_one() -> None:
    kwargs = ViewModelHandler(Path("m"), batch_size=4).batch_elements_kwargs()
    size = kwargs["element_size_fn"]
    assert kwargs["min_batch_size"] == kwargs["max_batch_size"] == 4 * CALLS_PER_BATCH
    assert size(clip(7)) == 7
    assert size(clip(4 * CALLS_PER_BATCH + 1)) == 4 * CALLS_PER_BATCH


def test_bytes_are_counted_without_pickling_the_batch() -> None:
    handler = FieldOfViewModelHandler(Path("m"), frames_per_clip=3, batch_size=4)
    assert handler.get_num_bytes([clip(2), clip(3)]) == 5 * 120 * 160


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_pickled_handler_holds_no_model(handler: Any) -> None:
    made = handler(Path("m"), batch_size=4)
    assert len(pickle.dumps(made)) < 1000


def test_a_handler_loads_what_is_in_production_and_loads_it_once(tmp_path: Path) -> None:
    registry = write_bright_registry(tmp_path / "models")
    handler = ViewModelHandler(registry.root, batch_size=4)
    first = handler.load_model()
    assert first.manifest.name == "view-bright"
    assert handler.load_model() is first
    publish_bright(registry, "view", "newer", tmp_path / "bundles", always="plax")
    assert handler.load_model().manifest.name == "view-newer"
    registry.rollback("view")
    assert handler.load_model() is first
