"""From one encoded frame to luminance at the size of a clean frame.

At most one decoded frame of full size is in memory: native pixels are sampled as they lie, JPEG is
decoded by libjpeg-turbo straight to grey, and the rest goes through pydicom's decoders.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from beam_jobs.deid.codestream import read_frame_size
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.luminance import Samples, ToLuminance
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.source import PixelFormat, PixelSource
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, Reason
from echo_models.preprocessing import nearest_positions

Grey = npt.NDArray[np.uint8]
Decoder = Callable[[bytes], Grey]
"""Takes one encoded frame; gives [120, 160], uint8. Raises RejectedError(CORRUPT_PIXELS)."""

_NATIVE: Final = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
_JPEG: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})
_BY_PYDICOM: Final = frozenset(
    {
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        RLELossless,
    }
)

SUPPORTED_TRANSFER_SYNTAXES: Final = _NATIVE | _JPEG | _BY_PYDICOM


def decoder_of(source: PixelSource, to_luminance: ToLuminance) -> Decoder:
    """Choose the decoder of a source; its transfer syntax is a supported one."""
    sampling = _Sampling(source.pixels)
    if source.transfer_syntax in _NATIVE:
        return _NativeDecoder(source, sampling, to_luminance)
    if source.transfer_syntax in _JPEG:
        return _JpegDecoder(source.pixels, sampling)
    return _PydicomDecoder(source, sampling, to_luminance)


class _Sampling:
    """The sampling points of nearest neighbour in a full-size frame."""

    def __init__(self, pixels: PixelFormat) -> None:
        self.rows = nearest_positions(pixels.rows, FRAME_ROWS)
        self.columns = nearest_positions(pixels.columns, FRAME_COLUMNS)

    def __call__(self, frame: Samples) -> Samples:
        # Two takes are three times as fast as one index of both axes.
        return frame.take(self.rows, axis=0).take(self.columns, axis=1)


class _NativeDecoder:
    """Native pixels (PS3.5 8.2): only the sampling points are read and converted."""

    def __init__(self, source: PixelSource, sampling: _Sampling, to_luminance: ToLuminance) -> None:
        pixels = source.pixels
        kind = "i" if pixels.is_signed else "u"
        order = ">" if source.is_big_endian else "<"
        self._dtype = np.dtype(f"{order}{kind}{pixels.bits_allocated // 8}")
        self._source = source
        self._sampling = sampling
        self._to_luminance = to_luminance

    def __call__(self, frame: bytes) -> Grey:
        samples = np.frombuffer(frame, self._dtype)
        if self._source.is_swapped:
            samples = samples.reshape(-1, 2)[:, ::-1].reshape(-1)
        sampled = self._sampling(self._arrange(samples))
        return self._to_luminance(sampled, self._source.pixels.photometric_interpretation)

    def _arrange(self, samples: Samples) -> Samples:
        pixels = self._source.pixels
        rows, columns = pixels.rows, pixels.columns
        if self._source.is_subsampled:
            # Y1 Y2 Cb Cr for each two pixels (PS3.3 C.7.6.3.1.2).
            return samples.reshape(rows, columns // 2, 4)[..., :2].reshape(rows, columns, 1)
        if pixels.samples_per_pixel == 1:
            return samples.reshape(rows, columns)
        if pixels.is_planar:
            return samples.reshape(3, rows, columns).transpose(1, 2, 0)
        return samples.reshape(rows, columns, 3)


class _JpegDecoder:
    """JPEG Baseline and Extended of 8 bits by libjpeg-turbo.

    The colour space is the stream's own (Adobe marker, JFIF, component names), not the header's,
    which is often wrong: luminance is the Y of YCbCr, or weighed from RGB.
    """

    def __init__(self, pixels: PixelFormat, sampling: _Sampling) -> None:
        self._shape = (pixels.rows, pixels.columns)
        self._sampling = sampling
        self._buffer = np.empty((pixels.rows, pixels.columns, 1), np.uint8)
        self._is_inverted = pixels.photometric_interpretation == "MONOCHROME1"

    def __call__(self, frame: bytes) -> Grey:
        size = read_frame_size(frame)
        if size.precision != 8 or size.components not in {1, 3}:
            raise RejectedError(Reason.UNSUPPORTED_PIXELS)
        if (size.rows, size.columns) != self._shape:
            raise RejectedError(Reason.CORRUPT_PIXELS)
        try:
            decoded = simplejpeg.decode_jpeg(frame, colorspace="GRAY", buffer=self._buffer)
        except ValueError:
            raise RejectedError(Reason.CORRUPT_PIXELS) from None
        grey: Grey = self._sampling(decoded[..., 0])
        return 255 - grey if self._is_inverted else grey


class _PydicomDecoder:
    """JPEG Lossless and JPEG 2000 (GDCM), JPEG-LS (pyjpegls) and RLE by pydicom."""

    def __init__(self, source: PixelSource, sampling: _Sampling, to_luminance: ToLuminance) -> None:
        pixels = source.pixels
        self._pixels = pixels
        self._syntax: UID = source.transfer_syntax
        self._decoder = get_decoder(source.transfer_syntax)
        self._sampling = sampling
        self._to_luminance = to_luminance
        self._options: dict[str, Any] = {
            "number_of_frames": 1,
            "rows": pixels.rows,
            "columns": pixels.columns,
            "samples_per_pixel": pixels.samples_per_pixel,
            "bits_allocated": pixels.bits_allocated,
            "bits_stored": pixels.bits_stored,
            "pixel_representation": int(pixels.is_signed),
            "photometric_interpretation": pixels.photometric_interpretation,
            "planar_configuration": int(pixels.is_planar),
            "pixel_keyword": "PixelData",
        }

    def __call__(self, frame: bytes) -> Grey:
        self._check_size(frame)
        decoded: Samples | None = None
        try:
            with quiet_pydicom():
                decoded, properties = self._decoder.as_array(
                    encapsulate([frame], has_bot=False), index=0, raw=True, **self._options
                )
        except Exception:  # noqa: BLE001, S110 - each plugin raises errors of its own
            pass
        if decoded is None or decoded.shape[:2] != (self._pixels.rows, self._pixels.columns):
            raise RejectedError(Reason.CORRUPT_PIXELS)
        return self._to_luminance(self._sampling(decoded), str(properties["photometric_interpretation"]))

    def _check_size(self, frame: bytes) -> None:
        if self._syntax == RLELossless:
            return
        size = read_frame_size(frame)
        described = (self._pixels.rows, self._pixels.columns, self._pixels.samples_per_pixel)
        if (size.rows, size.columns, size.components) != described:
            raise RejectedError(Reason.CORRUPT_PIXELS)
