"""The models say and learn the same on JAX as on TensorFlow.

`make test-jax` runs every test of the models on JAX; here is a part of them that takes a minute.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from echo_models.bundle import load_bundle
from echo_models.registry import SHIPPED

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4
"""Of a probability: float32 sums in another order differ by less."""

PREDICT = """
import json, sys
from pathlib import Path
import keras
import numpy as np
from echo_models.bundle import load_bundle
frames, folders, out = np.load(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
np.savez(out, **{name: load_bundle(Path(folder)).predict(frames) for name, folder in folders.items()})
print(keras.backend.backend())
"""

A_PART = (
    "test_training.py::test_one_batch_can_be_learned_by_heart",
    "test_gan.py::test_a_budget_bounds_the_steps_of_an_epoch",
    "test_gan.py::test_losses_agree_with_their_formulas",
    "test_bundle.py::test_frames_are_brought_to_the_size_of_the_network",
)


def on_jax(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # A few steps are over before optimizing them would pay.
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="compares TensorFlow with JAX")
def test_the_shipped_models_say_the_same_on_both_backends(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    folders = {task: next((SHIPPED / task).glob("*/")) for task in ("fov", "view", "lv", "lvh")}
    told = json.dumps({task: str(folder) for task, folder in folders.items()})
    done = on_jax("-c", PREDICT, str(tmp_path / "frames.npy"), told, str(tmp_path / "jax.npz"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["jax"]
    with np.load(tmp_path / "jax.npz") as theirs:
        for task, folder in folders.items():
            ours = load_bundle(folder).predict(frames)
            assert np.abs(ours - theirs[task]).max() < TOLERANCE, task


def test_networks_learn_on_jax() -> None:
    tests = [f"tests/unit/echo_models/{test}" for test in A_PART]
    done = on_jax("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout
    assert f"{len(A_PART)} passed" in done.stdout
