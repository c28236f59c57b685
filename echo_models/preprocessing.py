"""From grey frames to what a network reads: the same functions in training and in inference."""

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

ROWS: Final = 120
COLUMNS: Final = 160
"""The resolution the paper settled on (Methods, "resolution study")."""

Sample = TypeVar("Sample", bound=np.generic)


def nearest_positions(size: int, target: int) -> npt.NDArray[np.intp]:
    """Name the samples that nearest-neighbour sampling keeps along one axis.

    The centre of each target pixel falls on the sample that is kept, as Pillow's `NEAREST` has it.

    Args:
        size: samples there are.
        target: samples to keep; may be more than there are.

    Returns:
        [target], indices in 0..size-1, not decreasing.

    Raises:
        ValueError: if a size is not positive.
    """
    if size < 1 or target < 1:
        raise ValueError(f"sizes must be positive; received {size} samples and {target} wanted")
    return (np.arange(target) * 2 + 1) * size // (2 * target)


def shrink(frames: npt.NDArray[Sample], rows: int = ROWS, columns: int = COLUMNS) -> npt.NDArray[Sample]:
    """Sample frames to another size by nearest neighbour (paper, Methods).

    Args:
        frames: [..., H, W], any dtype: masks and probabilities may be given as well.
        rows: wanted H.
        columns: wanted W.

    Returns:
        [..., rows, columns], same dtype; the array itself where the size is right already.
    """
    height, width = frames.shape[-2:]
    if (height, width) == (rows, columns):
        return frames
    row_positions = nearest_positions(height, rows)[:, None]
    return frames[..., row_positions, nearest_positions(width, columns)]


def apply_mask(frames: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Blacken what is outside a mask (paper, Methods, "Field of view").

    Args:
        frames: [N, H, W], uint8.
        masks: [N, H, W] or [H, W], bool, True is kept.

    Returns:
        [N, H, W], uint8, a new array.

    Raises:
        ValueError: if a mask is not of the frames' size.
    """
    if masks.shape not in (frames.shape, frames.shape[-2:]):
        raise ValueError(
            f"masks must be {list(frames.shape)} or {list(frames.shape[-2:])}; received {list(masks.shape)}"
        )
    return np.where(masks, frames, np.uint8(0))


def to_input(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turn grey frames into what every network of this package reads.

    Args:
        frames: [N, H, W], uint8, 0 is black.

    Returns:
        [N, H, W, 1], float32, 0 to 1.

    Raises:
        ValueError: if frames are not uint8 of rank 3.
    """
    if frames.dtype != np.uint8 or frames.ndim != 3:
        raise ValueError(f"frames must be uint8 [N, H, W]; received {frames.dtype} {list(frames.shape)}")
    return frames[..., None].astype(np.float32) / np.float32(255)
