"""Asking an archive for studies: C-FIND, Study Root, study level (PS3.4 C.4.1, C.6.2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from typing import Any, Final

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_listener.errors import PeerRefusedError

STUDY_KEYS: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "ModalitiesInStudy",
    "StudyDescription",
    "PatientID",
    "NumberOfStudyRelatedInstances",
)
"""What is asked for and may be matched by, in the order of the query (PS3.4 Tables C.6-5, C.6-5a)."""

_SUCCESS: Final = 0x0000
_PENDING: Final = (0xFF00, 0xFF01)
_DATE: Final = "%Y%m%d"


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """Which studies are asked for. What is empty matches anything.

    Attributes:
        first_day: of the study dates, inclusive.
        last_day: of the study dates, inclusive.
        keys: more of the attributes by keyword, with `*` and `?` as wildcards where the archive knows them.
    """

    first_day: date | None = None
    last_day: date | None = None
    keys: Mapping[str, str] = field(default_factory=dict)

    def identifier(self) -> Dataset:
        """Encode the question."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        for keyword in (*STUDY_KEYS, *self.keys):
            setattr(identifier, keyword, self.keys.get(keyword, ""))
        if self.first_day is not None or self.last_day is not None:
            first, last = (
                "" if day is None else day.strftime(_DATE) for day in (self.first_day, self.last_day)
            )
            identifier.StudyDate = first if first == last else f"{first}-{last}"
        return identifier

    def matches(self, answer: Dataset) -> bool:
        """Say whether an answer is what was asked for.

        An archive may ignore a key that it does not know (PS3.4 C.2.2.1.3) and then answers too much.
        """
        day = str(answer.get("StudyDate", "") or "")
        if self.first_day is not None and day and day < self.first_day.strftime(_DATE):
            return False
        if self.last_day is not None and day and day > self.last_day.strftime(_DATE):
            return False
        return all(_fits(answer.get(keyword), wanted) for keyword, wanted in self.keys.items())


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study that an archive has.

    Attributes:
        instances: how many it has there; None if the archive does not say.
    """

    study_instance_uid: str
    instances: int | None


def find_contexts() -> list[PresentationContext]:
    """Build the presentation context of the question."""
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    return [build_context(StudyRootQueryRetrieveInformationModelFind, syntaxes)]


def find_studies(assoc: Association, query: StudyQuery) -> Iterator[FoundStudy]:
    """Ask for studies on an open association. Each study comes once, whatever the archive repeats.

    Raises:
        PeerRefusedError: if the archive answers with a failure, or not.
    """
    seen = set()
    try:
        answers = assoc.send_c_find(query.identifier(), StudyRootQueryRetrieveInformationModelFind)
    except RuntimeError as error:
        raise PeerRefusedError("the association ended before the archive was asked") from error
    except ValueError as error:
        raise PeerRefusedError(
            "the archive takes no C-FIND of the Study Root model from us: allow it for our AE title there"
        ) from error
    for status, answer in answers:
        if "Status" not in status:
            raise PeerRefusedError("the archive did not answer the C-FIND in time")
        if status.Status == _SUCCESS:
            return
        if status.Status not in _PENDING:
            raise PeerRefusedError(f"the archive answered the C-FIND with status 0x{status.Status:04X}")
        study = _read_answer(answer, query)
        if study is not None and study.study_instance_uid not in seen:
            seen.add(study.study_instance_uid)
            yield study


def _read_answer(answer: Dataset | None, query: StudyQuery) -> FoundStudy | None:
    if answer is None:  # it could not be decoded
        return None
    uid = str(answer.get("StudyInstanceUID", "") or "")
    if not UID(uid, validation_mode=config.IGNORE).is_valid or not query.matches(answer):
        return None
    try:
        instances = int(answer.get("NumberOfStudyRelatedInstances", None) or 0)
    except (TypeError, ValueError):
        instances = 0
    return FoundStudy(uid, instances if instances > 0 else None)


def _fits(value: Any, wanted: str) -> bool:
    """Compare as PS3.4 C.2.2.2 does, but for letters' case; what the archive does not tell is believed."""
    if value is None or value == "" or wanted == "":
        return True
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    pattern = wanted.strip().casefold().replace("[", "[[]")
    return any(fnmatchcase(str(one).strip().casefold(), pattern) for one in values)
