"""What a de-identified object says of how it became one (PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1.1.4)."""

from functools import lru_cache
from importlib.metadata import version
from io import BytesIO

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from beam_jobs.deid.profile.coded_items import code_item
from beam_jobs.deid.profile.options import EDITION, DeidOptions


@lru_cache(maxsize=64)
def what_was_done(
    options: DeidOptions, key_id: str, has_pixels: bool, pixels_cleaned: bool
) -> tuple[RawDataElement | DataElement, ...]:
    """Give the elements that tell a reader what an object went through; made once and shared.

    Args:
        options: what the site chose.
        key_id: which secret made UIDs and keys.
        has_pixels: whether the instance is an image.
        pixels_cleaned: whether its pixels were cleaned.
    """
    said = Dataset()
    said.PatientIdentityRemoved = "YES" if pixels_cleaned or not has_pixels else "NO"
    said.DeidentificationMethod = [
        f"DICOM PS3.15 {EDITION} Annex E",
        f"echobeam {version('echobeam')}",
        f"key {key_id}",
    ]
    said.DeidentificationMethodCodeSequence = [
        code_item(code.value, "DCM", code.meaning)
        for code in options.method_codes(pixels_cleaned=pixels_cleaned)
    ]
    if has_pixels:
        said.BurnedInAnnotation = "NO" if pixels_cleaned else "YES"
    said.LongitudinalTemporalInformationModified = "MODIFIED" if options.retain_modified_dates else "REMOVED"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, said)
    encoded = BytesIO(buffer.getvalue())
    return tuple(read_dataset(encoded, is_implicit_VR=False, is_little_endian=True).values())
