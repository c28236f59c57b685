"""The options of the profile that a site chooses, and the codes by which a file says which it got."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

EDITION: Final = "2026d"
"""Edition of the Standard whose tables are carried."""


class MethodCode(NamedTuple):
    """A code of CID 7050 "De-identification Method" (PS3.16), of the coding scheme DCM."""

    value: str
    meaning: str


BASIC_PROFILE: Final = MethodCode("113100", "Basic Application Confidentiality Profile")

_OPTION_CODES: Final = (
    ("clean_pixel_data", MethodCode("113101", "Clean Pixel Data Option")),
    ("clean_graphics", MethodCode("113103", "Clean Graphics Option")),
    ("clean_structured_content", MethodCode("113104", "Clean Structured Content Option")),
    ("clean_descriptors", MethodCode("113105", "Clean Descriptors Option")),
    (
        "retain_modified_dates",
        MethodCode("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ),
    ("retain_patient_characteristics", MethodCode("113108", "Retain Patient Characteristics Option")),
    ("retain_device_identity", MethodCode("113109", "Retain Device Identity Option")),
)


@dataclass(frozen=True, slots=True)
class DeidOptions:
    """Which options of PS3.15 Annex E.3 are applied on top of the Basic Profile.

    UIDs, institutions, full dates and private elements have options in the Standard too; they are not
    offered, because what they keep names people or places.

    Attributes:
        clean_pixel_data: E.3.1. Without it no image is let out at all, as its pixels may name somebody.
        clean_graphics: E.3.3. Overlays and curves are removed in either case.
        clean_structured_content: E.3.4. Without it a report's content is one dummy item.
        clean_descriptors: E.3.5. Of a text only words of a closed vocabulary stay.
        retain_modified_dates: E.3.6. Dates of a subject move together; without it they are removed.
        retain_patient_characteristics: E.3.7, ages of 90 and over become 90.
        retain_device_identity: E.3.8.
        times_of_day: what becomes of times: removed, or moved along with the dates.
    """

    clean_pixel_data: bool = True
    clean_graphics: bool = True
    clean_structured_content: bool = True
    clean_descriptors: bool = True
    retain_modified_dates: bool = True
    retain_patient_characteristics: bool = True
    retain_device_identity: bool = False
    times_of_day: Literal["remove", "shift"] = "remove"

    def method_codes(self, *, pixels_cleaned: bool) -> Iterator[MethodCode]:
        """Give the codes of what was done (PS3.16 CID 7050).

        Args:
            pixels_cleaned: whether the instance has pixels, and they were cleaned.
        """
        yield BASIC_PROFILE
        for name, code in _OPTION_CODES:
            if getattr(self, name) and (pixels_cleaned or name != "clean_pixel_data"):
                yield code
