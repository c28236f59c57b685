"""From encoded frames to luminance at the size of a clean frame, or to colour at full size.

At most one decoded frame of full size is in memory: native pixels are sampled as they lie, JPEG is
decoded by libjpeg-turbo straight to grey, video by FFmpeg frame after frame, and the rest goes
through the codecs of `frame_codecs`.
"""

from collections.abc import Collection, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from beam_jobs.deid.codestream import is_deep_jpeg, read_frame_size
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.frame_codecs import CODEC_TRANSFER_SYNTAXES, decode_twelve_bits, samples_decoder_of
from beam_jobs.deid.luminance import Samples, Tones, rgb_to_luminance
from beam_jobs.deid.pixel_format import PixelFormat, used_bits
from beam_jobs.deid.source import JPEG_TRANSFER_SYNTAXES, VIDEO_TRANSFER_SYNTAXES, PixelSource
from beam_jobs.deid.video import decode_video
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, Reason
from echo_models.preprocessing import nearest_positions

Grey = npt.NDArray[np.uint8]
Rgb = npt.NDArray[np.uint8]

_NATIVE: Final = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})

SUPPORTED_TRANSFER_SYNTAXES: Final = (
    _NATIVE | JPEG_TRANSFER_SYNTAXES | CODEC_TRANSFER_SYNTAXES | VIDEO_TRANSFER_SYNTAXES
)
"""JPEG XL, JPEG 2000 Part 2, HTJ2K, deflated and hierarchical syntaxes are not among them: they are
refused by name, before a byte of their pixels is read."""


class FrameDecoder(Protocol):
    """Decodes the frames of one instance.

    Each method raises RejectedError: CORRUPT_PIXELS, or UNSUPPORTED_PIXELS for what a codec cannot.
    """

    def grey(self, frame: bytes) -> Grey:
        """Decode to luminance: [120, 160], uint8, by nearest neighbour."""

    def rgb(self, frame: bytes) -> Rgb:
        """Decode to colour: [H, W, 3], uint8, full size."""

    def samples(self, frame: bytes) -> tuple[Samples, str]:
        """Decode to what is stored: [H, W] or [H, W, 3], and its photometric interpretation."""


def decode_grey(source: PixelSource, tones: Tones, places: Collection[int] | None = None) -> Iterator[Grey]:
    """Decode to luminance at the size of a clean frame.

    Args:
        source: as `locate_pixels` gives it; its transfer syntax is a supported one.
        tones: as `tones_of` gives it.
        places: which frames, in their order; None for all.

    Yields:
        [120, 160], uint8.

    Raises:
        RejectedError: CORRUPT_PIXELS, UNSUPPORTED_PIXELS, TRUNCATED_PIXELS, NO_VIDEO_DECODER.
    """
    if source.is_video:
        sampling = _Sampling(source.pixels)
        for frame in decode_video(source, places):
            yield rgb_to_luminance(sampling(frame))
        return
    decoder = decoder_of(source, tones)
    for encoded in source.frames(places):
        yield decoder.grey(encoded)


def decode_rgb(source: PixelSource, tones: Tones, places: Collection[int] | None = None) -> Iterator[Rgb]:
    """Decode to colour at full size, one frame at a time.

    Args:
        source: as `locate_pixels` gives it; its transfer syntax is a supported one.
        tones: as `tones_of` gives it.
        places: which frames, in their order; None for all.

    Yields:
        [H, W, 3], uint8.

    Raises:
        RejectedError: CORRUPT_PIXELS, UNSUPPORTED_PIXELS, TRUNCATED_PIXELS, NO_VIDEO_DECODER.
    """
    if source.is_video:
        yield from decode_video(source, places)
        return
    decoder = decoder_of(source, tones)
    for encoded in source.frames(places):
        yield decoder.rgb(encoded)


def decoder_of(source: PixelSource, tones: Tones) -> FrameDecoder:
    """Choose the decoder of a source whose frames are each for themselves: of any but video."""
    if source.transfer_syntax in _NATIVE:
        return NativeDecoder(source, tones)
    if source.is_jpeg:
        return _JpegDecoder(source.pixels, tones)
    return _CodecDecoder(source, tones)


class _Sampling:
    """The sampling points of nearest neighbour in a full-size frame."""

    def __init__(self, pixels: PixelFormat) -> None:
        self._rows = nearest_positions(pixels.rows, FRAME_ROWS)
        self._columns = nearest_positions(pixels.columns, FRAME_COLUMNS)
        steps = (_even_steps(self._rows), _even_steps(self._columns))
        self._steps = None if None in steps else steps

    def __call__(self, frame: Samples) -> Samples:
        """Copy the sampling points of [H, W] or [H, W, C]."""
        if self._steps is not None:
            return frame[self._steps].copy()
        # Two takes are three times as fast as one index of both axes.
        return frame.take(self._rows, axis=0).take(self._columns, axis=1)


def _even_steps(positions: npt.NDArray[np.intp]) -> slice | None:
    """Give the slice that names the same positions, where they are evenly spaced: twice as fast."""
    step = int(positions[1] - positions[0])
    if step < 1 or (np.diff(positions) != step).any():
        return None
    return slice(int(positions[0]), int(positions[-1]) + 1, step)


class NativeDecoder:
    """Native pixels (PS3.5 8.2): a `FrameDecoder` that reads and converts only the sampling points."""

    def __init__(self, source: PixelSource, tones: Tones) -> None:
        self._dtype = source.pixels.dtype.newbyteorder(">" if source.is_big_endian else "<")
        self._source = source
        self._sampling = _Sampling(source.pixels)
        self._tones = tones

    def grey(self, frame: bytes) -> Grey:
        """Decode to luminance: [120, 160], uint8."""
        stored = self.arranged(self.flat(frame))
        if self._source.is_subsampled:
            pixels = self._source.pixels
            stored = stored[..., :2].reshape(pixels.rows, pixels.columns, 1)
        return self._tones.luminance(self._used_bits(self._sampling(stored)), self._photometric)

    def rgb(self, frame: bytes) -> Rgb:
        """Decode to colour: [H, W, 3], uint8."""
        # RGB is given as it lies, and may lie in a buffer that the next frame is read into.
        return self._tones.rgb(*self.samples(frame)).copy()

    def samples(self, frame: bytes) -> tuple[Samples, str]:
        """Give what is stored: [H, W] or [H, W, 3], and its photometric interpretation."""
        stored = self.arranged(self.flat(frame))
        if self._source.is_subsampled:
            # Both pixels of a pair have its colour.
            pixels = self._source.pixels
            stored = stored[..., [0, 2, 3, 1, 2, 3]].reshape(pixels.rows, pixels.columns, 3)
        return self._used_bits(stored), self._photometric

    @property
    def _photometric(self) -> str:
        return self._source.pixels.photometric_interpretation

    def flat(self, frame: bytes | bytearray) -> Samples:
        """Give the samples in their order: one axis, a view of the frame where bytes need no swap."""
        samples = np.frombuffer(frame, self._dtype)
        return samples.reshape(-1, 2)[:, ::-1].reshape(-1) if self._source.is_swapped else samples

    def arranged(self, samples: Samples) -> Samples:
        """See `flat` samples as [H, W], [H, W, 3], or as pairs of pixels [H, W / 2, 4]; no copy."""
        pixels = self._source.pixels
        rows, columns = pixels.rows, pixels.columns
        if self._source.is_subsampled:
            # Y1 Y2 Cb Cr for each two pixels (PS3.3 C.7.6.3.1.2).
            return samples.reshape(rows, columns // 2, 4)
        if pixels.samples_per_pixel == 1:
            return samples.reshape(rows, columns)
        if pixels.is_planar:
            return samples.reshape(3, rows, columns).transpose(1, 2, 0)
        return samples.reshape(rows, columns, 3)

    def _used_bits(self, samples: Samples) -> Samples:
        return used_bits(samples, self._source.pixels)


class _JpegDecoder:
    """JPEG Baseline and Extended by libjpeg-turbo; 12 bits of JPEG Extended by GDCM.

    The colour space is the stream's own (Adobe marker, JFIF, component names), not the header's,
    which is often wrong: luminance is the Y of YCbCr, or weighed from RGB.
    """

    def __init__(self, pixels: PixelFormat, tones: Tones) -> None:
        self._pixels = pixels
        self._sampling = _Sampling(pixels)
        self._tones = tones
        self._is_inverted = pixels.photometric_interpretation == "MONOCHROME1"
        self._buffer = np.empty((pixels.rows, pixels.columns, 1), np.uint8)

    def grey(self, frame: bytes) -> Grey:
        if self._is_deep(frame):
            samples, photometric = self.samples(frame)
            return self._tones.luminance(self._sampling(samples), photometric)
        grey: Grey = self._sampling(_libjpeg(frame, "GRAY", self._buffer)[..., 0])
        return 255 - grey if self._is_inverted else grey

    def rgb(self, frame: bytes) -> Rgb:
        if self._is_deep(frame):
            return self._tones.rgb(*self.samples(frame))
        rgb = _libjpeg(frame, "RGB", None)
        return 255 - rgb if self._is_inverted else rgb

    def samples(self, frame: bytes) -> tuple[Samples, str]:
        if self._is_deep(frame):
            return decode_twelve_bits(frame, self._pixels), self._pixels.photometric_interpretation
        if read_frame_size(frame).components == 1:
            return _libjpeg(frame, "GRAY", None)[..., 0], self._pixels.photometric_interpretation
        return _libjpeg(frame, "RGB", None), "RGB"

    def _is_deep(self, frame: bytes) -> bool:
        return is_deep_jpeg(frame, self._pixels)


def _libjpeg(frame: bytes, colorspace: str, buffer: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
    try:
        decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(frame, colorspace=colorspace, buffer=buffer)
    except ValueError:
        raise RejectedError(Reason.CORRUPT_PIXELS) from None
    return decoded


class _CodecDecoder:
    """JPEG Lossless, JPEG-LS, JPEG 2000 and RLE: decoded whole, then sampled."""

    def __init__(self, source: PixelSource, tones: Tones) -> None:
        self.samples = samples_decoder_of(source)
        self._sampling = _Sampling(source.pixels)
        self._tones = tones

    def grey(self, frame: bytes) -> Grey:
        samples, photometric = self.samples(frame)
        return self._tones.luminance(self._sampling(samples), photometric)

    def rgb(self, frame: bytes) -> Rgb:
        return self._tones.rgb(*self.samples(frame))
