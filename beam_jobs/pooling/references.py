"""References to stored frames, as columns: who, which frame, what digest of pixels. No pixels.

A reference is a row of `DTYPE`. Rows travel in blocks: a block of a few hundred studies takes 20 to 60 bytes
a frame on its way, where an object for each frame took kilobytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS

FRAME_BYTES: Final = FRAME_ROWS * FRAME_COLUMNS

_KEY: Final = "S16"
DTYPE: Final = np.dtype(
    [
        ("subject_key", _KEY),
        ("study_key", _KEY),
        ("instance_key", _KEY),
        ("frame_index", "<u4"),
        ("pixel_digest", _KEY),
        ("machine", "S24"),
    ]
)
"""Keys and digests as 16 bytes, of which the tables have the 32 hexadecimal digits."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))

Key = Literal["subject_key", "study_key", "instance_key", "pixel_digest"]


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """A block of references.

    Attributes:
        rows: [N], `DTYPE`.
    """

    rows: npt.NDArray[np.void]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[Any]) -> Self:
        """Give the rows of a mask or of indexes."""
        return type(self)(self.rows[which])

    @classmethod
    def join(cls, blocks: Iterable[Self]) -> Self:
        """Put blocks together, in the order given."""
        return cls(np.concatenate([np.empty(0, DTYPE), *(block.rows for block in blocks)]))

    def column(self, key: Key) -> npt.NDArray[np.bytes_]:
        """Give a column of keys as 16 bytes each: [N], S16, contiguous."""
        return np.ascontiguousarray(self.rows[key])

    def head(self, key: Key) -> npt.NDArray[np.uint64]:
        """Give the first eight bytes of each key as a number: [N], uint64, in the order of the keys."""
        return np.asarray(self.column(key).view(">u8")[::2], np.uint64)

    def ranks(self) -> npt.NDArray[np.uint64]:
        """Give each frame its rank: of frames that compete, those of the lowest rank are chosen.

        A hash of the frame's own identity, so that a choice depends neither on order nor on the clock, and
        within a study is spread over its clips and over the cycle. The last step of SplitMix64 (Steele, Lea
        & Flood 2014) over the instance's key, itself a keyed hash, and the frame's index.

        Returns:
            [N], uint64, evenly spread.
        """
        mixed: npt.NDArray[np.uint64] = (
            self.head("instance_key") + self.rows["frame_index"].astype(np.uint64) * _GOLDEN
        )
        for shift, factor in _MIX:
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))

    def in_place(self) -> Self:
        """Sort as frames lie in a dataset: by study, instance and frame."""
        return self.take(
            np.lexsort((self.rows["frame_index"], self.rows["instance_key"], self.rows["study_key"]))
        )

    def lowest(self, key: Key, limit: int) -> npt.NDArray[np.bool_]:
        """Mark, of the frames that share a key, at most so many: those of the lowest rank.

        Returns:
            [N], bool; whatever the order of the rows, the same frames.
        """
        if not len(self):
            return np.zeros(0, bool)
        values = self.column(key)
        order = np.lexsort((self.rows["frame_index"], self.rows["instance_key"], self.ranks(), values))
        is_first = np.r_[True, values[order][1:] != values[order][:-1]]
        begins = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
        chosen = np.zeros(len(order), bool)
        chosen[order] = np.arange(len(order)) - begins < limit
        return chosen

    def frame_ids(self) -> npt.NDArray[np.bytes_]:
        """Name each frame among all frames of all studies: [N], S36."""
        return frame_ids(self.column("study_key"), self.column("instance_key"), self.rows["frame_index"])

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        """Let a pickled block be as small as `to_bytes` makes it.

        Beam pickles what it has no coder for. It would look for one by the type, but our pipelines switch the
        checking of types off, and the types with it.
        """
        return type(self).from_bytes, (self.to_bytes(),)

    def to_bytes(self) -> bytes:
        """Give the rows as few bytes: sorted by place, so that repeated keys pack away."""
        packed = self.in_place().rows
        return len(packed).to_bytes(8, "little") + bytes(
            pa.compress(packed.tobytes(), codec="zstd", asbytes=True) if len(packed) else b""
        )

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """Read what `to_bytes` gave."""
        length = int.from_bytes(packed[:8], "little")
        if not length:
            return cls(np.empty(0, DTYPE))
        size = length * DTYPE.itemsize
        return cls(np.frombuffer(pa.decompress(packed[8:], size, codec="zstd", asbytes=True), DTYPE))


def pack_keys(column: pa.Array) -> npt.NDArray[np.bytes_]:
    """Pack a column of keys, 32 hexadecimal digits each, into 16 bytes each: [N], S16.

    Raises:
        ValueError: a key of another form.
    """
    column = column.cast(pa.string())
    if not pc.all(pc.match_substring_regex(column, "^[0-9a-f]{32}$"), min_count=0).as_py():
        raise ValueError("a key must have 32 hexadecimal digits, as in the tables; received one that has not")
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), _KEY)


def pack_texts(keys: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Pack keys that are no column, as `pack_keys` does."""
    return pack_keys(pa.array(keys, pa.string()))


def key_text(packed: bytes) -> str:
    """Give a packed key as the tables have it."""
    return packed.ljust(16, b"\0").hex()  # NumPy strips zeros at the end


def frame_ids(
    study_keys: npt.NDArray[np.bytes_],
    instance_keys: npt.NDArray[np.bytes_],
    frame_indexes: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.bytes_]:
    """Name frames among all frames: [N], S36, of keys [N], S16, and indexes [N] within the instance."""
    named = np.empty(len(study_keys), [("study", _KEY), ("instance", _KEY), ("index", ">u4")])
    named["study"], named["instance"], named["index"] = study_keys, instance_keys, frame_indexes
    return named.view("S36")


def frames_in(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Look at a column of stored frames without copying it.

    Returns:
        [N, 19200], uint8, read only.

    Raises:
        ValueError: frames of another size.
    """
    if column.type != pa.binary(FRAME_BYTES):
        raise ValueError(
            f"a stored frame must have {FRAME_BYTES} bytes (120 x 160), received a column of {column.type}; "
            "the file was not written by this version"
        )
    start = column.offset * FRAME_BYTES
    pixels = np.frombuffer(column.buffers()[1], np.uint8)
    return pixels[start : start + len(column) * FRAME_BYTES].reshape(-1, FRAME_BYTES)


def digest_frames(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """Digest each frame's pixels, so that exact duplicates can be found without keeping them.

    Args:
        frames: [N, 19200], uint8.

    Returns:
        [N], S16; equal pixels, equal digest.
    """
    return np.array([blake2b(frame, digest_size=16).digest() for frame in frames], _KEY)
