"""EchoNet-Dynamic: apical four-chamber videos with traced left ventricles (Ouyang et al., Nature 2020).

    FileList.csv          FileName without .avi, EF, Split in upper case, …
    VolumeTracings.csv    FileName with .avi, X1, Y1, X2, Y2, Frame
    Videos/*.avi          112 x 112

The traced frames are loaded, and the first of a video without tracings. A tracing is a list of chords
across the ventricle from apex to base; its first row is the long axis and no chord. It goes along the
endocardium. Each video is of another patient.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from echo_models.errors import DatasetError
from echo_models.loaders.videos import read_frames
from echo_models.outlines import polygon_mask
from echo_models.sources import TEST, TRAIN, VALIDATION, Collector, Source, to_screen
from echo_models.tables import Row, read_table
from echo_models.views import A4C

_CLIPS: Final = (
    "FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split",
)  # fmt: skip
_TRACINGS: Final = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
_PARTS: Final = {"TRAIN": TRAIN, "VAL": VALIDATION, "TEST": TEST}


def load(folder: Path) -> Source:
    """Load the traced frames.

    Raises:
        DatasetError: if a file is absent or cannot be decoded.
        TableError: if a table has a fault.
    """
    collector = Collector("echonet-dynamic")
    tracings = _read_tracings(folder / "VolumeTracings.csv")
    for row in read_table(folder / "FileList.csv", _CLIPS):
        name, part = row.text("FileName").removesuffix(".avi"), row.choice_of("Split", _PARTS)
        video = folder / "Videos" / f"{name}.avi"
        if not video.exists():
            raise DatasetError(f"{row.file}, row {row.number}, column FileName: {video} is not there")
        traced = tracings.get(name, {})
        for index, frame in read_frames(video, traced.keys() or {0}).items():
            lv_mask = _mask(traced[index], *frame.shape) if traced else None
            collector.add(
                to_screen(frame),
                subject=name,
                view=A4C,
                lv_mask=None if lv_mask is None else to_screen(lv_mask),
                part=part,
            )
    return collector.finish(
        lv_border="endocardium", notes=("left ventricles are traced along the endocardium",)
    )


def _read_tracings(file: Path) -> dict[str, dict[int, list[Row]]]:
    """Give the rows of each traced frame, by video and index."""
    tracings: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in read_table(file, _TRACINGS):
        tracings[row.text("FileName").removesuffix(".avi")][row.index_of("Frame")].append(row)
    return tracings


def _mask(rows: Sequence[Row], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Fill the outline that the ends of the chords make: [H, W], bool."""
    chords = rows[1:]  # the first is the long axis
    if len(chords) < 2:
        raise rows[0].fault(
            "Frame", f"expected a long axis and two chords or more; received {len(rows)} rows"
        )
    there = [(row.number_of("X1"), row.number_of("Y1")) for row in chords]
    back = [(row.number_of("X2"), row.number_of("Y2")) for row in reversed(chords)]
    return polygon_mask([*there, *back], height, width)
