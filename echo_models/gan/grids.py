"""Generated frames as a picture, from the same noise at each epoch (paper, generated frames by epoch)."""

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from PIL import Image

GAP_PX = 2
"""Between frames, grey."""


def fixed_noise(noise: int, classes: int, columns: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw noise to look at a generator with: [classes * columns, noise], a row of one class each."""
    gaussian = np.random.default_rng(seed).standard_normal((classes * columns, noise - classes))
    of_class = np.repeat(np.eye(classes), columns, axis=0)
    return np.concatenate([of_class, gaussian], axis=1).astype(np.float32)


def draw_frames(generator: keras.Model, noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Generate frames: [N, H, W, 1], float32, -1 to 1."""
    return np.asarray(generator.predict_on_batch(noise), np.float32)


def tile(frames: npt.NDArray[np.float32], columns: int) -> Image.Image:
    """Lay generated frames out in rows.

    Args:
        frames: [N, H, W, 1], float32, -1 to 1.
        columns: frames of a row.
    """
    grey = np.clip((frames[..., 0] + 1) * 127.5, 0, 255).astype(np.uint8)
    padded = np.pad(grey, ((0, 0), (0, GAP_PX), (0, GAP_PX)), constant_values=128)
    rows = [np.hstack(list(padded[start : start + columns])) for start in range(0, len(padded), columns)]
    return Image.fromarray(np.vstack(rows))


def save_grid(folder: Path, epoch: int, frames: npt.NDArray[np.float32], columns: int) -> Path:
    """Write `epoch_NNNN.png` into a folder and give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch_{epoch:04d}.png"
    tile(frames, columns).save(path, optimize=True)
    return path
