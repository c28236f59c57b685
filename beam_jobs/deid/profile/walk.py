"""Go through a dataset once, make the new one, and note what was done.

The walk reads elements as they are encoded and converts only what its rule needs, so an element that
goes costs a look-up. Nothing of the source is changed, and no value of it gets into an error.
"""

from typing import Final

import numpy as np
from pydicom import Dataset, Sequence
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.profile.coded_items import clean_code
from beam_jobs.deid.profile.dates import shift_date_of_time
from beam_jobs.deid.profile.options import DeidOptions
from beam_jobs.deid.profile.plan import Plan, plan_for
from beam_jobs.deid.profile.steps import (
    ALLOW_LIST,
    CONTENT_ITEM,
    ENCODING,
    PRIVATE_ROW,
    UNREADABLE,
    Items,
    Step,
    raw_element,
)
from beam_jobs.deid.profile.structured_content import clean_content_item, dummy_item

Element = DataElement | RawDataElement
Recorded = tuple[tuple[int, ...], str, str]

_DEEPEST: Final = 24
"""Items within items; a report has ten at most."""

_HEADER_BYTES_LONG: Final = 12
_HEADER_BYTES_SHORT: Final = 8
_LONG_VRS: Final = frozenset({"OB", "OW", "SQ", "UC", "UN", "UR", "UT"})
_TEXT_VRS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_WORD_DTYPES: Final = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), "u2"),
    **dict.fromkeys(("UL", "SL", "FL"), "u4"),
    "FD": "u8",
}
_SAME_WIDTH: Final = {frozenset(pair) for pair in (("US", "SS"), ("UL", "SL"), ("OB", "OW"))}


class Walk:
    """One dataset on its way through the profile.

    Attributes:
        actions: what was done so far, one entry an element.
    """

    __slots__ = (
        "_nested",
        "_options",
        "_pseudonymizer",
        "_top",
        "actions",
        "day_shift",
        "second_shift",
        "shifts_times",
        "subject_key",
    )

    def __init__(
        self, options: DeidOptions, sop_class_uid: str, subject_key: str, pseudonymizer: Pseudonymizer
    ) -> None:
        self._top = plan_for(options, sop_class_uid, is_nested=False)
        self._nested = plan_for(options, sop_class_uid, is_nested=True)
        self._options = options
        self._pseudonymizer = pseudonymizer
        self.actions: list[Recorded] = []
        self.subject_key = subject_key
        self.day_shift = pseudonymizer.day_shift(subject_key)
        self.second_shift = pseudonymizer.second_shift(subject_key)
        self.shifts_times = options.times_of_day == "shift"

    def uid(self, uid: str) -> str:
        """Give the UID that stands for another."""
        return self._pseudonymizer.uid(uid)

    def clean(self, ds: Dataset) -> Dataset:
        """Make the de-identified dataset of an instance."""
        return self._dataset(ds, (), self._top)

    def _dataset(self, ds: Dataset, path: tuple[int, ...], plan: Plan) -> Dataset:
        out: dict[BaseTag, Element] = {}
        note = self.actions.append
        for tag, element in ds.items():
            number = int(tag)
            step = plan.get(number)
            if step is None:
                note(((*path, number), "X", PRIVATE_ROW if number & 0x10000 else ALLOW_LIST))
                continue
            place = len(self.actions)
            code, rule, new = self._element(ds, tag, element, step, (*path, number))
            self.actions.insert(place, ((*path, number), code, rule))
            if new is not None:
                out[tag] = new
        cleaned = Dataset(out)
        cleaned.set_original_encoding(*ENCODING)
        return cleaned

    def _element(
        self, ds: Dataset, tag: BaseTag, element: Element, step: Step, path: tuple[int, ...]
    ) -> tuple[str, str, Element | None]:
        """Do the first step that fits; what cannot be read is removed."""
        readable = True
        while True:
            try:
                new = self._try(ds, tag, element, step, path)
            except Exception:  # noqa: BLE001 - pydicom raises errors of any type; none may pass on
                new, readable = None, False
            if new is not None:
                return step.code, step.rule, new
            if step.otherwise is None:
                return "X", step.rule if readable else UNREADABLE, None
            step = step.otherwise

    def _try(
        self, ds: Dataset, tag: BaseTag, element: Element, step: Step, path: tuple[int, ...]
    ) -> Element | None:
        if step.items is not None:
            return self._sequence(tag, element, step, path)
        if step.constant is not None:
            return _constant_element(tag, step.vr, step.constant)
        if step.function is None:
            return None
        vr, value = encoded_value(element, step.vr)
        if not value and step.code != "D":
            return raw_element(tag, vr, b"")
        new = self._moved_date(ds, value, step) if step.time_tag else step.function(value, self)
        if element.is_raw and new is element.value and vr == element.VR:
            return element
        return None if new is None else raw_element(tag, vr, new)

    def _moved_date(self, ds: Dataset, value: bytes, step: Step) -> bytes | None:
        time = encoded_value(ds.get_item(step.time_tag), "TM")[1] if step.time_tag in ds else None
        return shift_date_of_time(value, time, self)

    def _sequence(
        self, tag: BaseTag, element: Element, step: Step, path: tuple[int, ...]
    ) -> DataElement | None:
        if step.items is Items.DUMMY:
            return DataElement(tag, "SQ", Sequence([dummy_item(tag)]))
        if len(path) > 2 * _DEEPEST:
            return None
        source = items_of(element)
        start = len(self.actions)
        cleaned = []
        for index, item in enumerate(source):
            new = self._item(item, (*path, index), step)
            if new is not None:
                cleaned.append(new)
        if source and not cleaned:
            del self.actions[start:]
            return None
        return DataElement(tag, "SQ", Sequence(cleaned))

    def _item(self, item: Dataset, path: tuple[int, ...], step: Step) -> Dataset | None:
        if step.items is Items.CODES:
            return self._code(item, path)
        place = len(self.actions)
        cleaned = self._dataset(item, path, self._nested)
        if step.items is Items.CONTENT:
            kept, code, rule = clean_content_item(item, cleaned, self._options)
            self.actions.insert(place, (path, code, f"{CONTENT_ITEM} {rule}"))
            return kept
        # What was cleaned until nothing is left says nothing; a dummy and references are needed.
        return cleaned if len(cleaned) or step.code in "DU" else None

    def _code(self, item: Dataset, path: tuple[int, ...]) -> Dataset | None:
        cleaned = clean_code(item)
        if cleaned is not None:
            for tag, element in item.items():
                step = self._nested.get(int(tag))
                if step is not None and step.items is Items.CODES:
                    modifiers = self._sequence(tag, element, step, (*path, int(tag)))
                    if modifiers is not None:
                        cleaned[tag] = modifiers
                        self.actions.append(((*path, int(tag)), step.code, step.rule))
        return cleaned


def _constant_element(tag: BaseTag, vr: str, value: bytes) -> Element:
    return DataElement(tag, "SQ", Sequence()) if vr == "SQ" else raw_element(tag, vr, value)


def encoded_value(element: Element, vr: str) -> tuple[str, bytes]:
    """Give the value of an element as bytes, little endian.

    Args:
        element: as it was read or as it was made.
        vr: what the element should be.

    Returns:
        the value representation to write, and the value; b"" where there is none.

    Raises:
        ValueError: where the element is of another kind; the message holds no value.
    """
    if isinstance(element, RawDataElement):
        written, value, is_little_endian = element.VR, element.value or b"", element.is_little_endian
    else:
        written, value, is_little_endian = element.VR, _encode(element), True
    is_same = written in {vr, None, "UN"} or (written in _TEXT_VRS and vr in _TEXT_VRS)
    if not is_same and frozenset((written, vr)) not in _SAME_WIDTH:
        raise ValueError("An element must have the value representation of PS3.6; this has another")
    known = vr if is_same or written is None else written
    if not is_little_endian and known in _WORD_DTYPES:
        value = np.frombuffer(value, _WORD_DTYPES[known]).byteswap().tobytes()
    return known, value


def _encode(element: DataElement) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, "iso8859")
    data = buffer.getvalue()
    return data[_HEADER_BYTES_LONG if element.VR in _LONG_VRS else _HEADER_BYTES_SHORT :]


def items_of(element: Element) -> list[Dataset]:
    """Give the items of a sequence, whatever it says its value representation is."""
    if not isinstance(element, RawDataElement):
        found = element.value if element.VR == "SQ" else _unknown_items(element.value)
    elif element.VR == "UN":
        # PS3.5 6.2.2: of unknown representation are implicit VR, little endian.
        found = _unknown_items(element.value)
    else:
        found = convert_SQ(element.value or b"", element.is_implicit_VR, element.is_little_endian)
    return list(found)


def _unknown_items(value: bytes | None) -> Sequence:
    return convert_SQ(value or b"", is_implicit_VR=True, is_little_endian=True)
