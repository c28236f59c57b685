"""Frames to label, and frames that labels speak of: Parquet, .npz, or a folder of pictures.

    *.parquet   columns subject_key, instance_key, frame_index, frame (120 x 160 bytes): the stored frames of
                a site (`pool/a4c`), and what `echobeam frames` writes; a file or a folder of them
    *.npz       `frames` [N, 120, 160] uint8, as `echobeam phantom frames` writes; `subjects` if there
    a folder    <subject>/<instance>_<frame index>.png, of any size and 4 : 3

Keys are read at once, frames when they are asked for.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from echo_models.errors import DatasetError
from echo_models.labels import FrameKey
from echo_models.preprocessing import COLUMNS, ROWS, shrink

_KEYS: Final = ("subject_key", "instance_key", "frame_index")
_PICTURE: Final = re.compile(r"(?P<instance>.+)_(?P<index>\d+)\.png", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FrameRef:
    """A frame by its keys."""

    subject_key: str
    instance_key: str
    frame_index: int

    @property
    def frame_key(self) -> FrameKey:
        """Name the frame."""
        return self.instance_key, self.frame_index


class FrameSet:
    """Frames in a fixed order: sorted by subject, instance and index.

    Attributes:
        refs: the keys of each.
    """

    def __init__(self, refs: Sequence[FrameRef], load: Callable[[int], npt.NDArray[np.uint8]]) -> None:
        self._order = sorted(
            range(len(refs)), key=lambda n: (refs[n].subject_key, refs[n].instance_key, refs[n].frame_index)
        )
        self.refs = [refs[n] for n in self._order]
        self._load = load

    def __len__(self) -> int:
        return len(self.refs)

    def frame(self, number: int) -> npt.NDArray[np.uint8]:
        """Give a frame: [120, 160], uint8."""
        return self._load(self._order[number])


def open_frames(path: Path) -> FrameSet:
    """Open frames.

    Raises:
        DatasetError: if there are none, they are in none of the three shapes, or a frame is there twice.
    """
    if path.suffix == ".npz":
        frames = _open_npz(path)
    elif path.suffix == ".parquet":
        frames = _open_parquet([path])
    elif shards := sorted(path.rglob("*.parquet")):
        frames = _open_parquet(shards)
    else:
        frames = _open_pictures(path)
    if not len(frames):
        raise DatasetError(
            "frames are .parquet, .npz, or <subject>/<instance>_<frame index>.png in a folder; "
            f"{path} holds none"
        )
    if len({ref.frame_key for ref in frames.refs}) < len(frames):
        raise DatasetError(f"{path}: a frame must have keys of its own; some are there twice")
    return frames


def _open_npz(path: Path) -> FrameSet:
    try:
        with np.load(path) as stored:
            frames = stored["frames"]
            subjects = stored["subjects"] if "subjects" in stored else np.zeros(len(frames), np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} must be an .npz that holds `frames`") from error
    if frames.dtype != np.uint8 or frames.shape[1:] != (ROWS, COLUMNS) or len(subjects) != len(frames):
        raise DatasetError(
            f"{path}: `frames` must be uint8 [N, {ROWS}, {COLUMNS}] with N `subjects`; received "
            f"{frames.dtype} {list(frames.shape)} with {len(subjects)}"
        )
    refs = [FrameRef(f"{path.stem}-{subject}", path.stem, number) for number, subject in enumerate(subjects)]
    return FrameSet(refs, lambda number: np.asarray(frames[number]))


def _open_parquet(shards: Sequence[Path]) -> FrameSet:
    refs: list[FrameRef] = []
    groups: list[tuple[Path, int, int]] = []  # of each row group: file, number, first row
    for shard in shards:
        try:
            with pq.ParquetFile(shard) as file:
                missing = {*_KEYS, "frame"} - set(file.schema_arrow.names)
                if missing:
                    raise DatasetError(f"{shard}: expected columns {sorted(missing)}; there are none")
                for group in range(file.num_row_groups):
                    groups.append((shard, group, len(refs)))
                    rows = file.read_row_group(group, columns=list(_KEYS)).to_pylist()
                    refs += [FrameRef(*(row[key] for key in _KEYS)) for row in rows]
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{shard} must be a Parquet file that can be read") from error
    return FrameSet(refs, _RowGroups(groups).frame)


class _RowGroups:
    """Reads frames of Parquet files; the last row group that was read stays in memory."""

    def __init__(self, groups: Sequence[tuple[Path, int, int]]) -> None:
        self._groups = groups
        self._starts = np.array([start for _, _, start in groups])
        self._read: tuple[int, pa.ChunkedArray] | None = None

    def frame(self, number: int) -> npt.NDArray[np.uint8]:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        shard, group, start = self._groups[which]
        if self._read is None or self._read[0] != which:
            with pq.ParquetFile(shard) as file:
                self._read = which, file.read_row_group(group, columns=["frame"]).column("frame")
        pixels = self._read[1][number - start].as_py()
        if pixels is None or len(pixels) != ROWS * COLUMNS:
            raise DatasetError(
                f"{shard}, row {number - start + 1} of group {group}, column frame: "
                f"expected {ROWS} x {COLUMNS} bytes"
            )
        return np.frombuffer(pixels, np.uint8).reshape(ROWS, COLUMNS)


def _open_pictures(folder: Path) -> FrameSet:
    refs, paths = [], []
    for path in sorted(folder.glob("*/*.png")):
        match = _PICTURE.fullmatch(path.name)
        if match is None:
            raise DatasetError(f"{path}: a picture is named <instance>_<frame index>.png")
        refs.append(FrameRef(path.parent.name, match["instance"], int(match["index"])))
        paths.append(path)
    return FrameSet(refs, lambda number: _read_picture(paths[number]))


def _read_picture(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return shrink(np.asarray(image.convert("L")))
    except OSError as error:
        raise DatasetError(f"{path} must be a picture that can be read; {type(error).__name__}") from error


def frames_by_key(
    frames: FrameSet, keys: Sequence[FrameKey]
) -> Iterator[tuple[FrameRef, npt.NDArray[np.uint8]]]:
    """Give the frames of these keys, in the set's order.

    Raises:
        DatasetError: if the set has no such frame.
    """
    wanted = set(keys)
    missing = wanted - {ref.frame_key for ref in frames.refs}
    if missing:
        raise DatasetError(
            f"labels must speak of frames that are there; {len(missing)} of {len(wanted)} do not"
        )
    for number, ref in enumerate(frames.refs):
        if ref.frame_key in wanted:
            yield ref, frames.frame(number)
