"""The content tree of a report, item by item (PS3.15 E.3.4).

An item comes here after the walk has been through its attributes: its codes are known ones, its numbers
are plain, its UIDs are hashed, its dates are moved, and its text is gone. What is decided here is whether
it stays: by its row of Table E.3.4-1, else by its value type. A text comes back only as known words or
as a dummy.
"""

from typing import Final

from pydicom import Dataset
from pydicom.tag import Tag

from beam_jobs.deid.headers import OLDEST_AGE_YEARS
from beam_jobs.deid.profile.attribute_types import choose
from beam_jobs.deid.profile.coded_items import code_of, make_code
from beam_jobs.deid.profile.options import DeidOptions
from beam_jobs.deid.profile.steps import raw_element
from beam_jobs.deid.profile.table import ContentRule, content_rules
from beam_jobs.deid.profile.values import dummy, keep_descriptor, keep_identity

_CONTENT_SEQUENCE: Final = 0x0040A730
_CONCEPT_NAME: Final = 0x0040A043
_DUMMY_TITLE: Final = ("18748-4", "LN")  # Diagnostic imaging study
_DUMMY_CONCEPT: Final = ("121106", "DCM")  # Comment
_NEEDED: Final = {
    "NUM": "MeasuredValueSequence",
    "CODE": "ConceptCodeSequence",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
    "UIDREF": "UID",
    "PNAME": "PersonName",
    "TEXT": "TextValue",
    "IMAGE": "ReferencedSOPSequence",
    "COMPOSITE": "ReferencedSOPSequence",
    "WAVEFORM": "ReferencedSOPSequence",
    "SCOORD": "GraphicData",
    "SCOORD3D": "GraphicData",
    "CONTAINER": "ContentSequence",
}
"""The attribute that an item of a value type is nothing without (PS3.3 C.17.3)."""

_NAMELESS: Final = frozenset({"CONTAINER", "IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D"})
_ALWAYS_KEPT: Final = frozenset({"NUM", "CODE", "CONTAINER", "UIDREF", *_NAMELESS})
_AGE_CONCEPT: Final = ("DCM", "121033")


def clean_content_item(
    item: Dataset, cleaned: Dataset, options: DeidOptions
) -> tuple[Dataset | None, str, str]:
    """Decide over one content item.

    Args:
        item: as it was read.
        cleaned: as the walk left it; changed in place.
        options: what the site chose.

    Returns:
        the item or None where it goes, the code of the action, and the rule that says so.
    """
    value_type = _text(cleaned, "ValueType")
    name = _name(item)
    rule = None if name is None else content_rules().get((*name, value_type))
    action = _default_action(value_type, options) if rule is None else _listed_action(rule, options)
    rule_name = f"value type {value_type}" if rule is None else f"({rule.code}, {rule.scheme}) {value_type}"
    if value_type not in _NEEDED:
        return None, "X", "no value type"
    if not cleaned.get("ConceptNameCodeSequence") and value_type not in _NAMELESS:
        return None, "X", f"{rule_name}, concept not known"
    if "RelationshipType" not in cleaned and "ReferencedContentItemIdentifier" in item:
        return None, "X", "by reference"
    if action != "X" and value_type == "TEXT":
        action = _put_text(item, cleaned, action, rule)
    if action == "X" or not _has_value(cleaned, value_type):
        return None, "X", rule_name
    if name == _AGE_CONCEPT:
        _cap_age(cleaned)
    return cleaned, action, rule_name


def dummy_item(sequence_tag: int) -> Dataset:
    """Make the one item that stands for all those of a sequence that is not cleaned (action D)."""
    if sequence_tag == _CONCEPT_NAME:
        return _code(*_DUMMY_TITLE)
    item = Dataset()
    if sequence_tag == _CONTENT_SEQUENCE:
        item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
        item.ConceptNameCodeSequence = [_code(*_DUMMY_CONCEPT)]
        item.TextValue = dummy("UT").decode("ascii").rstrip()
    return item


def _code(code: str, scheme: str) -> Dataset:
    made = make_code(code, scheme)
    if made is None:
        raise ValueError(f"({code}, {scheme}) must be a code of PS3.16; pydicom does not have it. Update it.")
    return made


def _listed_action(rule: ContentRule, options: DeidOptions) -> str:
    basic = choose(rule.basic, None)
    if rule.modified_dates and options.retain_modified_dates:
        return basic if rule.value_type == "TIME" and options.times_of_day == "remove" else "C"
    if rule.device and options.retain_device_identity:
        return "K"
    if rule.patient and options.retain_patient_characteristics:
        return "K"
    if rule.descriptors and options.clean_descriptors and rule.value_type == "TEXT":
        return "C"
    return basic


def _default_action(value_type: str, options: DeidOptions) -> str:
    is_kept = {
        "TEXT": options.clean_descriptors,
        "DATE": options.retain_modified_dates,
        "DATETIME": options.retain_modified_dates,
        "TIME": options.retain_modified_dates and options.times_of_day == "shift",
        "PNAME": False,
    }.get(value_type, value_type in _ALWAYS_KEPT)
    return "C" if is_kept else "X"


def _put_text(item: Dataset, cleaned: Dataset, action: str, rule: ContentRule | None) -> str:
    """Give the item the text it may have; the action that was taken comes back."""
    source = _text(item, "TextValue").encode("ascii", "replace")
    kept: bytes | None = None
    if action == "C":
        kept = keep_descriptor(source)
    elif action == "K":
        kept = keep_identity(source)
    if kept is None:
        action = "X" if rule is None else choose(rule.basic, None)
        if action != "D":
            return action
        kept = dummy("UT")
    tag = Tag("TextValue")
    cleaned[tag] = raw_element(tag, "UT", kept)
    return action


def _has_value(cleaned: Dataset, value_type: str) -> bool:
    value = cleaned.get(_NEEDED[value_type])
    if value_type == "NUM":
        return bool(value) and "NumericValue" in value[0] and "MeasurementUnitsCodeSequence" in value[0]
    return value is not None and value not in ("", [])


def _cap_age(cleaned: Dataset) -> None:
    measured = cleaned.MeasuredValueSequence[0]
    if float(measured.NumericValue) >= OLDEST_AGE_YEARS:
        measured.NumericValue = str(OLDEST_AGE_YEARS)


def _name(item: Dataset) -> tuple[str, str] | None:
    try:
        names = item.get("ConceptNameCodeSequence")
        return code_of(names[0]) if names else None
    except Exception:  # noqa: BLE001 - pydicom raises errors of any type
        return None


def _text(ds: Dataset, keyword: str) -> str:
    try:
        return str(ds.get(keyword) or "").strip(" \0")
    except Exception:  # noqa: BLE001 - pydicom raises errors of any type
        return ""
