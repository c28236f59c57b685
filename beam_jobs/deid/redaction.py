"""Full-size frames without what lies beside the image, for the de-identified archive.

Decoded colour is made black outside the keep-mask. What was lossless stays lossless; a JPEG is
encoded again with its own quantization tables, so that what stays in sight hardly changes; and a
frame in which nothing had to be hidden is not encoded again at all. One decoded frame is in memory
at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from beam_jobs.deid.decoders import SUPPORTED_TRANSFER_SYNTAXES, NativeDecoder, decode_rgb, decoder_of
from beam_jobs.deid.encoders import encode_jpeg, encode_lossless, encode_video_frame, read_jpeg
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.luminance import Samples, Tones, tones_of
from beam_jobs.deid.pixel_format import PixelFormat, read_pixel_format
from beam_jobs.deid.pixels import Mask, find_keep_mask
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import text
from beam_jobs.deid.regions import Box, full_size_mask, read_regions, region_masks
from beam_jobs.deid.segments import strip_segments
from beam_jobs.deid.source import PixelSource, locate_pixels
from beam_jobs.records import Reason

MAX_REDACTED_BYTES: Final = 1 << 31
"""Encoded frames of one instance: they are written as one element, which pydicom wants in memory."""

_YBR: Final = ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422")
_PARTIAL_BLACK: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class RedactedPixels:
    """The pixels of one instance, as they may be released.

    Attributes:
        pixel_data: value of PixelData; encapsulated where the transfer syntax is.
        planar_configuration: None for one sample a pixel.
        is_reencoded: whether anything was hidden, or had to be encoded in another way.
    """

    pixel_data: bytes
    transfer_syntax: UID
    photometric_interpretation: str
    samples_per_pixel: int
    planar_configuration: int | None
    number_of_frames: int
    is_reencoded: bool


def redact(
    ds: Dataset, path: Path | None = None, *, keep: Mask | None = None, hide: Sequence[Box] = ()
) -> RedactedPixels:
    """Hide all but the image in the pixels of an instance.

    Args:
        ds: its header, and its pixels where they are in memory; not changed.
        path: the file its pixels are read from, else the one that the dataset was read from.
        keep: [120, 160], bool, as `find_keep_mask` finds it; None finds it.
        hide: boxes of the full-size screen to hide as well, such as text within the image.

    Raises:
        RejectedError: NO_IMAGE_REGION where nothing looks like an image, TOO_LARGE, or what reading and
            decoding raise. It holds no value of the header.
    """
    reason = Reason.UNREADABLE_HEADER
    try:
        with quiet_pydicom():
            return _redact(ds, path, keep, hide)
    except RejectedError as error:
        reason = error.reason
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    raise RejectedError(reason)


def _redact(ds: Dataset, path: Path | None, keep: Mask | None, hide: Sequence[Box]) -> RedactedPixels:
    syntax = UID(text(ds.file_meta, "TransferSyntaxUID"))
    if syntax not in SUPPORTED_TRANSFER_SYNTAXES:
        raise RejectedError(Reason.UNSUPPORTED_TRANSFER_SYNTAX)
    pixels = read_pixel_format(ds)
    regions = read_regions(ds, pixels.rows, pixels.columns)
    source, tones = locate_pixels(ds, syntax, pixels, path), tones_of(ds, pixels)
    if keep is None:
        keep = find_keep_mask(source, tones, region_masks(regions, pixels.rows, pixels.columns))
    mask = full_size_mask(keep, regions, pixels.rows, pixels.columns)
    for box in hide:
        mask[max(box.top, 0) : box.bottom, max(box.left, 0) : box.right] = False
    return _writer_of(source, tones, mask).write()


class _Writer(ABC):
    """Writes the frames of one instance; each kind of source has its own way.

    Attributes:
        transfer_syntax: of what is written.
        photometric_interpretation: likewise.
        planar_configuration: likewise.
    """

    transfer_syntax: UID
    photometric_interpretation: str
    planar_configuration = 0

    def __init__(self, source: PixelSource, tones: Tones, keep: Mask) -> None:
        self.source = source
        self.pixels = source.pixels
        self.tones = tones
        self.hidden = ~keep
        self.is_reencoded = False
        self.photometric_interpretation = source.pixels.photometric_interpretation

    @abstractmethod
    def frames(self) -> Iterator[bytes]:
        """Give the frames as they may be released."""

    def write(self) -> RedactedPixels:
        """Collect the frames.

        Raises:
            RejectedError: TOO_LARGE.
        """
        frames: list[bytes] = []
        size = 0
        for frame in self.frames():
            frames.append(frame)
            size += len(frame)
            if size > MAX_REDACTED_BYTES:
                raise RejectedError(Reason.TOO_LARGE)
        joined = (
            encapsulate(frames, has_bot=False) if self.transfer_syntax.is_encapsulated else b"".join(frames)
        )
        is_colour = self.photometric_interpretation in {"RGB", *_YBR}
        return RedactedPixels(
            pixel_data=joined + b"\0" * (len(joined) % 2),
            transfer_syntax=self.transfer_syntax,
            photometric_interpretation=self.photometric_interpretation,
            samples_per_pixel=3 if is_colour else 1,
            planar_configuration=self.planar_configuration if is_colour else None,
            number_of_frames=self.pixels.number_of_frames,
            is_reencoded=self.is_reencoded,
        )

    def fill(self, samples: Samples, hidden: Mask, black: npt.NDArray[np.int64]) -> bool:
        """Fill what is hidden; say whether that changed anything."""
        changes = bool((samples[hidden] != black).any())
        if changes:
            samples[hidden] = black
            self.is_reencoded = True
        return changes


class _NativeWriter(_Writer):
    """Native pixels stay as they lie; only their words are turned to little endian."""

    transfer_syntax = ExplicitVRLittleEndian

    def __init__(self, source: PixelSource, tones: Tones, keep: Mask) -> None:
        super().__init__(source, tones, keep)
        self.planar_configuration = int(source.pixels.is_planar and not source.is_subsampled)
        self._decoder = NativeDecoder(source, tones)

    def frames(self) -> Iterator[bytes]:
        black = _black(self.pixels, self.tones, self.photometric_interpretation)
        hidden = self.hidden
        if self.source.is_subsampled:
            # Two pixels share their colour: both go.
            hidden, black = hidden[:, ::2] | hidden[:, 1::2], black[[0, 0, 1, 2]]
        used = (1 << self.pixels.bits_stored) - 1 << self.pixels.high_bit + 1 - self.pixels.bits_stored
        for frame in self.source.frames():
            flat = self._decoder.flat(bytearray(frame))
            if self.pixels.bits_stored < self.pixels.bits_allocated:
                unsigned = flat.view(flat.dtype.str.replace("i", "u"))
                self.is_reencoded |= self._drop_unused(flat, unsigned, used)
            self.fill(self._decoder.arranged(flat), hidden, black)
            yield flat.astype(flat.dtype.newbyteorder("<")).tobytes()

    def _drop_unused(self, flat: Samples, unsigned: Samples, used: int) -> bool:
        """Clear the bits in which old overlays are hidden; a sign goes on through them, as it should."""
        before = unsigned.copy()
        unsigned &= unsigned.dtype.type(used)
        if self.pixels.is_signed and self.pixels.high_bit + 1 == self.pixels.bits_stored:
            sign = 1 << self.pixels.high_bit
            flat[:] = (unsigned.astype(np.int64) ^ sign) - sign
        return not np.array_equal(before, unsigned)


class _JpegWriter(_Writer):
    """JPEG of 8 bits stays JPEG."""

    transfer_syntax = JPEGBaseline8Bit

    def __init__(self, source: PixelSource, tones: Tones, keep: Mask) -> None:
        super().__init__(source, tones, keep)
        self.transfer_syntax = source.transfer_syntax

    def frames(self) -> Iterator[bytes]:
        for place, frame in enumerate(self.source.frames()):
            picture = read_jpeg(frame, self.pixels)
            if place == 0:
                self.photometric_interpretation = picture.photometric_interpretation or (
                    self.photometric_interpretation
                )
            elif picture.photometric_interpretation not in {None, self.photometric_interpretation}:
                raise RejectedError(Reason.UNSUPPORTED_PIXELS)
            black = _black(self.pixels, self.tones, self.photometric_interpretation)
            if self.fill(picture.samples, self.hidden, black):
                yield encode_jpeg(picture)
            else:
                yield strip_segments(frame)


class _LosslessWriter(_Writer):
    """What was RLE stays so; the other codecs' samples, lost or not, are kept as they are by JPEG-LS."""

    transfer_syntax = JPEGLSLossless

    def __init__(self, source: PixelSource, tones: Tones, keep: Mask) -> None:
        super().__init__(source, tones, keep)
        self._is_in_kind = source.transfer_syntax in {RLELossless, JPEGLSLossless}
        if source.transfer_syntax == RLELossless:
            self.transfer_syntax, self.planar_configuration = RLELossless, int(source.pixels.is_planar)

    def frames(self) -> Iterator[bytes]:
        decoder = decoder_of(self.source, self.tones)
        for frame in self.source.frames():
            decoded, self.photometric_interpretation = decoder.samples(frame)
            black = _black(self.pixels, self.tones, self.photometric_interpretation)
            samples = decoded.copy()
            is_changed = self.fill(samples, self.hidden, black)
            if self._is_in_kind and not is_changed:
                yield frame if self.transfer_syntax == RLELossless else strip_segments(frame)
                continue
            self.is_reencoded = True
            yield encode_lossless(samples, self.pixels, self.photometric_interpretation, self.transfer_syntax)


class _VideoWriter(_Writer):
    """A video becomes a JPEG for each frame: nothing else can be cut without the frames around it."""

    transfer_syntax = JPEGBaseline8Bit

    def frames(self) -> Iterator[bytes]:
        self.is_reencoded = True
        self.photometric_interpretation = "YBR_FULL_422"
        for frame in decode_rgb(self.source, self.tones):
            frame[self.hidden] = 0
            yield encode_video_frame(frame)


def _writer_of(source: PixelSource, tones: Tones, keep: Mask) -> _Writer:
    if source.is_video:
        return _VideoWriter(source, tones, keep)
    if not source.is_encapsulated:
        return _NativeWriter(source, tones, keep)
    is_jpeg = source.is_jpeg and source.pixels.bits_allocated == 8
    return (_JpegWriter if is_jpeg else _LosslessWriter)(source, tones, keep)


def _black(pixels: PixelFormat, tones: Tones, photometric_interpretation: str) -> npt.NDArray[np.int64]:
    """Give the stored value of black: [3] for colour, else [1]; of a palette the darkest entry."""
    if photometric_interpretation == "RGB":
        return np.zeros(3, np.int64)
    if photometric_interpretation in _YBR:
        # All zeros would be green.
        y = _PARTIAL_BLACK if photometric_interpretation == "YBR_PARTIAL_422" else 0
        return np.array([y << pixels.bits_stored - 8 if y else 0, *[1 << pixels.bits_stored - 1] * 2])
    lowest, highest = 0, (1 << pixels.bits_stored) - 1
    if pixels.is_signed:
        lowest, highest = -(1 << pixels.bits_stored - 1), (1 << pixels.bits_stored - 1) - 1
    stored = np.arange(lowest, highest + 1)
    return stored[[tones.luminance(stored, photometric_interpretation).argmin()]]
