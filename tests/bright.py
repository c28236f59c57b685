"""Models whose answers are known: bright clips are apical four chamber, dark ones parasternal.

The masks come from pixels too: the field of view is what is not black, the ventricle what is bright.
Hypertrophy is likelier the brighter the ventricle. So every path of the pipeline is taken, and what it
must say of a clip can be told from the clip.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from echo_models.bundle import write_bundle
from echo_models.manifest import Mask
from echo_models.registry import Registry
from echo_models.views import VIEWS

BRIGHT, DARK = 200, 60
"""Grey levels of the two kinds of clips."""

_A4C, _PLAX = VIEWS.index("a4c"), VIEWS.index("plax")


def write_bright_registry(path: Path) -> Registry:
    """Make a registry with a model of each task in production."""
    registry = Registry(path)
    for task in ("fov", "view", "lv", "lvh"):
        publish_bright(registry, task, "bright", path.parent / "bright-bundles")
    return registry


def publish_bright(
    registry: Registry,
    task: str,
    version: str,
    scratch: Path,
    *,
    always: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Publish and promote one model.

    Args:
        always: a view that the view model names whatever it sees.
        training: what the bundle says of its training.
    """
    classes: tuple[str, ...]
    mask: Mask
    match task:
        case "fov":
            model, classes, mask = _threshold(0.05), ("outside", "inside"), "none"
        case "lv":
            model, classes, mask = _threshold(0.6), ("outside", "inside"), "fov"
        case "view":
            model, classes, mask = _by_mean(_view_kernel(always)), VIEWS, "fov"
        case _:
            weights = (np.array([[-2.0, 2.0]]), np.array([1.0, -1.0]))
            model, classes, mask = _by_mean(weights), ("normal", "lvh"), "lv"
    folder = write_bundle(
        scratch / f"{task}-{version}",
        model,
        task=task,
        version=version,
        classes=classes,
        mask=mask,
        training=dict(training or {}),
        metrics={},
        card="# Made for tests\n",
    )
    registry.publish(folder, now=0.0)
    registry.promote(task, version, reason="test", now=0.0)


def _view_kernel(always: str | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kernel, bias = np.zeros((1, len(VIEWS))), np.full(len(VIEWS), -5.0)
    if always is not None:
        bias[VIEWS.index(always)] = 5.0
        return kernel, bias
    kernel[0, _A4C], bias[_A4C] = 40.0, -20.0
    bias[_PLAX] = 0.0
    return kernel, bias


def _by_mean(weights: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> keras.Model:
    kernel, bias = weights
    frames = keras.Input((120, 160, 1))
    # The brightest pixel of many tells the kind of clip, however much of the frame is masked.
    brightest = keras.layers.GlobalMaxPooling2D()(keras.layers.AveragePooling2D(5)(frames))
    outputs = keras.layers.Dense(kernel.shape[1], activation="softmax")
    model = keras.Model(frames, outputs(brightest))
    outputs.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return model


def _threshold(level: float) -> keras.Model:
    frames = keras.Input((120, 160, 1))
    outputs = keras.layers.Conv2D(2, 1, activation="softmax")
    model = keras.Model(frames, outputs(frames))
    kernel = np.array([[[[-100.0, 100.0]]]], np.float32)
    outputs.set_weights([kernel, np.array([100.0 * level, -100.0 * level], np.float32)])
    return model
