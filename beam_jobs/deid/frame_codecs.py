"""JPEG Lossless, JPEG-LS, JPEG 2000, RLE and JPEG of 12 bits: one encoded frame → its samples.

What a frame says of its own size is checked first: no codec is asked for more than the header
described.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import gdcm
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from beam_jobs.deid.codestream import read_frame_size
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.luminance import Samples
from beam_jobs.deid.pixel_format import PixelFormat, used_bits
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.source import PixelSource
from beam_jobs.records import Reason

SamplesDecoder = Callable[[bytes], tuple[Samples, str]]
"""Takes an encoded frame; gives [H, W] or [H, W, 3] and the photometric interpretation as decoded."""

_BY_PYDICOM: Final = frozenset(
    {JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000}
)
CODEC_TRANSFER_SYNTAXES: Final = _BY_PYDICOM | {RLELossless}

_RLE_HEADER_BYTES: Final = 64
_RLE_MOST_SEGMENTS: Final = 15
_RLE_HEADER: Final = f"<L{_RLE_MOST_SEGMENTS}L"


def samples_decoder_of(source: PixelSource) -> SamplesDecoder:
    """Choose the codec of a source; its syntax is one of `CODEC_TRANSFER_SYNTAXES`.

    The codec raises RejectedError: CORRUPT_PIXELS for a frame that cannot be decoded, or is not of
    the size that the header gives.
    """
    if source.transfer_syntax == RLELossless:
        return lambda frame: _decode_rle(frame, source.pixels)
    return _PydicomCodec(source)


def decode_twelve_bits(frame: bytes, pixels: PixelFormat) -> Samples:
    """Decode JPEG Extended of 12 bits, which libjpeg-turbo and pydicom leave to others.

    Args:
        frame: whose own size has been checked.
        pixels: monochrome of 16 bits allocated.

    Returns:
        [H, W], uint16.

    Raises:
        RejectedError: CORRUPT_PIXELS.
    """
    return _by_gdcm(frame, pixels, JPEGExtended12Bit, bits_stored=12)


def _decode_rle(frame: bytes, pixels: PixelFormat) -> tuple[Samples, str]:
    """Decode RLE (PS3.5 Annex G), a channel at a time; GDCM stops where a segment is long enough."""
    channels = [
        _by_gdcm(channel, replace(pixels, samples_per_pixel=1), RLELossless, bits_stored=pixels.bits_stored)
        for channel in _rle_channels(frame, pixels)
    ]
    samples = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
    return used_bits(samples, pixels), pixels.photometric_interpretation


def _rle_channels(frame: bytes, pixels: PixelFormat) -> Iterator[bytes]:
    """Split a frame into frames of one channel, once its header is found to be sane."""
    width = pixels.bits_allocated // 8
    segments = pixels.samples_per_pixel * width
    if len(frame) <= _RLE_HEADER_BYTES:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    count, *offsets = struct.unpack_from(_RLE_HEADER, frame)
    edges = [*offsets[:segments], len(frame)]
    if count != segments or edges[0] != _RLE_HEADER_BYTES or edges != sorted(set(edges)):
        raise RejectedError(Reason.CORRUPT_PIXELS)
    for first in range(0, segments, width):
        start, end = edges[first], edges[first + width]
        inside = [edge - start + _RLE_HEADER_BYTES for edge in edges[first : first + width]]
        unused = [0] * (_RLE_MOST_SEGMENTS - width)
        yield struct.pack(_RLE_HEADER, width, *inside, *unused) + frame[start:end]


def _by_gdcm(frame: bytes, pixels: PixelFormat, syntax: UID, bits_stored: int) -> Samples:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixels.columns, pixels.rows, 1))
    image.SetDataElement(element)
    # What the samples mean is told by the caller; to GDCM they are one or three plain channels.
    name = "MONOCHROME2" if pixels.samples_per_pixel == 1 else "RGB"
    interpretation = gdcm.PhotometricInterpretation.GetPIType(name)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(interpretation))
    image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            pixels.samples_per_pixel,
            pixels.bits_allocated,
            bits_stored,
            bits_stored - 1,
            int(pixels.is_signed),
        )
    )
    decoded = image.GetBuffer()
    # GDCM hands bytes over as text, and None where it failed.
    data = b"" if decoded is None else decoded.encode("utf-8", "surrogateescape")
    samples = np.frombuffer(data, pixels.dtype)
    if samples.size != pixels.frame_samples:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    shape = (pixels.rows, pixels.columns, pixels.samples_per_pixel)
    return samples.reshape(shape[: 2 if pixels.samples_per_pixel == 1 else 3])


class _PydicomCodec:
    """JPEG Lossless and JPEG 2000 (GDCM) and JPEG-LS (pyjpegls) by pydicom."""

    def __init__(self, source: PixelSource) -> None:
        pixels = source.pixels
        self._pixels = pixels
        self._decoder = get_decoder(source.transfer_syntax)
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

    def __call__(self, frame: bytes) -> tuple[Samples, str]:
        size, pixels = read_frame_size(frame), self._pixels
        if (size.rows, size.columns, size.components) != (
            pixels.rows,
            pixels.columns,
            pixels.samples_per_pixel,
        ):
            raise RejectedError(Reason.CORRUPT_PIXELS)
        decoded: Samples | None = None
        try:
            with quiet_pydicom():
                decoded, properties = self._decoder.as_array(
                    encapsulate([frame], has_bot=False), index=0, raw=True, **self._options
                )
        except Exception:  # noqa: BLE001, S110 - each plugin raises errors of its own
            pass
        if decoded is None or decoded.shape[:2] != (pixels.rows, pixels.columns):
            raise RejectedError(Reason.CORRUPT_PIXELS)
        return decoded, str(properties["photometric_interpretation"])
