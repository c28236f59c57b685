"""What a real header says of its patient, read again so that it can be searched for in what was written.

Values are taken from the elements as they lie: nothing is converted but sequences, names and the few
identifiers, and an element that cannot be read takes no other with it. Nothing here is ever printed:
the reprs are empty and no error carries a value.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

import pydicom
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import BaseTag

from beam_jobs.deid.quiet import quiet_pydicom

PRIVATE: Final = "private"
"""Stands for every private element where elements are counted: even their creators may be names."""

UNKNOWN: Final = "unknown"
"""Stands for every element that the dictionary does not have: in a damaged header a tag may be text."""

DAMAGED: Final = "damaged"
"""Stands for all elements of a header that cannot be walked."""

IDENTIFIER_KEYWORDS: Final = frozenset(
    {
        "AccessionNumber",
        "AdmissionID",
        "CurrentPatientLocation",
        "DetectorID",
        "DeviceSerialNumber",
        "FillerOrderNumberImagingServiceRequest",
        "GantryID",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "IssuerOfPatientID",
        "MedicalRecordLocator",
        "OrderCallbackPhoneNumber",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientID",
        "PatientMotherBirthName",
        "PatientTelephoneNumbers",
        "PerformedProcedureStepID",
        "PerformedStationAETitle",
        "PerformedStationName",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "PlacerOrderNumberImagingServiceRequest",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "RequestedProcedureID",
        "RequestingService",
        "ScheduledProcedureStepID",
        "ScheduledStationAETitle",
        "ScheduledStationName",
        "ServiceEpisodeID",
        "StationName",
        "StudyID",
        "TransducerData",
        "UniqueDeviceIdentifier",
    }
)
"""Elements whose value names a patient, a visit, a place or a device (PS3.15 Table E.1-1)."""

_NAME_VRS: Final = frozenset({"PN"})
_DATE_VRS: Final = frozenset({"DA", "DT"})
_DATE: Final = re.compile(rb"(?<!\d)(\d{4})[.]?(\d{2})[.]?(\d{2})")
_NAME_BYTES: Final = re.compile(rb"[^\x00-\x1f^]{1,64}\^[^\x00-\x1f]{0,64}")
_UID_BYTES: Final = re.compile(rb"(?:[12]|0)(?:\.\d{1,39}){3,}")
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_LONGEST_DAMAGED_HEADER: Final = 1 << 20

_STANDARD_ROOT: Final = "1.2.840.10008."
_MEDIA_STORAGE_SOP_INSTANCE_UID: Final = 0x00020003
_DEEPEST: Final = 32
"""Sequences nested deeper than this are not followed: no real header has any."""


@dataclass(frozen=True, slots=True)
class Originals:
    """The identifiers of one header, or of several.

    Attributes:
        names: person names as written, with every group and component.
        identifiers: patient, visit, place and device identifiers.
        dates: every date, at any depth.
        uids: every UID that the Standard has not given out.
    """

    names: frozenset[str] = field(default=frozenset(), repr=False)
    identifiers: frozenset[str] = field(default=frozenset(), repr=False)
    dates: frozenset[date] = field(default=frozenset(), repr=False)
    uids: frozenset[str] = field(default=frozenset(), repr=False)

    def __or__(self, other: Self) -> "Originals":
        return Originals(
            self.names | other.names,
            self.identifiers | other.identifiers,
            self.dates | other.dates,
            self.uids | other.uids,
        )


@dataclass(frozen=True, slots=True)
class SourceHeader:
    """What the verifier and the audit take from a real header.

    Attributes:
        originals: what must not be found downstream.
        elements: how often each element occurs, at any depth, by keyword, or `PRIVATE` or `UNKNOWN`.
    """

    originals: Originals
    elements: Counter[str]


def read_source_header(path: Path) -> SourceHeader:
    """Read the whole header of a spooled instance; its pixels stay in the file.

    Where it is damaged, so that pydicom cannot walk it, names, dates and UIDs are picked out of its bytes,
    and all its elements count as one, `DAMAGED`.

    Raises:
        OSError: if the file cannot be read.
    """
    header: SourceHeader | None = None
    with path.open("rb") as file:
        try:
            with quiet_pydicom():
                header = header_of(pydicom.dcmread(file, stop_before_pixels=True))
        except Exception:  # noqa: BLE001, S110 - pydicom raises errors of any type, quoting raw values
            pass
        if header is None or not header.elements:
            file.seek(0)
            header = _picked(file.read(_LONGEST_DAMAGED_HEADER).partition(_PIXEL_DATA)[0])
    return header


def _picked(data: bytes) -> SourceHeader:
    names = {match.decode("latin-1").strip() for match in _NAME_BYTES.findall(data)}
    uids = {uid for match in _UID_BYTES.findall(data) for uid in _uids(match)}
    originals = Originals(frozenset(names), frozenset(), frozenset(_dates(data)), frozenset(uids))
    return SourceHeader(originals, Counter({DAMAGED: 1}))


def header_of(ds: Dataset) -> SourceHeader:
    """Collect from a dataset as `pydicom.dcmread` gives it."""
    names: set[str] = set()
    identifiers: set[str] = set()
    dates: set[date] = set()
    uids: set[str] = set()
    elements: Counter[str] = Counter()
    with suppress(Exception):  # a file without meta group
        uids.update(_uids(ds.file_meta[_MEDIA_STORAGE_SOP_INSTANCE_UID].value))
    for parent, tag, vr in walk(ds):
        keyword = keyword_of(tag)
        elements[keyword] += 1
        with suppress(Exception):  # one value that cannot be read
            if vr in _NAME_VRS:
                names.update(_texts(parent, tag))
            elif vr in _DATE_VRS:
                dates.update(_dates(parent.get_item(tag).value))
            elif vr == "UI":
                uids.update(_uids(parent.get_item(tag).value))
            elif keyword in IDENTIFIER_KEYWORDS:
                identifiers.update(_texts(parent, tag))
    return SourceHeader(
        Originals(frozenset(names), frozenset(identifiers), frozenset(dates), frozenset(uids)), elements
    )


def keyword_of(tag: BaseTag) -> str:
    """Name an element without telling anything that a header chose itself."""
    return PRIVATE if tag.is_private else keyword_for_tag(tag) or UNKNOWN


def walk(ds: Dataset, depth: int = 0) -> Iterator[tuple[Dataset, BaseTag, str]]:
    """Yield the dataset, tag and value representation of each element, a sequence before what is in it."""
    for tag in sorted(ds.keys()):
        vr = _vr(ds, tag)
        yield ds, tag, vr
        if vr == "SQ" and depth < _DEEPEST:
            items: Any = ()
            with suppress(Exception):  # a sequence that cannot be parsed
                items = ds[tag].value or ()
            for item in items:
                yield from walk(item, depth + 1)


def _vr(ds: Dataset, tag: BaseTag) -> str:
    vr = ds.get_item(tag).VR
    if vr not in {None, "UN"}:
        return str(vr)
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


def _texts(ds: Dataset, tag: BaseTag) -> Iterator[str]:
    value = ds[tag].value
    for part in value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]:
        if part is not None and (text := str(part).strip(" \0")):
            yield text


def _dates(value: Any) -> Iterator[date]:
    written = value if isinstance(value, bytes) else str(value).encode()
    for match in _DATE.finditer(written):
        with suppress(ValueError):
            yield date(*map(int, match.groups()))


def _uids(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        written = value.decode("ascii").split("\\")
    else:
        written = [value] if isinstance(value, str) else list(value)
    for part in written:
        uid = str(part).strip(" \0")
        if uid and not uid.startswith(_STANDARD_ROOT):
            yield uid
