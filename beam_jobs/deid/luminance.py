"""From stored samples to luminance and to colour: 0 is black, 255 is white, whatever the colour space was."""

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.deid.reading import number
from beam_jobs.records import Reason

Samples = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_WEIGHTS: Final = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)
"""Of red, green and blue (ITU-R BT.601), in 65536ths as libjpeg has them, so that every decoder's grey is
the same: each product and sum has at most 24 bits, so float32 computes them exactly."""

_WHITE: Final = 255
_NEUTRAL: Final = 128
_YBR_FULL: Final = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_YBR_PARTIAL: Final = frozenset({"YBR_PARTIAL_422", "YBR_PARTIAL_420"})

_FROM_YBR: Final = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])
"""PS3.3 C.7.6.3.1.2: rows give red, green and blue of Y, Cb - 128 and Cr - 128."""

_LOWEST_Y, _Y_RANGE, _C_RANGE = 16, 219, 224
"""ITU-R BT.601: what black is, and how much of 255 is used, in YBR_PARTIAL."""


class Tones(Protocol):
    """How the samples of one instance become grey or colour. It holds numbers and tables only."""

    def luminance(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        """Give the luminance of samples [H, W] or [H, W, 3] as decoded: [H, W], uint8.

        Of YBR only the first channel is looked at, so [H, W, 1] will do.
        """

    def rgb(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        """Give the colour of samples [H, W] or [H, W, 3] as decoded: [H, W, 3], uint8."""


def tones_of(ds: Dataset, pixels: PixelFormat) -> Tones:
    """Choose the conversion that a header calls for.

    Raises:
        RejectedError: UNSUPPORTED_PIXELS for a palette that cannot be read.
    """
    if pixels.photometric_interpretation == "PALETTE COLOR":
        return _palette(ds)
    low, high = _range(ds, pixels)
    return _Range(low, high)


def rgb_to_luminance(rgb: Samples) -> Bytes:
    """Weigh red, green and blue.

    Args:
        rgb: [..., 3], values 0 to 255.

    Returns:
        [...], uint8.
    """
    grey: Bytes = (rgb.astype(np.float32) @ _WEIGHTS + np.float32(0.5)).astype(np.uint8)
    return grey


class _Range:
    """Monochrome, RGB and YBR samples whose range is low to high."""

    def __init__(self, low: float, high: float) -> None:
        self._low = low
        self._high = high

    def luminance(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        if photometric_interpretation in _YBR_FULL:
            return self._to_bytes(samples[..., 0])
        if photometric_interpretation in _YBR_PARTIAL:
            return _clipped(_stretched(self._to_bytes(samples[..., 0])))
        if photometric_interpretation == "RGB":
            return rgb_to_luminance(self._to_bytes(samples))
        grey = self._to_bytes(samples)
        return np.bitwise_not(grey) if photometric_interpretation == "MONOCHROME1" else grey

    def rgb(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        if photometric_interpretation == "RGB":
            return self._to_bytes(samples)
        if photometric_interpretation in _YBR_FULL | _YBR_PARTIAL:
            ybr = self._to_bytes(samples).astype(np.float32)
            ybr[..., 1:] -= _NEUTRAL
            if photometric_interpretation in _YBR_PARTIAL:
                ybr[..., 0] = _stretched(ybr[..., 0])
                ybr[..., 1:] *= _WHITE / _C_RANGE
            return _clipped(ybr @ _FROM_YBR.T.astype(np.float32))
        grey = self.luminance(samples, photometric_interpretation)
        return np.broadcast_to(grey[..., None], (*grey.shape, 3)).copy()

    def _to_bytes(self, samples: Samples) -> Bytes:
        if (self._low, self._high) == (0, _WHITE) and samples.dtype == np.uint8:
            return samples
        return _clipped((samples.astype(np.float64) - self._low) * (_WHITE / (self._high - self._low)))


def _stretched(y: Samples) -> npt.NDArray[np.float32]:
    stretched: npt.NDArray[np.float32] = (y.astype(np.float32) - _LOWEST_Y) * np.float32(_WHITE / _Y_RANGE)
    return stretched


def _clipped(values: npt.NDArray[np.floating[Any]]) -> Bytes:
    clipped: Bytes = np.clip(np.rint(values), 0, _WHITE).astype(np.uint8)
    return clipped


class _Palette:
    """Samples that are places in a table (PS3.3 C.7.9)."""

    def __init__(self, colours: Bytes, first_mapped: int) -> None:
        self._colours = colours
        self._greys = rgb_to_luminance(colours)
        self._first_mapped = first_mapped

    def luminance(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        return self._greys[self._places(samples)]

    def rgb(self, samples: Samples, photometric_interpretation: str) -> Bytes:
        return self._colours[self._places(samples)]

    def _places(self, samples: Samples) -> npt.NDArray[np.int64]:
        return np.clip(samples.astype(np.int64) - self._first_mapped, 0, len(self._greys) - 1)


def _range(ds: Dataset, pixels: PixelFormat) -> tuple[float, float]:
    """Give the stored values that become black and white.

    Eight bits are what the screen showed. Deeper monochrome samples go through the header's window
    (PS3.3 C.11.2.1.2.1) where it has one, else over all that the stored bits can hold.
    """
    bits = pixels.bits_stored
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if pixels.is_signed else (0, (1 << bits) - 1)
    width, center = number(ds, "WindowWidth"), number(ds, "WindowCenter")
    is_deep = bits > 8 and pixels.samples_per_pixel == 1
    if is_deep and width is not None and center is not None and width > 1:
        slope, intercept = number(ds, "RescaleSlope") or 1.0, number(ds, "RescaleIntercept") or 0.0
        edges = (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
        return (edges[0] - intercept) / slope, (edges[1] - intercept) / slope
    return (low, high) if high > low else (0, 1)


def _palette(ds: Dataset) -> _Palette:
    palette: _Palette | None = None
    try:
        entries, first, bits = (int(part) for part in ds["RedPaletteColorLookupTableDescriptor"].value)
        # Every place of the table in turn, as stored samples. An entry count of 0 means 65,536.
        places = np.arange(first, first + (entries or 1 << 16)).astype(np.int32)
        colours = apply_color_lut(places, ds)[..., :3]
        # Tables of 16 bits that hold 8 occur: they would come out black.
        colours = colours >> 8 if bits > 8 and colours.max() > _WHITE else colours
        palette = _Palette(colours.astype(np.uint8), first)
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    if palette is None:
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    return palette
