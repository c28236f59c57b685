"""Single frames out of the videos of public sets (PyAV, of the extra `labeling`)."""

from collections.abc import Collection
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from echo_models.errors import DatasetError


def read_frames(path: Path, wanted: Collection[int]) -> dict[int, npt.NDArray[np.uint8]]:
    """Decode some frames of a video.

    Args:
        path: of the video.
        wanted: indices, from 0.

    Returns:
        by index: [H, W], uint8, grey.

    Raises:
        DatasetError: if the video is absent, cannot be decoded, or has too few frames.
    """
    found: dict[int, npt.NDArray[np.uint8]] = {}
    last, number = max(wanted), -1
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = np.asarray(frame.to_ndarray(format="gray"), np.uint8)
                if number == last:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise DatasetError(f"{path} must be a video that can be decoded; {type(error).__name__}") from error
    if len(found) < len(wanted):
        raise DatasetError(f"{path} must have {last + 1} frames as its table says; it has {number + 1}")
    return found
