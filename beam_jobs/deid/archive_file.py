"""One instance as a de-identified DICOM file: the profile over its header, clean pixels put back.

What a Redact gives is written as it is: frames that show nobody stay as the machine encoded them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, Protocol

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    HEVCM10P51,
    HEVCMP51,
    JPEG2000,
    MPEG2MPHL,
    MPEG2MPML,
    MPEG4HP41,
    MPEG4HP41BD,
    MPEG4HP42STEREO,
    MPEG4HP422D,
    MPEG4HP423D,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.headers import ULTRASOUND_SOP_CLASSES
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.profile import Action, DeidOptions, deidentify_dataset
from beam_jobs.deid.profile.attribute_types import REPORT_SOP_CLASSES
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import is_deflated, text
from beam_jobs.deid.redaction import RedactedPixels
from beam_jobs.records import Placement, Reason

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.319216963128463343349172276634273243380")
IMPLEMENTATION_VERSION: Final = "ECHOBEAM"

_LOSSY_METHODS: Final[Mapping[str, str]] = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    **dict.fromkeys((MPEG2MPML, MPEG2MPHL), "ISO_13818_2"),
    **dict.fromkeys((MPEG4HP41, MPEG4HP41BD, MPEG4HP422D, MPEG4HP423D, MPEG4HP42STEREO), "ISO_14496_10"),
    **dict.fromkeys((HEVCMP51, HEVCM10P51), "ISO_23008_2"),
}
"""What an image says of how it lost detail, by its transfer syntax (PS3.3 C.7.6.1.1.5.1)."""


class Redact(Protocol):
    """Hides what must be hidden in the pixels of an instance; `beam_jobs.deid.redaction.redact`."""

    def __call__(self, ds: Dataset, path: Path) -> RedactedPixels:
        """Read the pixels of the instance at `path`, whose header is `ds`, and clean them.

        Raises:
            RejectedError: where they cannot be cleaned.
        """


@dataclass(frozen=True, slots=True, eq=False)
class DeidentifiedFile:
    """A file without its patient, not yet verified.

    Attributes:
        content: the whole file.
        actions: what was done to each element.
        is_reencoded: whether pixels had to be hidden, so that they were encoded again.
    """

    content: bytes
    actions: tuple[Action, ...]
    is_reencoded: bool


def deidentify_file(
    path: Path,
    placement: Placement,
    *,
    options: DeidOptions,
    pseudonymizer: Pseudonymizer,
    redact: Redact,
) -> DeidentifiedFile:
    """Make the de-identified file of one instance.

    Args:
        path: of the spooled file.
        placement: the keys it gets.
        options: what the site chose.
        pseudonymizer: gives UIDs and shifts.
        redact: cleans pixels.

    Raises:
        RejectedError: NOT_ULTRASOUND for what is neither ultrasound nor a report, or is an image where
            pixels are not cleaned; UNSUPPORTED_TRANSFER_SYNTAX, UNREADABLE_HEADER, MISSING_FILE, or
            what `redact` raises. It holds no value of the header.
    """
    ds = _read(path)
    is_image = text(ds, "SOPClassUID") in ULTRASOUND_SOP_CLASSES
    if not (is_image and options.clean_pixel_data) and text(ds, "SOPClassUID") not in REPORT_SOP_CLASSES:
        raise RejectedError(Reason.NOT_ULTRASOUND)
    deidentified = deidentify_dataset(
        ds,
        options=options,
        placement=placement,
        pseudonymizer=pseudonymizer,
        pixels_cleaned=is_image,
    )
    cleaned, transfer_syntax, is_reencoded = deidentified.ds, ExplicitVRLittleEndian, False
    if is_image:
        pixels = redact(ds, path)
        _put_pixels(cleaned, pixels, text(ds.file_meta, "TransferSyntaxUID"))
        transfer_syntax, is_reencoded = pixels.transfer_syntax, pixels.is_reencoded
    return DeidentifiedFile(_encode(cleaned, transfer_syntax), deidentified.actions, is_reencoded)


def _read(path: Path) -> Dataset:
    reason = Reason.UNREADABLE_HEADER
    try:
        with quiet_pydicom():
            if is_deflated(path):
                reason = Reason.UNSUPPORTED_TRANSFER_SYNTAX
            else:
                ds = pydicom.dcmread(path, stop_before_pixels=True)
                if text(ds, "SOPClassUID"):  # of garbage behind a preamble, pydicom makes an empty dataset
                    return ds
    except FileNotFoundError:
        reason = Reason.MISSING_FILE
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    # Raised outside the handlers, so that not even `__context__` keeps pydicom's message.
    raise RejectedError(reason)


def _put_pixels(ds: Dataset, pixels: RedactedPixels, source_syntax: str) -> None:
    ds.PhotometricInterpretation = pixels.photometric_interpretation
    ds.SamplesPerPixel = pixels.samples_per_pixel
    if pixels.planar_configuration is None:
        ds.pop("PlanarConfiguration", None)
    else:
        ds.PlanarConfiguration = pixels.planar_configuration
    if "NumberOfFrames" in ds or pixels.number_of_frames > 1:
        ds.NumberOfFrames = pixels.number_of_frames
    if pixels.is_reencoded and source_syntax in _LOSSY_METHODS and "LossyImageCompression" not in ds:
        # What was lost once stays lost, however it is encoded now (PS3.3 C.7.6.1.1.5).
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionMethod = _LOSSY_METHODS[source_syntax]
    ds.PixelData = pixels.pixel_data
    element = ds["PixelData"]
    element.VR = "OB" if pixels.transfer_syntax.is_encapsulated or ds.BitsAllocated <= 8 else "OW"
    element.is_undefined_length = pixels.transfer_syntax.is_encapsulated


def _encode(ds: Dataset, transfer_syntax: UID) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    ds.file_meta = meta
    ds.preamble = b"\0" * 128
    buffer = BytesIO()
    with quiet_pydicom():
        dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
