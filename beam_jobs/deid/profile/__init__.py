"""The confidentiality profile of PS3.15 Annex E over a whole dataset.

The tables take predictions and frames, and need little of a header; they come through the fast path of
`beam_jobs.deid`. Whoever wants a de-identified DICOM object, or the audit of one, comes through here:
every row of Table E.1-1, the options that the site chose, and on top of it an allow-list, because for
ultrasound the table is a deny-list that leaves more than half of the attributes alone.

    options             what a site chooses; codes of CID 7050
    table               Tables E.1-1 and E.3.4-1, as data
    attribute_types     X/Z/D and the like, by the Type in the IOD
    values              bytes in, bytes out: dummies, hashed UIDs, known words
    dates, numbers      the same for what moves, and for what must be in range
    descriptors         the words that are known
    codes, coded_items  coded concepts, looked up and never copied
    steps, plan         one step for each attribute
    statement           what the new object says of its own de-identification
    structured_content  items of a report
    walk                once through the dataset
"""

from dataclasses import dataclass, field

from pydicom import Dataset

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.profile.options import EDITION, DeidOptions
from beam_jobs.deid.profile.statement import what_was_done
from beam_jobs.deid.profile.steps import Action
from beam_jobs.deid.profile.walk import Recorded, Walk
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import text
from beam_jobs.records import Placement, Reason

__all__ = ["EDITION", "Action", "DeidOptions", "DeidentifiedDataset", "deidentify_dataset"]


@dataclass(frozen=True, slots=True, eq=False)
class DeidentifiedDataset:
    """A dataset without its patient, and what was done to it.

    Attributes:
        ds: the new dataset, without pixels; explicit VR, little endian, ASCII.
    """

    ds: Dataset
    _recorded: tuple[Recorded, ...] = field(repr=False)

    @property
    def actions(self) -> tuple[Action, ...]:
        """One entry for each element of the source, a sequence before its items; no values."""
        return tuple(Action(*recorded) for recorded in self._recorded)


def deidentify_dataset(
    ds: Dataset,
    *,
    options: DeidOptions,
    placement: Placement,
    pseudonymizer: Pseudonymizer,
    pixels_cleaned: bool = False,
) -> DeidentifiedDataset:
    """Apply the profile, the options and the allow-list to a whole dataset.

    Args:
        ds: as pydicom reads it, of any SOP class; not changed. Pixels are not looked at.
        options: what the site chose.
        placement: says whose it is; its subject key becomes the patient ID.
        pseudonymizer: gives UIDs and shifts.
        pixels_cleaned: the caller puts cleaned pixels into the result. Only then, or where there are
            no pixels, does it say that the patient is gone, and only after a verification may the
            caller let go of what says so.

    Raises:
        RejectedError: UNREADABLE_HEADER where pydicom cannot make sense of it. It holds no value.
    """
    with quiet_pydicom():
        walk = Walk(options, text(ds, "SOPClassUID"), placement.subject_key, pseudonymizer)
        try:
            cleaned, has_pixels = walk.clean(ds), "Rows" in ds
        except Exception:  # noqa: BLE001 - pydicom raises errors of any type, quoting raw values
            cleaned, has_pixels = None, False
    if cleaned is None:
        # Raised outside the handler, so that not even `__context__` keeps pydicom's message.
        raise RejectedError(Reason.UNREADABLE_HEADER)
    pixels_cleaned = has_pixels and pixels_cleaned and options.clean_pixel_data
    for element in what_was_done(options, pseudonymizer.key_id, has_pixels, pixels_cleaned):
        cleaned[element.tag] = element
    return DeidentifiedDataset(cleaned, tuple(walk.actions))
