"""Synthetic echo studies as DICOM files, with the marks that a real machine leaves.

Each view of a phantom subject becomes one Ultrasound Multi-frame Image instance as a machine would
send it: JPEG Baseline, a full screen, ultrasound regions, a patient's name in the header and burned
into the pixels above the sector. The patient does not exist; the name begins with PHANTOM.

Everything, the UIDs too, follows from the seed: the same call writes the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    JPEGBaseline8Bit,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from echo_models.phantom import PhantomClip, Subject, UltrasoundRegion, random_subject, render_clip
from echo_models.views import VIEWS

SCREEN_ROWS: Final = 600
SCREEN_COLUMNS: Final = 800
JPEG_QUALITY: Final = 90
BANNER_PX: Final = 20
"""Height of the burned-in line at the top of the screen, above every sector of the phantom."""

_FIRST_DAY: Final = date(2021, 1, 4)
_CENTIMETRES, _SECONDS, _CENTIMETRES_PER_SECOND = 3, 4, 7  # PS3.3 C.8.5.5.1.15
_IMAGE_TYPE_VALUE_4: Final = {"pw": "0008", "cw": "0004", "mmode": "0002"}  # PS3.3 C.8.5.6.1.1
_TWO_DIMENSIONAL: Final = "0001"
_TWO_DIMENSIONAL_AND_COLOUR: Final = "0011"
_COLOUR_FLOW: Final = 2  # region data type, PS3.3 C.8.5.5.1.2


@dataclass(frozen=True)
class PhantomStudy:
    """A study of one subject.

    Attributes:
        seed: decides about the subject, every clip and every UID.
        frames_per_clip: frames of each instance.
        views: one instance for each, in this order.
        lvh: whether the subject has hypertrophy; None leaves it to the seed.
    """

    seed: int
    frames_per_clip: int = 24
    views: Sequence[str] = VIEWS
    lvh: bool | None = None

    @property
    def subject(self) -> Subject:
        """The subject that is scanned."""
        return random_subject(self.seed, lvh=self.lvh)

    @property
    def study_instance_uid(self) -> str:
        """The study's UID."""
        return self._uid("study")

    def write(self, folder: Path) -> Iterator[Path]:
        """Write the instances one after the other, each at once.

        Yields:
            The path of each: `<number>-<view>.dcm`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        subject = self.subject
        for number, view in enumerate(self.views, start=1):
            clip = render_clip(
                subject,
                view,
                seed=self.seed,
                number_of_frames=self.frames_per_clip,
                rows=SCREEN_ROWS,
                columns=SCREEN_COLUMNS,
            )
            target = folder / f"{number:02d}-{view}.dcm"
            unfinished = target.with_suffix(".tmp")
            self.instance(clip, number).save_as(unfinished, enforce_file_format=True)
            unfinished.replace(target)
            yield target

    def instance(self, clip: PhantomClip, number: int) -> FileDataset:
        """Make one instance of a clip.

        Args:
            clip: what it shows.
            number: its InstanceNumber, from 1.
        """
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
        meta.MediaStorageSOPInstanceUID = UID(self._uid(f"instance {number}"))
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.update(self._patient_and_study())
        dataset.update(self._image(clip, number))
        dataset.SequenceOfUltrasoundRegions = [_region(region) for region in clip.regions]
        frames = [_jpeg(frame) for frame in burn_in(clip.frames, self.banner)]
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].is_undefined_length = True
        return dataset

    @property
    def banner(self) -> str:
        """The line burned in at the top of every frame."""
        return f"{self._patient_name}   {self._patient_id}   {self._started_at:%d/%m/%Y %H:%M:%S}"

    @property
    def _patient_name(self) -> str:
        return f"PHANTOM^SUBJECT {self.seed}"

    @property
    def _patient_id(self) -> str:
        return f"PHANTOM-{self.seed:06d}"

    @property
    def _started_at(self) -> datetime:
        day = _FIRST_DAY + timedelta(days=self.seed % 1000)
        return datetime.combine(day, time(9, 30))

    def _uid(self, what: str) -> str:
        return str(generate_uid(entropy_srcs=["echobeam phantom", repr(self), what]))

    def _patient_and_study(self) -> Dataset:
        dataset = Dataset()
        dataset.PatientName = self._patient_name
        dataset.PatientID = self._patient_id
        dataset.PatientBirthDate = "19550317"
        dataset.PatientSex = "O"
        dataset.StudyInstanceUID = self.study_instance_uid
        dataset.StudyDate = f"{self._started_at:%Y%m%d}"
        dataset.StudyTime = f"{self._started_at:%H%M%S}"
        dataset.StudyID = str(self.seed)
        dataset.AccessionNumber = f"PHANTOM{self.seed}"
        dataset.ReferringPhysicianName = "PHANTOM^REFERRER"
        dataset.Modality = "US"
        dataset.SeriesInstanceUID = self._uid("series")
        dataset.SeriesNumber = 1
        dataset.Laterality = ""
        dataset.Manufacturer = "echobeam phantom"
        dataset.ManufacturerModelName = "synthetic heart"
        dataset.DeviceSerialNumber = "PHANTOM-SERIAL"
        dataset.SoftwareVersions = "1"
        return dataset

    def _image(self, clip: PhantomClip, number: int) -> Dataset:
        frames, rows, columns = clip.frames.shape
        dataset = Dataset()
        dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
        dataset.SOPInstanceUID = self._uid(f"instance {number}")
        dataset.InstanceNumber = number
        dataset.PatientOrientation = None
        dataset.ContentDate = f"{self._started_at:%Y%m%d}"
        dataset.ContentTime = f"{self._started_at + timedelta(seconds=20 * number):%H%M%S}"
        dataset.ImageType = [
            "ORIGINAL",
            "PRIMARY",
            "TTE",
            _image_type_value_4(clip),
        ]
        dataset.BurnedInAnnotation = "YES"
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.NumberOfFrames = frames
        dataset.FrameTime = round(clip.frame_time_ms, 3)
        dataset.FrameIncrementPointer = Tag("FrameTime")
        dataset.HeartRate = round(self.subject.heart_rate_bpm)
        dataset.Rows = rows
        dataset.Columns = columns
        dataset.BitsAllocated = 8
        dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelRepresentation = 0
        return dataset


def burn_in(frames: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    """Write a line of text over the top of every frame, as machines do.

    Args:
        frames: [N, H, W], uint8; not changed.
        text: what to write.

    Returns:
        [N, H, W], uint8.
    """
    banner = Image.new("L", (frames.shape[2], BANNER_PX))
    ImageDraw.Draw(banner).text((8, 2), text, fill=230, font=ImageFont.load_default(14))
    marked = frames.copy()
    np.maximum(marked[:, :BANNER_PX], np.asarray(banner), out=marked[:, :BANNER_PX])
    return marked


def _image_type_value_4(clip: PhantomClip) -> str:
    if clip.view in _IMAGE_TYPE_VALUE_4:
        return _IMAGE_TYPE_VALUE_4[clip.view]
    in_colour = any(region.data_type == _COLOUR_FLOW for region in clip.regions)
    return _TWO_DIMENSIONAL_AND_COLOUR if in_colour else _TWO_DIMENSIONAL


def _jpeg(frame: npt.NDArray[np.uint8]) -> bytes:
    encoded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(frame[:, :, np.newaxis]), quality=JPEG_QUALITY, colorspace="GRAY"
    )
    return bytes(encoded)


def _region(region: UltrasoundRegion) -> Dataset:
    """Describe a part of the screen (PS3.3 C.8.5.5, US Region Calibration)."""
    across, down = {
        2: (_SECONDS, _CENTIMETRES),
        3: (_SECONDS, _CENTIMETRES_PER_SECOND),
    }.get(region.spatial_format, (_CENTIMETRES, _CENTIMETRES))
    item = Dataset()
    item.RegionSpatialFormat = region.spatial_format
    item.RegionDataType = region.data_type
    item.RegionFlags = 0
    item.RegionLocationMinX0 = region.min_x0
    item.RegionLocationMinY0 = region.min_y0
    item.RegionLocationMaxX1 = region.max_x1
    item.RegionLocationMaxY1 = region.max_y1
    item.PhysicalUnitsXDirection = across
    item.PhysicalUnitsYDirection = down
    item.PhysicalDeltaX = region.physical_delta_x
    item.PhysicalDeltaY = region.physical_delta_y
    return item
