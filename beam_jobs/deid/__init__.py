"""The only door between the identified and the de-identified zone.

An instance goes in as pydicom read it; out come keys, an allow-listed header of numbers and closed
vocabularies, and pixels that only `beam_jobs.frames` turns into clean frames. Nothing else of the
header is held by what comes out.

    errors       what the door raises
    keys         pseudonyms and date shifts
    reading      the allow-listed elements of a file
    headers      → ClipHeader
    regions      where the header says the image is
    pixel_format how the header describes its pixels; limits
    source       where the encoded pixels are
    fragments    encapsulated pixels → frames, or one stream
    codestream   size of a compressed frame before it is decoded
    decoders     encoded frames → luminance 120 x 160, or colour at full size
    frame_codecs JPEG Lossless, JPEG-LS, JPEG 2000, RLE: one encoded frame → its samples
    video        MPEG and HEVC streams → frames
    luminance    colour spaces, palettes, windows
    timing       when frames were taken
    pixels       the keep-mask: the fan in the pixels, within the regions
    morphology   opening, closing and growth of masks
    hull         convex hulls of masks
    redaction    full-size pixels, black outside the keep-mask
    encoders     frames encoded again after that
    segments     comments and application data of a JPEG, dropped
    quiet        pydicom's warnings, which quote raw values
"""

from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import UID

from beam_jobs.deid.decoders import SUPPORTED_TRANSFER_SYNTAXES
from beam_jobs.deid.errors import DeidError, KeyFileError, RejectedError
from beam_jobs.deid.headers import ULTRASOUND_SOP_CLASSES, read_header
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.luminance import Tones, tones_of
from beam_jobs.deid.pixel_format import read_pixel_format
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import read_instance, text
from beam_jobs.deid.regions import RegionMasks, read_regions, region_masks
from beam_jobs.deid.source import PixelSource, locate_pixels
from beam_jobs.deid.timing import FrameTimes, read_frame_times
from beam_jobs.records import ClipHeader, Placement, Reason

__all__ = [
    "CleanInstance",
    "DeidError",
    "KeyFileError",
    "Pseudonymizer",
    "RejectedError",
    "deidentify_instance",
    "read_instance",
]


@dataclass(frozen=True, slots=True, eq=False)
class CleanInstance:
    """An instance without its patient; its pixels still wait to be cleaned.

    Only `beam_jobs.frames` may touch the fields that begin with an underscore.
    """

    placement: Placement
    header: ClipHeader
    _source: PixelSource = field(repr=False)
    _tones: Tones = field(repr=False)
    _regions: RegionMasks = field(repr=False)
    _frame_times: FrameTimes = field(repr=False)


def deidentify_instance(ds: Dataset, placement: Placement, pseudonymizer: Pseudonymizer) -> CleanInstance:
    """Take the patient out of an instance.

    Args:
        ds: as `read_instance` or `pydicom.dcmread` gives it; not changed. Pixels that are not in
            memory are read later from the file it came from.
        placement: the keys it gets.
        pseudonymizer: gives the subject's shift of dates.

    Raises:
        RejectedError: NO_PIXELS, NOT_ULTRASOUND, UNSUPPORTED_TRANSFER_SYNTAX, UNSUPPORTED_PIXELS,
            TOO_LARGE, MISSING_FILE, or UNREADABLE_HEADER where pydicom cannot make sense of it. It
            holds no value of the header.
    """
    reason = Reason.UNREADABLE_HEADER
    try:
        with quiet_pydicom():
            return _deidentify(ds, placement, pseudonymizer)
    except RejectedError as error:
        reason = error.reason
    except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
        pass
    # Raised outside the handlers, so that not even `__context__` keeps pydicom's message.
    raise RejectedError(reason)


def _deidentify(ds: Dataset, placement: Placement, pseudonymizer: Pseudonymizer) -> CleanInstance:
    if not text(ds, "Rows"):
        # Reports and documents have none; where an image lacks it, its pixels mean nothing.
        raise RejectedError(Reason.NO_PIXELS)
    if text(ds, "SOPClassUID") not in ULTRASOUND_SOP_CLASSES:
        raise RejectedError(Reason.NOT_ULTRASOUND)
    transfer_syntax = UID(text(getattr(ds, "file_meta", None) or Dataset(), "TransferSyntaxUID"))
    if transfer_syntax not in SUPPORTED_TRANSFER_SYNTAXES:
        raise RejectedError(Reason.UNSUPPORTED_TRANSFER_SYNTAX)
    pixels = read_pixel_format(ds)
    regions = read_regions(ds, pixels.rows, pixels.columns)
    frame_times = read_frame_times(ds, pixels.number_of_frames)
    header = read_header(
        ds,
        regions=regions,
        pixels=pixels,
        transfer_syntax=transfer_syntax.name,
        frame_times=frame_times,
        day_shift=pseudonymizer.day_shift(placement.subject_key),
    )
    return CleanInstance(
        placement=placement,
        header=header,
        _source=locate_pixels(ds, transfer_syntax, pixels),
        _tones=tones_of(ds, pixels),
        _regions=region_masks(regions, pixels.rows, pixels.columns),
        _frame_times=frame_times,
    )
