"""The time of each frame, from whichever element of the header says it."""

from typing import Any

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword

from beam_jobs.deid.timing import read_frame_times
from beam_jobs.frames import flatten_frames
from tests.made_files import clean, header, instance, speckle_cine

VECTOR = tag_for_keyword("FrameTimeVector")
STEP = tag_for_keyword("FrameTime")


def times(number_of_frames: int = 4, **elements: Any) -> list[float]:
    found = read_frame_times(header(**elements), number_of_frames).between(0, number_of_frames)
    return [round(float(step), 3) for step in found]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"FrameTime": 33.333}, [33.333] * 4),
        # Entry i of a vector is the time from frame i - 1 to frame i; the last frame stays as long.
        ({"FrameTimeVector": [0, 30, 40, 50]}, [30, 40, 50, 50]),
        ({"FrameTimeVector": [0, 30, 40, 50, 60, 70]}, [30, 40, 50, 50]),  # of more frames than there are
        ({"FrameTimeVector": [0, 30, 40]}, [35] * 4),  # of too few: only their mean is known
        ({"FrameTimeVector": [0, 30, 40, 50], "FrameTime": 33}, [33] * 4),
        ({"FrameTimeVector": [0, 30, 40, 50], "FrameTime": 33, "FrameIncrementPointer": STEP}, [33] * 4),
        (
            {"FrameTimeVector": [0, 30, 40, 50], "FrameTime": 33, "FrameIncrementPointer": VECTOR},
            [30, 40, 50, 50],
        ),
        ({"FrameTime": 33, "FrameIncrementPointer": VECTOR}, [33] * 4),
        ({"CineRate": 25}, [40] * 4),
        ({"FrameTime": 0, "CineRate": 25}, [40] * 4),
        ({"FrameTimeVector": [0, 0, 0, 0], "CineRate": 25}, [40] * 4),
        ({"RecommendedDisplayFrameRate": 50}, [20] * 4),
    ],
)
def test_each_frame_has_its_time(elements: dict[str, Any], expected: list[float]) -> None:
    assert times(**elements) == expected


@pytest.mark.parametrize("elements", [{}, {"FrameTime": -3}, {"FrameTime": 1e9}, {"CineRate": 0}])
def test_a_time_that_is_not_said_is_not_known(elements: dict[str, Any]) -> None:
    assert np.isnan(times(**elements)).all()


def test_a_step_that_makes_no_sense_is_not_known_and_the_others_are() -> None:
    found = times(FrameTimeVector=[0, 30, -1, 50])
    assert (found[0], found[2]) == (30, 50)
    assert np.isnan(found[1])


def test_a_still_has_no_time() -> None:
    assert np.isnan(times(1, FrameTime=33.3)).all()


def test_chunks_carry_the_time_of_each_of_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.frames.CHUNK_FRAMES", 3)
    ds = instance(speckle_cine(5), FrameTimeVector=[0, 10, 20, 30, 40])
    chunks = list(flatten_frames(clean(ds)))
    assert [chunk.frame_times_ms.tolist() for chunk in chunks] == [[10, 20, 30], [40, 40]]
    assert chunks[0].header.frame_time_ms == 25
