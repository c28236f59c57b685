"""Encode frames again after something in them was hidden."""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, JpegImagePlugin
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from beam_jobs.deid.codestream import is_deep_jpeg
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.luminance import Samples
from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.records import Reason

VIDEO_JPEG_QUALITY: Final = 95
"""Of frames that were video: about what the machine's own JPEG has. Their colour is kept at half width."""

_RGB_COMPONENTS: Final = tuple(b"RGB")


@dataclass(frozen=True, slots=True, eq=False)
class JpegPicture:
    """A decoded JPEG in its own colour space, with what is needed to encode it alike.

    Attributes:
        samples: [H, W] or [H, W, 3], uint8, may be written to.
        photometric_interpretation: RGB or YBR_FULL_422, or None of one channel, which does not say.
        quantization: its tables by number.
        sampling: of its colour, as Pillow numbers it.
    """

    samples: npt.NDArray[np.uint8]
    photometric_interpretation: str | None
    quantization: dict[int, list[int]]
    sampling: int


def read_jpeg(frame: bytes, pixels: PixelFormat) -> JpegPicture:
    """Decode a JPEG of 8 bits without a change of its colour space.

    Args:
        frame: one codestream.
        pixels: how large the header says it is.

    Raises:
        RejectedError: CORRUPT_PIXELS, UNSUPPORTED_PIXELS.
    """
    if is_deep_jpeg(frame, pixels):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    picture: JpegPicture | None = None
    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
            picture = _decode(image)
    except Exception:  # noqa: BLE001, S110 - Pillow raises errors of many types
        pass
    if picture is None:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    return picture


def _decode(image: Any) -> JpegPicture:
    if image.mode == "L":
        return JpegPicture(np.array(image), None, image.quantization, -1)
    sampling = JpegImagePlugin.get_sampling(image)
    quantization = image.quantization
    names = tuple(component[0] for component in image.layer)
    adobe = image.info.get("adobe_transform")
    is_rgb = adobe == 0 or (adobe is None and "jfif" not in image.info and names == _RGB_COMPONENTS)
    if not is_rgb:
        image.draft("YCbCr", image.size)
    return JpegPicture(np.array(image), "RGB" if is_rgb else "YBR_FULL_422", quantization, sampling)


def encode_jpeg(picture: JpegPicture) -> bytes:
    """Encode a JPEG as it was: the same tables and sampling, so that what was kept hardly changes."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"qtables": picture.quantization}
    if picture.photometric_interpretation == "RGB":
        options |= {"keep_rgb": True, "subsampling": 0}
    elif picture.photometric_interpretation is not None:
        options |= {"subsampling": picture.sampling}
    mode = "YCbCr" if picture.photometric_interpretation == "YBR_FULL_422" else None
    Image.fromarray(picture.samples, mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def encode_video_frame(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Encode [H, W, 3], uint8, as a JPEG of its own; it was a frame of a video."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=VIDEO_JPEG_QUALITY, colorsubsampling="422"
    )
    return encoded


def encode_lossless(
    samples: Samples, pixels: PixelFormat, photometric_interpretation: str, transfer_syntax: UID
) -> bytes:
    """Encode samples [H, W] or [H, W, 3] by JPEG-LS or RLE without loss."""
    is_colour = samples.ndim == 3
    options: dict[str, Any] = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 3 if is_colour else 1,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.is_signed),
        "photometric_interpretation": photometric_interpretation,
        "number_of_frames": 1,
    }
    if is_colour:
        options["planar_configuration"] = 0
    encoder = get_encoder(transfer_syntax)
    source = np.ascontiguousarray(samples.astype(pixels.dtype))
    encoded: bytes = encoder.encode(source, **options)
    return encoded + b"\0" * (len(encoded) % 2)
