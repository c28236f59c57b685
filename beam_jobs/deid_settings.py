"""Section `[deid]` of the configuration."""

from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dicom_listener.settings import RootedPath, SectionSettings

if TYPE_CHECKING:
    from beam_jobs.deid.profile import DeidOptions

DEID_SECTION: Final = "deid"


class DeidSettings(SectionSettings):
    """Section `[deid]`: options of the confidentiality profile, and the archive of de-identified DICOM.

    The tables hold less than any of these options would leave; they are not changed by them.
    """

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_DEID_")

    archive: bool = Field(default=False, description="Write a de-identified DICOM file of every instance.")
    archive_folder: RootedPath = Field(
        default_factory=lambda data: data["root"] / "deid_archive",
        description="Folder of the de-identified DICOM files.",
    )
    clean_pixel_data: bool = Field(
        default=True,
        description="Clean Pixel Data Option. Off: images stay out of the archive, reports are written.",
    )
    clean_graphics: bool = Field(
        default=True, description="Clean Graphics Option. Overlays and curves are removed in either case."
    )
    clean_structured_content: bool = Field(
        default=True,
        description="Clean Structured Content Option. Off: a report's content becomes one dummy item.",
    )
    clean_descriptors: bool = Field(
        default=True,
        description="Clean Descriptors Option: known words of echo stay. Off: texts are removed.",
    )
    retain_modified_dates: bool = Field(
        default=True,
        description="Retain Longitudinal Temporal Information with Modified Dates Option. Off: no dates.",
    )
    times_of_day: Literal["remove", "shift"] = Field(
        default="remove", description="Whether times of day are removed, or moved along with the dates."
    )
    retain_patient_characteristics: bool = Field(
        default=True,
        description="Retain Patient Characteristics Option; ages of 90 and over are 90. Off: removed.",
    )
    retain_device_identity: bool = Field(
        default=False, description="Retain Device Identity Option: serial numbers and names of stations stay."
    )

    ocr: Literal["auto", "off", "require"] = Field(
        default="auto",
        description="Whether frames are read for words within the image, which are blacked out, and again "
        "before they are released: auto where tesseract is installed, require refuses to start without it.",
    )
    review: Literal["flag", "quarantine"] = Field(
        default="flag",
        description="What becomes of a study with a clip that a person should look at (odd regions, doubtful "
        "text): flag marks it in the tables, quarantine keeps the study back.",
    )

    def options(self) -> "DeidOptions":
        """Give the options of the profile."""
        # Imported when used: settings are read by verbs that decode nothing.
        from beam_jobs.deid.profile import DeidOptions  # noqa: PLC0415

        return DeidOptions(**{name: getattr(self, name) for name in DeidOptions.__dataclass_fields__})
