import io
import json
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from echo_models.bundle import load_bundle, load_bundle_cached, write_bundle
from echo_models.errors import BundleError
from echo_models.manifest import CARD, MANIFEST, MODEL, Interval, read_manifest, verify
from echo_models.networks import (
    build_discriminator,
    build_discriminator_classifier,
    build_ensemble,
    build_unet,
    build_view_classifier,
)
from echo_models.views import VIEWS
from tests.toy import TOY_PRESET, write_toy_bundle

FRAMES = np.random.default_rng(0).integers(0, 256, (19, 120, 160), np.uint8)


@pytest.mark.parametrize(
    ("task", "shape"), [("fov", (120, 160)), ("lv", (120, 160)), ("view", (15,)), ("lvh", ())]
)
def test_each_task_gives_probabilities_of_its_shape(
    tmp_path: Path, task: str, shape: tuple[int, ...]
) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / task, task))
    predictions = bundle.predict(FRAMES)
    assert predictions.shape == (19, *shape)
    assert predictions.dtype == np.float32
    assert ((predictions >= 0) & (predictions <= 1)).all()
    assert bundle.predict(FRAMES[:0]).shape == (0, *shape)
    assert bundle.name == f"{task}-toy"


def test_a_prediction_does_not_depend_on_its_neighbours_in_the_batch(tmp_path: Path) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / "view", "view"))
    together = bundle.predict(FRAMES)
    alone = np.concatenate([bundle.predict(FRAMES[n : n + 1], batch_size=4) for n in range(len(FRAMES))])
    assert np.allclose(together, alone, atol=1e-5)


def test_any_thread_may_predict(tmp_path: Path) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / "lvh", "lvh"))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(bundle.predict, [FRAMES] * 8))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX runs one prediction at a time")
def test_threads_predict_side_by_side(tmp_path: Path) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / "lvh", "lvh"))
    predict, both = bundle.model.predict_on_batch, threading.Barrier(2, timeout=60)

    def meet(inputs: np.ndarray) -> Any:
        both.wait()
        return predict(inputs)

    bundle.model.predict_on_batch = meet
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(bundle.predict, [FRAMES[:4]] * 2))) == 2


def test_one_shape_is_compiled_whatever_the_number_of_frames(tmp_path: Path) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / "fov", "fov"))
    shapes = set()
    predict = bundle.model.predict_on_batch

    def look(inputs: np.ndarray) -> Any:
        shapes.add(inputs.shape)
        return predict(inputs)

    bundle.model.predict_on_batch = look
    for count in (0, 1, 3, 16, 19):
        bundle.predict(FRAMES[:count])
    assert shapes == {(16, 120, 160, 1)}


def test_frames_are_brought_to_the_size_of_the_network(tmp_path: Path) -> None:
    model = build_discriminator_classifier(build_discriminator(TOY_PRESET, 2))
    folder = write_bundle(
        tmp_path / "gan",
        model,
        task="lvh",
        version="gan",
        classes=("normal", "lvh"),
        mask="fov",
        training={},
        metrics={},
        card="",
        float16=False,
    )
    bundle = load_bundle(folder)
    assert (bundle.manifest.rows, bundle.manifest.columns, bundle.manifest.mask) == (110, 110, "fov")
    assert bundle.predict(FRAMES).shape == (19,)


@pytest.mark.parametrize(("dtype", "batch_size"), [(np.float32, 16), (np.uint8, 0)])
def test_prediction_refuses_other_frames_and_batches(tmp_path: Path, dtype: type, batch_size: int) -> None:
    bundle = load_bundle(write_toy_bundle(tmp_path / "lvh", "lvh"))
    with pytest.raises(ValueError, match="must be"):
        bundle.predict(FRAMES.astype(dtype), batch_size)


def write(folder: Path, model: keras.Model, **changes: object) -> Path:
    contract = {
        "task": "fov",
        "version": "v1",
        "classes": ("outside", "inside"),
        "mask": "none",
        "training": {"seed": 3},
        "metrics": {"dice": Interval(value=0.9, low=0.8, high=1.0, n=5, control=0.85)},
        "card": "# Card\n",
    }
    return write_bundle(folder, model, **(contract | changes))  # type: ignore[arg-type]


def test_float16_halves_the_file_and_hardly_changes_the_answer(tmp_path: Path) -> None:
    model = build_unet(TOY_PRESET)
    half = write(tmp_path / "half", model)
    full = write(tmp_path / "full", model, float16=False)
    assert (half / MODEL).stat().st_size < (full / MODEL).stat().st_size
    exact = load_bundle(full).predict(FRAMES)
    assert np.allclose(load_bundle(half).predict(FRAMES), exact, atol=0.01)
    assert np.allclose(
        exact, model.predict(FRAMES[..., None].astype("float32") / 255, verbose=0)[..., 1], atol=1e-5
    )


def test_what_the_optimizer_remembers_is_left_behind(tmp_path: Path) -> None:
    members = [build_view_classifier(TOY_PRESET, name=f"member_{n}") for n in range(2)]
    fresh = build_ensemble(members)
    for member in members:
        member.compile("adam", "sparse_categorical_crossentropy")
        member.train_on_batch(np.zeros((4, 120, 160, 1), np.float32), np.zeros(4))
    folder = write(tmp_path / "bundle", fresh, task="view", classes=VIEWS, mask="fov")
    with zipfile.ZipFile(folder / MODEL) as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    stored: list[int] = []
    weights.visititems(lambda _, item: stored.append(item.size) if isinstance(item, h5py.Dataset) else None)
    state = sum(int(np.prod(weight.shape)) for member in members for weight in member.non_trainable_variables)
    assert sum(stored) <= fresh.count_params() + state
    assert load_bundle(folder).predict(FRAMES[:1]).shape == (1, 15)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = build_unet(TOY_PRESET)
    first, again = write(tmp_path / "first", model), write(tmp_path / "again", model)
    for name in (MODEL, MANIFEST, CARD):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_the_manifest_says_what_was_written(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "bundle", build_unet(TOY_PRESET)))
    assert manifest.name == "fov-v1"
    assert manifest.classes == ("outside", "inside")
    assert str(manifest.metrics["dice"]) == "0.900 (0.800 to 1.000, n = 5; control 0.850)"
    assert set(manifest.files) == {MODEL, CARD}


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    model = build_unet(TOY_PRESET)
    write(tmp_path / "bundle", model)
    with pytest.raises(BundleError, match="empty folder"):
        write(tmp_path / "bundle", model)


@pytest.mark.parametrize(
    "changes",
    [{"task": "view", "classes": VIEWS}, {"version": "../up"}, {"mask": "all"}, {"classes": ("one",)}],
)
def test_a_bundle_against_its_contract_is_not_written(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        write(tmp_path / "bundle", build_unet(TOY_PRESET), **changes)
    assert not (tmp_path / "bundle" / MANIFEST).exists()


@pytest.mark.parametrize("name", [MODEL, CARD])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [MODEL, CARD, MANIFEST])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    (folder / name).unlink()
    with pytest.raises(BundleError):
        verify(folder)
    if name == MANIFEST:
        with pytest.raises(BundleError, match="has none"):
            load_bundle_cached(folder)


def test_a_file_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    (folder / "notes.txt").write_text("added")
    with pytest.raises(BundleError, match="exactly"):
        verify(folder)


@pytest.mark.parametrize("change", [{"format": 2}, {"rows": 0}, {"surprise": 1}, {"task": "spleen"}])
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    contract = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(contract | change))
    with pytest.raises(BundleError, match="does not describe a bundle"):
        load_bundle(folder)


def test_a_model_that_does_not_fit_its_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "fov", "fov")
    contract = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(contract | {"rows": 60}))
    with pytest.raises(BundleError, match="promises input"):
        load_bundle(folder)


def test_a_bundle_is_loaded_once_a_process(tmp_path: Path) -> None:
    first = load_bundle_cached(write_toy_bundle(tmp_path / "a", "lvh", seed=5))
    again = load_bundle_cached(shutil.copytree(tmp_path / "a", tmp_path / "b"))
    other = load_bundle_cached(write_toy_bundle(tmp_path / "c", "lvh", seed=6))
    assert first is again
    assert other is not first
