"""How a header describes its pixels, and how much of them is too much: checked before a byte is decoded."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.reading import integer, text
from beam_jobs.records import Reason

MAX_FRAME_SAMPLES: Final = 1 << 26
"""Rows x columns x samples of one frame: twice a screen of 4K in colour is allowed."""

MAX_FRAMES: Final = 36_000
"""Ten minutes at 60 frames a second."""

MAX_TOTAL_SAMPLES: Final = 1 << 36
"""Samples of all frames: 36,000 frames of 800 x 600 in colour are allowed, and not much more."""

_SAMPLES_PER_PIXEL: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_422": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the header describes a frame: the image pixel module, PS3.3 C.7.6.3."""

    number_of_frames: int
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric_interpretation: str
    is_planar: bool

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return self.rows * self.columns * self.samples_per_pixel

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample, in this machine's order of bytes."""
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.bits_allocated // 8}")


def read_pixel_format(ds: Dataset) -> PixelFormat:
    """Read and check the description of the pixels.

    Raises:
        RejectedError: TOO_LARGE beyond a limit, UNSUPPORTED_PIXELS for a description that is not
            that of an ultrasound image.
    """
    photometric_interpretation = text(ds, "PhotometricInterpretation").upper()
    bits_allocated = integer(ds, "BitsAllocated") or 0
    bits_stored = integer(ds, "BitsStored") or bits_allocated
    high_bit = integer(ds, "HighBit")
    pixels = PixelFormat(
        number_of_frames=declared if (declared := integer(ds, "NumberOfFrames")) is not None else 1,
        rows=integer(ds, "Rows") or 0,
        columns=integer(ds, "Columns") or 0,
        samples_per_pixel=integer(ds, "SamplesPerPixel") or 0,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=bits_stored - 1 if high_bit is None else high_bit,
        is_signed=integer(ds, "PixelRepresentation") == 1,
        photometric_interpretation=photometric_interpretation,
        is_planar=integer(ds, "PlanarConfiguration") == 1,
    )
    if (
        min(pixels.number_of_frames, pixels.rows, pixels.columns) < 1
        or pixels.samples_per_pixel != _SAMPLES_PER_PIXEL.get(photometric_interpretation)
        or bits_allocated not in {8, 16}
        or not 1 <= bits_stored <= bits_allocated
        or not bits_stored <= pixels.high_bit + 1 <= bits_allocated
    ):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    if (
        pixels.frame_samples > MAX_FRAME_SAMPLES
        or pixels.number_of_frames > MAX_FRAMES
        or pixels.frame_samples * pixels.number_of_frames > MAX_TOTAL_SAMPLES
    ):
        raise RejectedError(Reason.TOO_LARGE)
    return pixels


def used_bits(samples: npt.NDArray[Any], pixels: PixelFormat) -> npt.NDArray[Any]:
    """Drop bits that are no pixel's: old overlays are hidden there (PS3.3 C.9.2, retired).

    Args:
        samples: any shape, as they are stored.
        pixels: which bits are used.

    Returns:
        The same shape and type, in this machine's order of bytes where anything was to be dropped.
    """
    if pixels.bits_stored == pixels.bits_allocated:
        return samples
    above, below = pixels.bits_allocated - 1 - pixels.high_bit, pixels.bits_allocated - pixels.bits_stored
    # Shifting a signed number down keeps its sign.
    shifted: npt.NDArray[Any] = (samples.astype(pixels.dtype) << above) >> below
    return shifted
