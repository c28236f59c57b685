"""Bundles: a trained model in a folder, with its contract, and what runs it.

A folder holds `model.keras`, `bundle.json` and `MODEL_CARD.md`. Weights may be stored as float16:
Keras loads them into float32 variables.
"""

import io
import json
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import keras
import numpy as np
import numpy.typing as npt

from echo_models.backend import has_gpu
from echo_models.errors import BundleError
from echo_models.manifest import (
    CARD,
    MANIFEST,
    MODEL,
    REFERENCE,
    Interval,
    Manifest,
    Mask,
    sha256_of,
    verify,
    write_manifest,
)
from echo_models.open_set import Reference, read_reference, with_features
from echo_models.preprocessing import shrink, to_input
from echo_models.rounding import in_bfloat16
from echo_models.temperature import temper

_RUNS_SIDE_BY_SIDE: Final = keras.backend.backend() == "tensorflow"
"""Whether threads may run one compiled function at once; on JAX Keras hands a model's state around."""

CPU_BATCH: Final = 16
"""On a CPU larger batches are no faster (measured: 8 to 64), and fewer padded frames are wasted."""

_CACHED_BUNDLES: Final = 8
"""Two versions of each task: enough for a change of models, and memory stays flat for weeks."""

_EPOCH_OF_ZIP: Final = (1980, 1, 1, 0, 0, 0)


def frames_per_call(batch_size: int) -> int:
    """Say how many frames a network is given at a time, where so many are allowed."""
    return batch_size if has_gpu() else min(batch_size, CPU_BATCH)


class Prediction(NamedTuple):
    """What a bundle says of frames.

    Attributes:
        probabilities: float32, calibrated if the bundle is. Tasks "fov" and "lv": of inside, [N, H, W];
            "view": [N, K] in the order of the manifest's classes; "lvh": of hypertrophy, [N].
        known: [N], bool, False where a frame is like none of the classes; all True of a bundle that has
            no open-set score.
    """

    probabilities: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]


class Outputs(NamedTuple):
    """What a classifier gives before any calibration.

    Attributes:
        probabilities: [N, K], float32, as its last layer gives them.
        features: [N, M, D], float32: what each of M members of an ensemble rests its logits on.
    """

    probabilities: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


class Bundle:
    """A loaded model that keeps its contract. Any thread may use it.

    Attributes:
        manifest: what it reads and gives.
        folder: where it was loaded from.
        model: the Keras model itself, for training to start from.
        reference: what features of known classes look like; None without an open-set score.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, model: keras.Model, reference: Reference | None = None
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self.model = model
        self.reference = reference
        self._featured: keras.Model | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name task and version, as the tables have it."""
        return self.manifest.name

    def predict(self, frames: npt.NDArray[np.uint8], batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Give the probabilities of `predict_known`.

        Raises:
            ValueError: if frames are not uint8 of rank 3, or batch_size is not positive.
        """
        return self.predict_known(frames, batch_size).probabilities

    def predict_known(self, frames: npt.NDArray[np.uint8], batch_size: int = 64) -> Prediction:
        """Run the model on frames; they are brought to its size, and masks back to theirs.

        Args:
            frames: [N, H, W], uint8, masked as the manifest says. N may be 0.
            batch_size: the most frames at a time; every batch is padded to one shape, so that the
                model is compiled once. Always give the same.

        Raises:
            ValueError: if frames are not uint8 of rank 3, or batch_size is not positive.
        """
        calibration = self.manifest.calibration
        known = np.ones(len(frames), np.bool_)
        if self.reference is not None and calibration is not None and calibration.open_set is not None:
            probabilities, features = self.examine(frames, batch_size)
            known = self.reference.score(features) >= calibration.open_set.threshold
        else:
            probabilities = self.uncalibrated(frames, batch_size)
        if calibration is not None:
            probabilities = temper(probabilities, calibration.temperature)
        return Prediction(self._as_promised(probabilities, *frames.shape[1:]), known)

    def uncalibrated(self, frames: npt.NDArray[np.uint8], batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Run the model on frames and give [N, ...] as its last layer does.

        Raises:
            ValueError: as `predict_known`.
        """
        (outputs,) = self._run(self.model, frames, batch_size)
        return outputs

    def examine(self, frames: npt.NDArray[np.uint8], batch_size: int = 64) -> Outputs:
        """Run a classifier on frames and give what calibration is fitted on.

        Raises:
            ValueError: as `predict_known`.
            BundleError: if the network has no features.
        """
        with self._lock:
            if self._featured is None:
                self._featured = with_features(self.model)
        probabilities, *features = self._run(self._featured, frames, batch_size)
        return Outputs(probabilities, np.stack(features, axis=1))

    def _run(
        self, model: keras.Model, frames: npt.NDArray[np.uint8], batch_size: int
    ) -> list[npt.NDArray[np.float32]]:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive; received {batch_size}")
        batch_size = frames_per_call(batch_size)
        inputs = to_input(shrink(frames, self.manifest.rows, self.manifest.columns))
        # Nothing is given as one empty batch: its result has the shape that is promised.
        parts = [
            self._run_padded(model, inputs[start : start + batch_size], batch_size)
            for start in range(0, max(len(inputs), 1), batch_size)
        ]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _run_padded(
        self, model: keras.Model, inputs: npt.NDArray[np.float32], size: int
    ) -> list[npt.NDArray[np.float32]]:
        padded = np.zeros((size, *inputs.shape[1:]), np.float32)
        padded[: len(inputs)] = inputs
        with self._lock:  # Keras builds its compiled function on first use and guards that with nothing
            model.make_predict_function()
        with nullcontext() if _RUNS_SIDE_BY_SIDE else self._lock:
            outputs = model.predict_on_batch(padded)
        parts = outputs if isinstance(outputs, list) else [outputs]
        return [np.asarray(part, np.float32)[: len(inputs)] for part in parts]

    def _as_promised(
        self, outputs: npt.NDArray[np.float32], rows: int, columns: int
    ) -> npt.NDArray[np.float32]:
        match self.manifest.task:
            case "fov" | "lv":
                return shrink(outputs[..., 1], rows, columns)
            case "lvh":
                return outputs[:, -1]
            case _:
                return outputs


def write_bundle(
    folder: Path,
    model: keras.Model,
    *,
    task: str,
    version: str,
    classes: Sequence[str],
    mask: Mask,
    training: Mapping[str, Any],
    metrics: Mapping[str, Interval],
    card: str,
    float16: bool = True,
) -> Path:
    """Write a bundle; the same model gives the same bytes.

    Args:
        folder: the bundle's own folder; made, and must be empty.
        model: reads [N, rows, columns, 1] as `to_input` gives it. Gives [N, rows, columns, 2] for
            "fov" and "lv", [N, K] for "view", [N, 1] or [N, 2] for "lvh"; probabilities.
        task: one of `echo_models.manifest.TASKS`.
        version: unique within the task; letters, digits, dot, dash and underscore.
        classes: in the order of the output; for a mask, outside and inside.
        mask: what frames must be masked by before they are given.
        training: what it takes to train it again; must be JSON.
        metrics: by name, on held-out frames.
        card: text of the model card, Markdown.
        float16: halve the file; weights lose digits beyond the third.

    Returns:
        the folder.

    Raises:
        BundleError: if the folder is not empty, the model does not fit the task, or the manifest
            would not be valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BundleError(
            f"a bundle is written into an empty folder; {folder} is not. Choose another version"
        )
    _, rows, columns, _ = model.input_shape
    _check_output(task, model.output_shape, (rows, columns), len(classes))
    (folder / MODEL).write_bytes(_portable(model, float16=float16))
    (folder / CARD).write_text(card, encoding="utf-8")
    contract = {
        "task": task,
        "version": version,
        "classes": list(classes),
        "rows": rows,
        "columns": columns,
        "mask": mask,
        "training": dict(training),
        "metrics": {name: interval.model_dump() for name, interval in metrics.items()},
        "files": {name: sha256_of(folder / name) for name in (CARD, MODEL)},
    }
    try:
        manifest = Manifest.model_validate(contract)
    except ValueError as error:
        raise BundleError(f"bundle {task} {version} would not be valid: {error}") from error
    write_manifest(folder, manifest)  # last: a folder without it is no bundle
    return folder


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle after checking every digest.

    Raises:
        BundleError: if a file is missing or altered, or the model does not fit its manifest.
    """
    manifest = verify(folder)
    model = keras.models.load_model(folder / MODEL, compile=False)
    if model.input_shape[1:] != (manifest.rows, manifest.columns, 1):
        raise BundleError(
            f"bundle {folder} promises input [N, {manifest.rows}, {manifest.columns}, 1]; "
            f"its model reads {list(model.input_shape)}"
        )
    _check_output(manifest.task, model.output_shape, (manifest.rows, manifest.columns), len(manifest.classes))
    reference = read_reference(folder / REFERENCE) if REFERENCE in manifest.files else None
    return Bundle(manifest, folder, model, reference)


_cache: OrderedDict[tuple[str, bool], Bundle] = OrderedDict()
_cache_lock = threading.Lock()


def load_bundle_cached(folder: Path, *, is_rounded: bool = False) -> Bundle:
    """Load a bundle once per process, known by its content; the rarest used of many are let go.

    Args:
        folder: of the bundle.
        is_rounded: whether it is to compute in bfloat16.

    Raises:
        BundleError: as `load_bundle`.
    """
    try:
        key = sha256_of(folder / MANIFEST), is_rounded
    except FileNotFoundError as error:
        raise BundleError(f"a bundle has a {MANIFEST}; {folder} has none") from error
    with _cache_lock:
        if key not in _cache:
            bundle = load_bundle(folder)
            if is_rounded:
                bundle = Bundle(bundle.manifest, folder, in_bfloat16(bundle.model), bundle.reference)
            _cache[key] = bundle
            if len(_cache) > _CACHED_BUNDLES:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]


def _check_output(task: str, output: tuple[int | None, ...], size: tuple[int, int], classes: int) -> None:
    wanted = {"fov": (*size, 2), "lv": (*size, 2), "view": (classes,), "lvh": (1,)}.get(task)
    if output[1:] != wanted and not (task == "lvh" and output[1:] == (2,)):
        raise BundleError(f"a model for {task!r} must give [N, *{wanted}]; received {list(output)}")


def _portable(model: keras.Model, *, float16: bool) -> bytes:
    """Save a model as a `.keras` archive that is the same for the same weights."""
    portable = io.BytesIO()
    # A clone: the members of an ensemble would be saved with what their optimizers remember.
    bare = keras.models.clone_model(model)
    bare.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as scratch:
        keras.saving.save_model(bare, Path(scratch) / MODEL)
        saved = (Path(scratch) / MODEL).read_bytes()
    with (
        zipfile.ZipFile(io.BytesIO(saved)) as source,
        zipfile.ZipFile(portable, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"date_saved": ""}).encode()
            elif name.endswith(".h5") and float16:
                content = _half(content)
            target.writestr(zipfile.ZipInfo(name, _EPOCH_OF_ZIP), content, zipfile.ZIP_DEFLATED)
    return portable.getvalue()


def _half(weights: bytes) -> bytes:
    """Rewrite an HDF5 file with its float32 arrays as float16."""
    halved = io.BytesIO()
    with h5py.File(io.BytesIO(weights)) as source, h5py.File(halved, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                array = item[()]
                array = array.astype(np.float16) if array.dtype == np.float32 else array
                copied = target.create_dataset(name, data=array)
            else:
                copied = target.require_group(name)
            copied.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    return halved.getvalue()
