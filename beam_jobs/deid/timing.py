"""When the frames of a clip were taken, relative to each other (PS3.3 C.7.6.5, cine module)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from beam_jobs.deid.reading import number, value

SLOWEST_FRAME_MS: Final = 10_000.0
"""A longer step is no cine: it is a pause, a unit mistaken, or nonsense."""

_VECTOR_TAG: Final = tag_for_keyword("FrameTimeVector")

Steps = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FrameTimes:
    """The time from each frame of an instance to the next.

    Attributes:
        usual_ms: of a clip of even steps the step, else their mean; None where unknown, or a still.
        steps_ms: [number of frames], float64, NaN where one is unknown; None where all are alike.
    """

    usual_ms: float | None
    steps_ms: Steps | None = None

    def between(self, first: int, count: int) -> Steps:
        """Give the times of `count` frames from frame `first` on.

        Returns:
            [count], float64, milliseconds from a frame to the next, NaN where unknown. The last
            frame of a clip is taken to stay as long as the one before it.
        """
        if self.steps_ms is not None:
            return self.steps_ms[first : first + count].copy()
        return np.full(count, np.nan if self.usual_ms is None else self.usual_ms)


def read_frame_times(ds: Dataset, number_of_frames: int) -> FrameTimes:
    """Read the times of a clip: said for each frame, said for all, or from a rate.

    `FrameIncrementPointer` names the element that holds; where that one makes no sense, or none is
    named, the others are asked: `FrameTime`, `FrameTimeVector`, `CineRate`,
    `RecommendedDisplayFrameRate`.

    Args:
        ds: as `read_instance` or `pydicom.dcmread` gives it.
        number_of_frames: as the header declares it; a still has no times.
    """
    if number_of_frames == 1:
        return FrameTimes(None)
    step_ms, vector = _believable(number(ds, "FrameTime")), _vector(ds, number_of_frames)
    if vector is not None and (step_ms is None or value(ds, "FrameIncrementPointer") == _VECTOR_TAG):
        return vector
    rates = (number(ds, "CineRate"), number(ds, "RecommendedDisplayFrameRate"))
    by_rate = (_believable(1000.0 / rate if rate else None) for rate in rates)
    return FrameTimes(next((found for found in (step_ms, *by_rate) if found is not None), None))


def _believable(milliseconds: float | None) -> float | None:
    return milliseconds if milliseconds is not None and 0.0 < milliseconds <= SLOWEST_FRAME_MS else None


def _vector(ds: Dataset, number_of_frames: int) -> FrameTimes | None:
    """Read `FrameTimeVector`, in which entry i is the time from frame i - 1 to frame i, the first 0."""
    written = value(ds, "FrameTimeVector")
    if isinstance(written, str) or not isinstance(written, Sequence):
        return None
    try:
        steps = np.array([float(step) for step in written[1:number_of_frames]])
    except (TypeError, ValueError):
        return None
    steps[~((steps > 0.0) & (steps <= SLOWEST_FRAME_MS))] = np.nan
    if not np.isfinite(steps).any():
        return None
    usual_ms = float(np.nanmean(steps))
    if len(steps) < number_of_frames - 1:
        # It does not say which frames it is about: their mean is all that is known.
        return FrameTimes(usual_ms)
    return FrameTimes(usual_ms, np.append(steps, steps[-1]))
