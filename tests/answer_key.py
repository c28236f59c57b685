"""Public ultrasound with a made-up patient planted wherever one can hide, and the answers to check by.

Modelled on the ten actions of the MIDI-B challenge (Medical Image De-Identification Benchmark): every
planted value has one entry in the key, which says what must have become of it in the de-identified file.
Which elements are kept is read off PS3.15 and the meaning of the element, not off the program.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
import simplejpeg
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage

from beam_jobs.deid.quiet import quiet_pydicom
from tests.made_files import instance as made_instance
from tests.made_files import region, sector_mask, speckle_cine
from tests.real_files import real_file

Frames = npt.NDArray[np.uint8]
Place = tuple[str | int, ...]
"""Keywords, and after a sequence the index of its item: ("RequestAttributesSequence", 0, "CodeMeaning")."""


class Rule(StrEnum):
    """The ten actions of MIDI-B."""

    TAG_RETAINED = "tag_retained"
    TEXT_NOTNULL = "text_notnull"
    TEXT_RETAINED = "text_retained"
    TEXT_REMOVED = "text_removed"
    DATE_SHIFTED = "date_shifted"
    UID_CHANGED = "uid_changed"
    UID_CONSISTENT = "uid_consistent"
    PATID_CONSISTENT = "patid_consistent"
    PIXELS_HIDDEN = "pixels_hidden"
    PIXELS_RETAINED = "pixels_retained"


class Corner(NamedTuple):
    """A rectangle of the screen: left, top, right, bottom in pixels."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What must have become of one thing.

    Attributes:
        place: the element; empty for the whole file and for pixels.
        value: what was planted: a text, date, UID, `Ink` or `Corner`.
    """

    rule: Rule
    place: Place
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Ink:
    """Letters that were burned into frames.

    Attributes:
        where: above, beside or inside the image.
        frames: indexes of the frames that have them.
        mask: [H, W], bool: the letters' pixels, within `box` of the screen.
    """

    text: str
    where: str
    frames: tuple[int, ...]
    box: Corner
    mask: npt.NDArray[np.bool_] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class PlantedInstance:
    """A file to send, and its answers."""

    base: str
    ds: FileDataset
    frames: Frames
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who does not exist."""

    given: str
    family: str
    patient_id: str
    born: date
    first_study: date

    @property
    def name(self) -> str:
        """Write the name as DICOM does."""
        return f"{self.family}^{self.given}"


class Base(NamedTuple):
    """A file to plant into.

    Attributes:
        image: a rectangle that is image for certain; text is planted in it, and what is left of it counts
            as pixels that must stay.
        above: left top corner of a place for text above the image; beside likewise.
    """

    ds: Dataset
    frames: Frames
    image: Corner
    above: tuple[int, int]
    beside: tuple[int, int]
    is_jpeg: bool


FAMILIES: Final = ("Quillfeather", "Zabriskie", "Oyelaran", "Thistlewood", "Vandermolen", "Jaworski")
GIVEN: Final = ("Philomena", "Barnaby", "Xanthippe", "Ignatius", "Wilhelmina", "Thaddeus")
TOWNS: Final = ("Wexcombe", "Duckmanton", "Ruswarp", "Trumfleet", "Gwennap", "Muchalls")
KEPT_DESCRIPTION: Final = ("adult", "stress", "echo")
_PLACES_OF_TEXT: Final = (
    (), (("above", False),), (("beside", False),), (("inside", False),), (("above", True),),
    (("inside", True),), (("above", False), ("inside", False)),
)  # fmt: skip


def people(count: int, seed: int) -> list[Person]:
    """Make up people from a seed."""
    chance = random.Random(seed)
    return [
        Person(
            given=GIVEN[number % len(GIVEN)],
            family=FAMILIES[(number * 5 + 1) % len(FAMILIES)],
            patient_id=f"MRN{chance.randrange(10**7, 10**8)}",
            born=date(1930, 1, 1) + timedelta(chance.randrange(25_000)),
            first_study=date(2019, 1, 1) + timedelta(chance.randrange(1_500)),
        )
        for number in range(count)
    ]


def bases(names: tuple[str, ...], most_frames: int) -> dict[str, Base]:
    """Load the files to plant into: public ones by their name in `REAL_FILES`, and `made`."""
    loaded = {}
    for name in names:
        loaded[name] = _made(most_frames) if name == "made" else _real(name, most_frames)
    return loaded


_IMAGES: Final = {
    # Looked up by eye: what is image in every frame, and where the screen is free.
    "apical": (Corner(240, 150, 400, 380), (70, 8), (6, 200)),
    "parasternal": (Corner(330, 160, 470, 400), (140, 6), (4, 300)),
}


def _real(name: str, most_frames: int) -> Base:
    with quiet_pydicom():
        ds = pydicom.dcmread(real_file(name))
        # pydicom makes RGB of YBR.
        frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns, ds.SamplesPerPixel)
    rgb = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:3], 3))[:most_frames])
    image, above, beside = _IMAGES[name]
    return Base(ds, rgb, image, above, beside, ds.file_meta.TransferSyntaxUID.is_compressed)


def _made(most_frames: int) -> Base:
    grey = speckle_cine(most_frames, 300, 400)
    # A real beam never saturates everywhere: letters are brighter than what is under them.
    frames = np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, axis=3)
    ds = made_instance(frames, regions=[region(0, 0, 399, 299)], FrameTime=33.3)
    inside = Corner(150, 140, 250, 220)
    if not sector_mask()[inside.top : inside.bottom, inside.left : inside.right].all():
        raise ValueError("the rectangle must be within the sector")
    return Base(ds, frames, inside, (6, 4), (2, 150), is_jpeg=False)


def planted_studies(
    base_names: tuple[str, ...], *, subjects: int, most_frames: int, seed: int
) -> Iterator[tuple[Person, list[PlantedInstance]]]:
    """Plant people into files: two studies for each subject, one instance of each base and text place.

    Yields:
        a person, and the instances of one study.
    """
    loaded = bases(base_names, most_frames)
    uids = _Uids(seed)
    number = 0
    for person in people(subjects, seed):
        for study in range(2):
            writer = _StudyWriter(person, person.first_study + timedelta(211 * study), uids)
            planted = []
            for name, base in loaded.items():
                places = _PLACES_OF_TEXT[number % len(_PLACES_OF_TEXT)]
                planted.append(writer.plant(name, base, places))
                number += 1
            yield person, planted


class _Uids:
    """UIDs as scanners make them: with the serial number and the time in them."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def __call__(self, day: date) -> str:
        tail = self._chance.randrange(10**9, 10**10)
        return f"1.2.840.113663.1500.1.{SERIAL}.{day:%Y%m%d}.104512.{tail}"


SERIAL: Final = "392075967"


class _StudyWriter:
    """Plants one study; its instances refer to each other."""

    def __init__(self, person: Person, day: date, uids: _Uids) -> None:
        self._person, self._day, self._uids = person, day, uids
        self._study, self._series = uids(day), uids(day)
        self._frame_of_reference = uids(day)
        self._referenced = uids(day)
        self._number = 0

    def plant(self, name: str, base: Base, places: tuple[tuple[str, bool], ...]) -> PlantedInstance:
        """Plant into one file.

        Args:
            places: where text is burned in, and whether in one frame only.
        """
        self._number += 1
        ds = _copy_of(base.ds)
        answers: list[Answer] = []
        with quiet_pydicom():
            self._plant_identity(ds, answers)
            self._plant_texts(ds, answers)
            self._plant_dates(ds, answers)
            self._plant_uids(ds, answers)
            self._plant_nested(ds, answers)
            self._plant_private(ds, answers)
            self._plant_kept(ds, answers)
            frames = base.frames.copy()
            inks = [self._burn(frames, base, where, is_single) for where, is_single in places]
            answers += [Answer(Rule.PIXELS_HIDDEN, (), ink) for ink in inks]
            answers.append(Answer(Rule.PIXELS_RETAINED, (), (base.image, tuple(ink.box for ink in inks))))
            _put_frames(ds, frames, is_jpeg=base.is_jpeg)
        return PlantedInstance(name, ds, frames, tuple(answers))

    def _plant_identity(self, ds: Dataset, answers: list[Answer]) -> None:
        person = self._person
        ds.PatientID, ds.PatientName = person.patient_id, person.name
        ds.PatientBirthDate = f"{person.born:%Y%m%d}"
        answers += [
            Answer(Rule.PATID_CONSISTENT, ("PatientID",), person.patient_id),
            Answer(Rule.TEXT_NOTNULL, ("PatientID",), None),
            *(Answer(Rule.TEXT_REMOVED, ("PatientName",), word) for word in (person.family, person.given)),
            Answer(Rule.TEXT_REMOVED, ("PatientID",), person.patient_id),
            Answer(Rule.TEXT_REMOVED, ("PatientBirthDate",), f"{person.born:%Y%m%d}"),
        ]
        years = self._day.year - person.born.year - 1
        ds.PatientAge = f"{min(years, 88):03}Y"
        ds.PatientSex = "F"

    def _plant_texts(self, ds: Dataset, answers: list[Answer]) -> None:
        person, town = self._person, TOWNS[len(self._person.family) % len(TOWNS)]
        texts: dict[str, tuple[Any, tuple[str, ...]]] = {
            "OtherPatientIDs": (f"OLD{person.patient_id[3:]}", (person.patient_id[3:],)),
            "OtherPatientNames": (person.name, (person.family,)),
            "PatientBirthName": (f"{person.family}{town}^{person.given}", (town, person.given)),
            "PatientMotherBirthName": (f"{town}^Hortense", (town, "Hortense")),
            "PatientAddress": (f"12 Mill Lane, {town}", (town, "Mill Lane")),
            "PatientTelephoneNumbers": ("+44 1632 960983", ("960983",)),
            "ReferringPhysicianName": (f"{town}son^Eustace^^Dr", (f"{town}son", "Eustace")),
            "PerformingPhysicianName": ("Marchbanks^Lettice", ("Marchbanks", "Lettice")),
            "OperatorsName": ("Pocklington^Una", ("Pocklington", "Una")),
            "RequestingPhysician": ("Marchbanks^Lettice", ("Marchbanks",)),
            "InstitutionName": (f"{town} Royal Infirmary", (town,)),
            "InstitutionAddress": (f"1 Castle Street, {town}", (town, "Castle Street")),
            "InstitutionalDepartmentName": (f"Ward of Dr {town}son", (f"{town}son",)),
            "StationName": (f"{town[:6]}7", (f"{town[:6]}7",)),
            "DeviceSerialNumber": (SERIAL, (SERIAL,)),
            "AccessionNumber": (f"ACC{person.patient_id[4:]}", (f"ACC{person.patient_id[4:]}",)),
            "StudyID": (f"S{person.patient_id[5:]}", (f"S{person.patient_id[5:]}",)),
            "AdmissionID": (f"ADM{person.patient_id[4:]}", (f"ADM{person.patient_id[4:]}",)),
            "PatientComments": (f"{person.given} asks to be called at home", (person.given,)),
            "ImageComments": (f"seen with {person.family}", (person.family,)),
            "AdditionalPatientHistory": (f"born in {town} to Mrs {person.family}", (town, person.family)),
            "MedicalAlerts": (f"see file of {person.family}", (person.family,)),
            "SeriesDescription": (f"apical {person.family} {town}", (person.family, town)),
            "ProtocolName": (f"Protocol {town}", (town,)),
            "TransducerData": (["S5-1", SERIAL, town], (SERIAL, town)),
            "StageName": (f"rest {person.given}", (person.given,)),
            "AdmittingDiagnosesDescription": (f"murmur, {person.family} family", (person.family,)),
            "Occupation": (f"{town} mayor", (town,)),
            "EthnicGroup": (f"{town} folk", (town,)),
            "IssuerOfPatientID": (f"{town} NHS", (town,)),
        }
        for keyword, (value, planted) in texts.items():
            setattr(ds, keyword, value)
            answers += [Answer(Rule.TEXT_REMOVED, (keyword,), text) for text in planted]

    def _plant_dates(self, ds: Dataset, answers: list[Answer]) -> None:
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
            setattr(ds, keyword, f"{self._day:%Y%m%d}")
            answers.append(Answer(Rule.DATE_SHIFTED, (keyword,), self._day))
            answers.append(Answer(Rule.TEXT_REMOVED, (keyword,), f"{self._day:%Y%m%d}"))
        ds.AcquisitionDateTime = f"{self._day:%Y%m%d}104512.33"
        answers.append(Answer(Rule.DATE_SHIFTED, ("AcquisitionDateTime",), self._day))
        for keyword in ("StudyTime", "SeriesTime", "ContentTime"):
            setattr(ds, keyword, "104512.337")
            answers.append(Answer(Rule.TEXT_REMOVED, (keyword,), "104512.337"))
        ds.InstanceCreationDate, ds.InstanceCreationTime = f"{self._day:%Y%m%d}", "104512.338"
        answers.append(Answer(Rule.TEXT_REMOVED, ("InstanceCreationDate",), f"{self._day:%Y%m%d}"))

    def _plant_uids(self, ds: Dataset, answers: list[Answer]) -> None:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self._study, self._series
        ds.SOPInstanceUID = self._uids(self._day)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.FrameOfReferenceUID = self._frame_of_reference
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            answers += _uid_answers((keyword,), str(ds[keyword].value))
            answers.append(Answer(Rule.TEXT_NOTNULL, (keyword,), None))

    def _plant_nested(self, ds: Dataset, answers: list[Answer]) -> None:
        person = self._person
        request = Dataset()
        request.RequestedProcedureID = f"RP{person.patient_id[4:]}"
        request.ScheduledProcedureStepID = f"SP{person.patient_id[4:]}"
        request.RequestedProcedureDescription = f"echo for {person.family}"
        ds.RequestAttributesSequence = Sequence([request])
        other = Dataset()
        other.PatientID, other.IssuerOfPatientID = f"X{person.patient_id[3:]}", "Elsewhere General"
        ds.OtherPatientIDsSequence = Sequence([other])
        modified = Dataset()
        modified.PatientName = person.name
        original = Dataset()
        original.ModifiedAttributesSequence = Sequence([modified])
        original.ModifyingSystem, original.SourceOfPreviousValues = person.family, person.family
        ds.OriginalAttributesSequence = Sequence([original])
        image = Dataset()
        image.ReferencedSOPClassUID = UltrasoundMultiFrameImageStorage
        image.ReferencedSOPInstanceUID = self._referenced
        ds.SourceImageSequence = Sequence([image])
        for place, text in (
            (("RequestAttributesSequence", 0, "RequestedProcedureID"), request.RequestedProcedureID),
            (("RequestAttributesSequence", 0, "ScheduledProcedureStepID"), request.ScheduledProcedureStepID),
            (("RequestAttributesSequence", 0, "RequestedProcedureDescription"), person.family),
            (("OtherPatientIDsSequence", 0, "PatientID"), other.PatientID),
            (("OriginalAttributesSequence", 0, "ModifyingSystem"), person.family),
            (
                ("OriginalAttributesSequence", 0, "ModifiedAttributesSequence", 0, "PatientName"),
                person.family,
            ),
        ):
            answers.append(Answer(Rule.TEXT_REMOVED, place, str(text)))
        # The table lets a reference be removed or changed; so that it is the same everywhere is not asked.
        reference: Place = ("SourceImageSequence", 0, "ReferencedSOPInstanceUID")
        answers += [
            Answer(rule, reference, self._referenced) for rule in (Rule.UID_CHANGED, Rule.TEXT_REMOVED)
        ]

    def _plant_private(self, ds: Dataset, answers: list[Answer]) -> None:
        person = self._person
        creator = ds.private_block(0x200D, "Philips US Imaging DD 033", create=True)
        codes = [ord(letter) for letter in person.name]
        creator.add_new(0x01, "US", codes)
        creator.add_new(0x02, "UL", codes)
        creator.add_new(0x03, "OB", person.name.encode("utf-16-le"))
        creator.add_new(0x04, "LO", person.name)
        named = ds.private_block(0x0009, f"{person.family} PACS", create=True)
        named.add_new(0x01, "UN", person.patient_id.encode())
        item = Dataset()
        item.PatientName = person.name
        named.add_new(0x02, "SQ", Sequence([item]))
        ds.FrameNumbersOfInterest = codes
        answers += [
            Answer(Rule.TEXT_REMOVED, ("FrameNumbersOfInterest",), person.family),
            *(Answer(Rule.TEXT_REMOVED, (), text) for text in (person.family, person.given, SERIAL)),
            Answer(Rule.TEXT_REMOVED, (), person.patient_id),
        ]

    def _plant_kept(self, ds: Dataset, answers: list[Answer]) -> None:
        """Say what must stay, so that removing everything is no way to pass."""
        ds.StudyDescription = f"{' '.join(KEPT_DESCRIPTION)} {self._person.family}"
        answers += [Answer(Rule.TEXT_RETAINED, ("StudyDescription",), word) for word in KEPT_DESCRIPTION]
        answers.append(Answer(Rule.TEXT_REMOVED, ("StudyDescription",), self._person.family))
        ds.InstanceNumber, ds.FrameTime = self._number, 33.3
        for keyword in (
            "SOPClassUID", "Modality", "InstanceNumber", "PatientSex", "PatientAge", "Rows", "Columns",
            "BitsAllocated", "FrameTime",
        ):  # fmt: skip
            if keyword in ds:
                answers.append(Answer(Rule.TAG_RETAINED, (keyword,), ds[keyword].value))
        for index, item in enumerate(ds.get("SequenceOfUltrasoundRegions") or ()):
            for keyword in ("RegionSpatialFormat", "RegionDataType", "RegionLocationMinX0", "PhysicalDeltaX"):
                if keyword in item:
                    place: Place = ("SequenceOfUltrasoundRegions", index, keyword)
                    answers.append(Answer(Rule.TAG_RETAINED, place, item[keyword].value))
        answers += [
            Answer(Rule.TEXT_NOTNULL, (keyword,), None)
            for keyword in ("PatientIdentityRemoved", "DeidentificationMethodCodeSequence")
        ]

    def _burn(self, frames: Frames, base: Base, where: str, is_single: bool) -> Ink:
        person = self._person
        text = f"{person.family} {person.born:%d.%m.%Y}" if where != "beside" else person.family
        size = max(12, frames.shape[1] // 32)
        left, top = {
            "above": base.above,
            "beside": base.beside,
            "inside": (base.image.left + 4, (base.image.top + base.image.bottom) // 2),
        }[where]
        if where == "inside":
            text = person.family
        picture = Image.new("L", (frames.shape[2], frames.shape[1]))
        ImageDraw.Draw(picture).text((left, top), text, fill=255, font_size=size)
        letters = np.asarray(picture)
        rows, columns = (np.flatnonzero(letters.any(axis=axis)) for axis in (1, 0))
        box = Corner(int(columns[0]) - 2, int(rows[0]) - 2, int(columns[-1]) + 3, int(rows[-1]) + 3)
        box = Corner(max(box.left, 0), max(box.top, 0), box.right, box.bottom)
        marked = (len(frames) // 2,) if is_single else tuple(range(len(frames)))
        for place in marked:
            frames[place] = np.maximum(frames[place], letters[..., None])
        return Ink(text, where, marked, box, letters[box.top : box.bottom, box.left : box.right] > 128)


def _uid_answers(place: Place, uid: str) -> list[Answer]:
    return [Answer(rule, place, uid) for rule in (Rule.UID_CHANGED, Rule.UID_CONSISTENT, Rule.TEXT_REMOVED)]


def _copy_of(ds: Dataset) -> FileDataset:
    """Copy a header without its private elements and pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    copied = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    with quiet_pydicom():
        for element in ds:
            if not element.tag.is_private and element.tag.group < 0x6000:
                copied.add(element)
        copied = pydicom.dataset.FileDataset("", _deep(copied), preamble=b"\0" * 128, file_meta=meta)
    copied.SOPClassUID = UltrasoundMultiFrameImageStorage
    copied.Modality = "US"
    copied.SpecificCharacterSet = "ISO_IR 192"
    return copied


def _deep(ds: Dataset) -> Dataset:
    return Dataset.from_json(ds.to_json())


def _put_frames(ds: FileDataset, frames: Frames, *, is_jpeg: bool) -> None:
    ds.Rows, ds.Columns = frames.shape[1:3]
    ds.NumberOfFrames, ds.SamplesPerPixel = len(frames), 3
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PlanarConfiguration = 7, 0, 0
    for keyword in ("NumberOfFramesInOverlay", "FrameTimeVector", "LossyImageCompressionRatio"):
        ds.pop(keyword, None)
    if is_jpeg:
        ds.PhotometricInterpretation = "YBR_FULL_422"
        encoded = [simplejpeg.encode_jpeg(frame, 95, colorsubsampling="422") for frame in frames]
        ds.PixelData = encapsulate(encoded, has_bot=False)
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    else:
        ds.PhotometricInterpretation = "RGB"
        ds.PixelData = frames.tobytes()
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = UID(JPEGBaseline8Bit if is_jpeg else ExplicitVRLittleEndian)


def write(planted: PlantedInstance, path: Path) -> Path:
    """Write the file to send."""
    with quiet_pydicom():
        pydicom.dcmwrite(path, planted.ds, enforce_file_format=True)
    return path
