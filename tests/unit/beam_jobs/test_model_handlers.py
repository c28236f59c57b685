import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from beam_jobs import model_handlers
from beam_jobs.inference import a4c_indexes
from beam_jobs.model_handlers import (
    WAITING_FRAMES,
    FieldOfViewModelHandler,
    HypertrophyModelHandler,
    LeftVentricleModelHandler,
    ViewModelHandler,
)
from beam_jobs.records import Chunk, ClassifiedChunk, OutlinedChunk
from echo_models.views import VIEWS
from tests.bright import publish_bright, write_bright_registry
from tests.unit.beam_jobs.predictions import HEADER, placement

HANDLERS = (ViewModelHandler, LeftVentricleModelHandler, HypertrophyModelHandler)


def clip(frames: int) -> Chunk:
    return Chunk(**known(frames))


def classified(frames: int, view: str) -> ClassifiedChunk:
    return ClassifiedChunk(**known(frames), **viewed(frames, view))


def outlined(frames: int, view: str) -> OutlinedChunk:
    views = viewed(frames, view)
    indexes = a4c_indexes(views["view_probabilities"], views["view_known"])
    masks = np.ones((len(indexes), 120, 160), np.bool_)
    return OutlinedChunk(**known(frames), **views, a4c_indexes=indexes, lv_masks=masks, lv_model="lv-1")


def known(frames: int) -> dict[str, Any]:
    return {
        "placement": placement("i"),
        "header": replace(HEADER, number_of_frames=frames),
        "first_frame_index": 0,
        "frames": np.zeros((frames, 120, 160), np.uint8),
        "parts": 1,
        "frame_times_ms": np.full(frames, 33.3),
    }


def viewed(frames: int, view: str) -> dict[str, Any]:
    probabilities = np.zeros((frames, len(VIEWS)), np.float32)
    probabilities[:, VIEWS.index(view)] = 1
    return {
        "fov_masks": np.ones((1, 120, 160), np.bool_),
        "fov_model": "fov-1",
        "view_probabilities": probabilities,
        "view_known": np.ones(frames, np.bool_),
        "view_model": "view-1",
    }


def test_batches_are_counted_in_frames_and_no_chunk_is_larger_than_one() -> None:
    kwargs = ViewModelHandler(Path("m"), batch_size=4).batch_elements_kwargs()
    size, most = kwargs["element_size_fn"], 4 * ViewModelHandler.calls
    assert kwargs["min_batch_size"] == kwargs["max_batch_size"] == most
    assert size(clip(7)) == 7
    assert size(clip(most + 1)) == most


def test_a_network_that_is_asked_about_few_frames_waits_for_a_full_call() -> None:
    kwargs = FieldOfViewModelHandler(Path("m"), frames_per_clip=3, batch_size=4).batch_elements_kwargs()
    assert kwargs["max_batch_size"] == 4
    assert [kwargs["element_size_fn"](clip(frames)) for frames in (1, 2, 3, 100)] == [1, 2, 3, 3]
    every_frame = FieldOfViewModelHandler(Path("m"), frames_per_clip=None, batch_size=4)
    assert every_frame.batch_elements_kwargs()["element_size_fn"](clip(3)) == 3


def test_what_a_network_is_not_asked_about_does_not_wait_without_end() -> None:
    handler = LeftVentricleModelHandler(Path("m"), batch_size=4)
    kwargs = handler.batch_elements_kwargs()
    size = kwargs["element_size_fn"]
    nothing_asked = [classified(frames=32, view="plax")] * (WAITING_FRAMES // 32)
    assert sum(map(size, nothing_asked)) == kwargs["max_batch_size"]
    assert size(classified(frames=16, view="a4c")) == 16


def test_hypertrophy_is_counted_in_the_frames_that_tell_of_it() -> None:
    size = HypertrophyModelHandler(Path("m"), batch_size=4).batch_elements_kwargs()["element_size_fn"]
    assert [size(outlined(frames=8, view=view)) for view in ("a4c", "plax")] == [2, 1]


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


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_a_network_computes_in_bfloat16_only_where_the_processor_does(
    has_bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Mock()
    monkeypatch.setattr(model_handlers, "_log", log)
    monkeypatch.setattr(model_handlers, "computes_bfloat16", lambda: has_bfloat16)
    model_handlers._has_bfloat16.cache_clear()
    root = write_bright_registry(tmp_path / "models").root
    handlers = [ViewModelHandler(root, batch_size=4, precision="bfloat16") for _ in range(2)]
    rounded, again = (handler.load_model() for handler in handlers)
    model_handlers._has_bfloat16.cache_clear()
    assert again is rounded
    exact = ViewModelHandler(root, batch_size=4).load_model()
    assert (rounded is exact) is not has_bfloat16
    computed_in = {layer.compute_dtype for layer in rounded.model.layers}
    assert ("bfloat16" in computed_in) is has_bfloat16
    assert log.warning.call_count == (0 if has_bfloat16 else 1)
