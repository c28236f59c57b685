"""Ultrasound instances made for tests: a speckled sector, text where a test wants it, any encoding."""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from beam_jobs.deid import CleanInstance, Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.records import Placement

PLACEMENT = Placement("claim", "5" * 32, "6" * 32, 1, 1, "7" * 32, "8" * 32)
PSEUDONYMIZER = Pseudonymizer(bytes(range(32)))


def sector_mask(rows: int = 300, columns: int = 400) -> npt.NDArray[np.bool_]:
    """Draw a sector: [H, W], apex at the top, text has room above and beside it."""
    ys, xs = np.indices((rows, columns))
    down, across = ys - 0.15 * rows, xs - columns / 2
    mask: npt.NDArray[np.bool_] = (np.hypot(down, across) < 0.75 * rows) & (np.abs(across) < 0.8 * down)
    return mask


def speckle_cine(
    number_of_frames: int, rows: int = 300, columns: int = 400, *, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Fill the sector with flickering speckle: [N, H, W], uint8."""
    return _speckle_cine(number_of_frames, rows, columns, seed).copy()


@lru_cache(maxsize=8)
def _speckle_cine(number_of_frames: int, rows: int, columns: int, seed: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    speckle = rng.rayleigh(40.0, (number_of_frames, rows, columns)).clip(1, 255).astype(np.uint8)
    speckle[:, ~sector_mask(rows, columns)] = 0
    return speckle


def burn_in(frame: npt.NDArray[np.uint8], text: str, left: int, top: int, size: int = 18) -> None:
    """Write white text into a frame [H, W] or [H, W, 3]."""
    image = Image.fromarray(frame)
    ImageDraw.Draw(image).text((left, top), text, fill=255 if frame.ndim == 2 else (255,) * 3, font_size=size)
    frame[:] = np.asarray(image)


def region(
    left: int, top: int, right: int, bottom: int, *, spatial_format: int = 1, data_type: int = 1
) -> Dataset:
    """Make an item of SequenceOfUltrasoundRegions; right and bottom belong to it."""
    item = Dataset()
    item.RegionSpatialFormat = spatial_format
    item.RegionDataType = data_type
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def header(*, regions: Sequence[Dataset] = (), **elements: Any) -> FileDataset:
    """Make a header of an ultrasound instance, without pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.3680043.8.498.1")
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    ds.SOPClassUID = UltrasoundMultiFrameImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.Modality = "US"
    if regions:
        ds.SequenceOfUltrasoundRegions = DicomSequence(regions)
    # Odd values are what some tests are about; pydicom warns of them.
    with quiet_pydicom():
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
    return ds


def instance(pixels: npt.NDArray[Any], *, regions: Sequence[Dataset] = (), **elements: Any) -> FileDataset:
    """Make an instance of native pixels, [N, H, W] or [N, H, W, 3] by pixel."""
    is_colour = pixels.ndim == 4
    described: dict[str, Any] = {
        "SamplesPerPixel": 3 if is_colour else 1,
        "PhotometricInterpretation": "RGB" if is_colour else "MONOCHROME2",
        "NumberOfFrames": len(pixels),
        "Rows": pixels.shape[1],
        "Columns": pixels.shape[2],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    if is_colour:
        described["PlanarConfiguration"] = 0
    ds = header(regions=regions, **(described | elements))
    if len(pixels) == 1 and "SOPClassUID" not in elements:
        ds.SOPClassUID = UltrasoundImageStorage
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    return ds


def encapsulated(
    ds: FileDataset, frames: Sequence[bytes], transfer_syntax: UID = JPEGBaseline8Bit
) -> FileDataset:
    """Give an instance encoded frames in place of its native pixels."""
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.PixelData = encapsulate(list(frames), has_bot=False)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def as_bytes(ds: Dataset) -> bytes:
    """Encode a dataset as a file."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()


def written(ds: Dataset, path: Path) -> Path:
    """Write a dataset to a file as it is."""
    path.write_bytes(as_bytes(ds))
    return path


def clean(source: Dataset | Path) -> CleanInstance:
    """Take an instance through the door."""
    ds = read_instance(source) if isinstance(source, Path) else source
    return deidentify_instance(ds, PLACEMENT, PSEUDONYMIZER)
