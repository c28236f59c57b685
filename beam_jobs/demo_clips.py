"""The real ultrasound that the demo sends: files other people published, from installed packages.

Nothing is downloaded and nothing is altered. Each file goes out as its publisher made it, so some
share a study, one lacks a patient, and several are not hearts at all: those show what becomes of
what a PACS sends along.
"""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pydicom
from pydicom import config
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from beam_jobs.deid.quiet import quiet_pydicom


@dataclass(frozen=True)
class Clip:
    """One file of the demo.

    Attributes:
        what: what it shows and who published it, for people.
        transfer_syntax: UID of the encoding of its pixels.
    """

    path: Path
    what: str
    study_instance_uid: str
    sop_instance_uid: str
    transfer_syntax: str


@dataclass(frozen=True)
class Skipped:
    """A file that is not sent, and why."""

    name: str
    why: str


_PUBLIC: Final = (
    ("data_store", "data/color3d_jpeg_baseline.dcm", "apical four chamber, grey, SonoSite"),
    ("pydicom", "data/test_files/examples_ybr_color.dcm", "the same clip at half size"),
    ("deid_data", "data/ultrasounds/ultrasound-multiframe.dcm", "parasternal long axis with colour, Philips"),
    ("deid_data", "data/ultrasounds/GREYSCALE_CINE.zip", "probe in air, cine"),
    ("deid_data", "data/ultrasounds/GREYSCALE_IMAGE.dcm", "probe in air, still"),
    ("deid_data", "data/ultrasounds/RGB_IMAGE.dcm", "probe in air, colour still"),
    ("data_store", "data/OBXXXX1A.dcm", "obstetric"),
    ("data_store", "data/US1_UNCR.dcm", "not a heart, native"),
    ("data_store", "data/US1_J2KR.dcm", "the still before in JPEG 2000"),
    ("pydicom", "data/test_files/examples_rgb_color.dcm", "not a heart, small colour still"),
    ("data_store", "data/gdcm-US-ALOKA-16.dcm", "not a heart, 16-bit palette, Aloka"),
    ("data_store", "data/JPGLosslessP14SV1_1s_1f_8b.dcm", "not a heart, JPEG Lossless"),
    ("pydicom", "data/test_files/ExplVR_BigEnd.dcm", "not a heart, big endian"),
    ("data_store", "data/SC_rgb.dcm", "secondary capture"),
    ("pydicom", "data/test_files/test-SR.dcm", "structured report"),
)
_DISTRIBUTIONS: Final = {"data_store": "pydicom-data", "deid_data": "deid-data"}
"""Who publishes, by the package's name on an index, where it is imported by another."""


def public_clips(unpack_to: Path) -> tuple[list[Clip], list[Skipped]]:
    """Find the public files in the installed packages.

    Args:
        unpack_to: folder for the one clip that is published in an archive.

    Returns:
        The clips to send, each SOP Instance UID once, and what is not sent.
    """
    found: list[tuple[Path, str]] = []
    skipped: list[Skipped] = []
    for package, name, what in _PUBLIC:
        path = _in_package(package, name)
        publisher = _DISTRIBUTIONS.get(package, package)
        if path is None:
            skipped.append(Skipped(Path(name).name, f"{publisher} does not have it here"))
        elif path.suffix == ".zip":
            found.extend((unpacked, f"{what} ({publisher})") for unpacked in _unpack(path, unpack_to))
        else:
            found.append((path, f"{what} ({publisher})"))
    clips, unfit = describe_clips(found)
    return clips, skipped + unfit


def describe_clips(files: Iterable[tuple[Path, str]]) -> tuple[list[Clip], list[Skipped]]:
    """Read what sending needs from each file's header.

    Args:
        files: path and description of each.

    Returns:
        Those that a receiver can file, and the others with the reason: not DICOM, an identifier
        missing or malformed, or the SOP Instance UID of an earlier one.
    """
    clips: list[Clip] = []
    skipped: list[Skipped] = []
    for path, what in files:
        try:
            with quiet_pydicom():
                header = pydicom.dcmread(path, stop_before_pixels=True)
                syntax = str(header.file_meta.TransferSyntaxUID)
                study, instance = (
                    str(header.get(name, "")) for name in ("StudyInstanceUID", "SOPInstanceUID")
                )
        except (InvalidDicomError, AttributeError):
            skipped.append(Skipped(path.name, "not a DICOM file"))
            continue
        if not (_is_uid(study) and _is_uid(instance)):
            skipped.append(Skipped(path.name, "its Study or SOP Instance UID is missing or malformed"))
        elif any(clip.sop_instance_uid == instance for clip in clips):
            skipped.append(Skipped(path.name, "has the SOP Instance UID of a file before"))
        else:
            clips.append(Clip(path, what, study, instance, syntax))
    return clips, skipped


def _is_uid(value: str) -> bool:
    # Without this mode pydicom would warn with the raw value.
    return bool(value) and UID(value, validation_mode=config.IGNORE).is_valid


def _in_package(package: str, name: str) -> Path | None:
    """Return the path of a file of an installed package, without importing the package."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.is_file() else None


def _unpack(archive: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            target = folder / Path(member.filename).name
            if not target.exists():
                unfinished = target.with_suffix(".tmp")
                unfinished.write_bytes(opened.read(member))
                unfinished.rename(target)
            yield target
