"""From rows, options and the IOD to one step for each attribute.

A row of Table E.1-1 goes before the allow-list, and an option goes before the Basic Profile; where the
option cannot make anything of a value, the basic action is left.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from beam_jobs.deid.profile import dates, numbers, values
from beam_jobs.deid.profile.attribute_types import choose, iod_of, type_of
from beam_jobs.deid.profile.options import DeidOptions
from beam_jobs.deid.profile.steps import ALLOW_LIST, PIXELS, Items, Step
from beam_jobs.deid.profile.table import ALLOW_LIST_FILE, AttributeRule, attribute_rules, read_table
from beam_jobs.deid.profile.values import ValueFunction

Plan = Mapping[int, Step]

PIXEL_TAGS: Final = (0x7FE00010, 0x7FE00008, 0x7FE00009, 0x7FE00001, 0x7FE00002)

_TEXT_VRS: Final = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UT", "CS"})
_TIME_OF_DATE: Final = {
    "AcquisitionDate": "AcquisitionTime",
    "ContentDate": "ContentTime",
    "InstanceCreationDate": "InstanceCreationTime",
    "PerformedProcedureStepStartDate": "PerformedProcedureStepStartTime",
    "SeriesDate": "SeriesTime",
    "StudyDate": "StudyTime",
    "Date": "Time",
}
"""Attributes that say a moment together: where times move, the date may go over midnight."""

_SHIFTS: Final[Mapping[str, ValueFunction]] = {
    "DA": dates.shift_date,
    "DT": dates.shift_datetime,
    "TM": dates.shift_time,
}
_FUNCTIONS: Final[Mapping[str, ValueFunction]] = {
    "age": dates.cap_age,
    "descriptor": values.keep_descriptor,
    "identity": values.keep_identity,
    "image_type": values.keep_image_type,
    "manufacturer": values.name_manufacturer,
    "palette": numbers.keep_palette,
    "segments": numbers.keep_segments,
    "tag": values.keep_tags,
    "uid": values.hash_uids,
}
_ITEMS: Final = {"sequence": Items.SAME_RULES, "codes": Items.CODES}
_CODES: Final = {"uid": "U", "descriptor": "C", "manufacturer": "C", "image_type": "C"}
_CONTENT_SEQUENCES: Final = frozenset({"ContentSequence", "AcquisitionContextSequence"})
_CODE_SEQUENCES_END: Final = "CodeSequence"


@cache
def plan_for(options: DeidOptions, sop_class_uid: str, *, is_nested: bool) -> Plan:
    """Give the step of each attribute that is not simply removed, and of each that a row names.

    Args:
        options: what the site chose.
        sop_class_uid: the SOP class of the instance, which need not be a known one.
        is_nested: whether the dataset is an item of a sequence.
    """
    return _plan(options, iod_of(sop_class_uid), is_nested)


@cache
def _plan(options: DeidOptions, iod: str | None, is_nested: bool) -> Plan:
    allowed = _allow_list(options, iod, is_nested)
    steps = dict(allowed)
    for rule in attribute_rules():
        if not rule.is_pattern:
            steps[rule.tag_number] = _step_of(rule, options, iod, is_nested, allowed.get(rule.tag_number))
    for tag in PIXEL_TAGS:
        steps[tag] = Step("X", PIXELS, "OB")
    return steps


def rule_name(rule: AttributeRule) -> str:
    """Name a row as the audit does."""
    return f"E.1-1 ({rule.tag[:4]},{rule.tag[4:]})"


def basic_action(rule: AttributeRule, iod: str | None, *, is_nested: bool) -> str:
    """Give the one action of the Basic Profile that is taken."""
    return choose(rule.basic, type_of(rule.keyword, iod, is_nested=is_nested))


def _step_of(
    rule: AttributeRule, options: DeidOptions, iod: str | None, is_nested: bool, allowed: Step | None
) -> Step:
    basic = _basic_step(rule, basic_action(rule, iod, is_nested=is_nested))
    # Inside a tree a branch of which nothing is left is cut off; only the trunk needs a dummy.
    of_tree = None if is_nested else basic
    return _option_step(rule, options, allowed, basic) or _tree_step(rule, options, of_tree) or basic


def _basic_step(rule: AttributeRule, action: str) -> Step:
    name, vr = rule_name(rule), rule.vr
    if rule.keyword == "PatientID":
        return Step("D", name, vr, function=lambda _, subject: subject.subject_key.encode("ascii"))
    match action, vr:
        case ("X", _):
            return Step("X", name, vr)
        case ("Z", _):
            return Step("Z", name, vr, constant=b"")
        case ("U" | "U*" | "D", "SQ"):
            # A tree of content or graphics is only gone through by an option that knows how.
            is_tree = rule.content or rule.graphics
            return Step(action[0], name, vr, items=Items.DUMMY if is_tree else Items.SAME_RULES)
        case ("U" | "D", "UI"):
            return Step(action, name, vr, function=values.hash_uids)
        case ("D", _):
            return Step("D", name, vr, constant=values.dummy(vr))
    raise ValueError(
        f"An action must be X, Z, D, U or U*; row {rule.number} of Table E.1-1 gives {action}. "
        "Check the file against the Standard."
    )


def _option_step(
    rule: AttributeRule, options: DeidOptions, allowed: Step | None, otherwise: Step
) -> Step | None:
    """Give what an option that is chosen does with an attribute, None if it does nothing."""
    return (
        _dates_step(rule, options, otherwise)
        or _device_step(rule, options, otherwise)
        or _patient_step(rule, options, allowed, otherwise)
        or _descriptor_step(rule, options, otherwise)
    )


def _dates_step(rule: AttributeRule, options: DeidOptions, otherwise: Step) -> Step | None:
    if not (rule.modified_dates and options.retain_modified_dates and rule.vr in _SHIFTS):
        return None
    is_paired = options.times_of_day == "shift" and rule.keyword in _TIME_OF_DATE
    time_tag = tag_for_keyword(_TIME_OF_DATE[rule.keyword]) if is_paired else None
    return Step("C", rule_name(rule), rule.vr, _SHIFTS[rule.vr], time_tag=time_tag or 0, otherwise=otherwise)


def _device_step(rule: AttributeRule, options: DeidOptions, otherwise: Step) -> Step | None:
    # A date of a device stays with the dates: kept as it is, it would tell by how much these were moved.
    if not (rule.device and options.retain_device_identity):
        return None
    if rule.vr == "SQ":
        return Step(rule.device, rule_name(rule), "SQ", items=Items.SAME_RULES, otherwise=otherwise)
    if rule.vr in _TEXT_VRS | {"UI"}:
        return Step(rule.device, rule_name(rule), rule.vr, values.keep_identity, otherwise=otherwise)
    return None


def _patient_step(
    rule: AttributeRule, options: DeidOptions, allowed: Step | None, otherwise: Step
) -> Step | None:
    if rule.patient != "K" or not options.retain_patient_characteristics or allowed is None:
        return None
    return Step("K", rule_name(rule), rule.vr, allowed.function, otherwise=otherwise)


def _descriptor_step(rule: AttributeRule, options: DeidOptions, otherwise: Step) -> Step | None:
    is_chosen = (rule.descriptors and options.clean_descriptors) or (
        rule.patient and options.retain_patient_characteristics
    )
    if is_chosen and rule.vr in _TEXT_VRS:
        return Step("C", rule_name(rule), rule.vr, values.keep_descriptor, otherwise=otherwise)
    if is_chosen and rule.vr == "SQ":
        items = Items.CODES if rule.keyword.endswith(_CODE_SEQUENCES_END) else Items.SAME_RULES
        return Step("C", rule_name(rule), "SQ", items=items, otherwise=otherwise)
    return None


def _tree_step(rule: AttributeRule, options: DeidOptions, otherwise: Step | None) -> Step | None:
    if rule.content and options.clean_structured_content and rule.keyword in _CONTENT_SEQUENCES:
        return Step("C", rule_name(rule), "SQ", items=Items.CONTENT, otherwise=otherwise)
    if rule.graphics and options.clean_graphics and rule.vr == "SQ":
        return Step("C", rule_name(rule), "SQ", items=Items.SAME_RULES, otherwise=otherwise)
    return None


def _allow_list(options: DeidOptions, iod: str | None, is_nested: bool) -> dict[int, Step]:
    steps = {}
    for row in read_table(ALLOW_LIST_FILE):
        keyword = row["keyword"]
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"The allow-list must name attributes of PS3.6; it has {keyword}. Correct it.")
        vr = dictionary_VR(tag).partition(" ")[0]
        otherwise = _fallback(keyword, vr, iod, is_nested)
        steps[int(tag)] = _allowed_step(row, vr, options, otherwise)
    return steps


def _fallback(keyword: str, vr: str, iod: str | None, is_nested: bool) -> Step | None:
    """Keep the object valid where the value of an allowed attribute may not stay."""
    match type_of(keyword, iod, is_nested=is_nested):
        case "1" if vr == "SQ":
            return Step("D", ALLOW_LIST, vr, items=Items.DUMMY)
        case "1" if vr != "UI":
            return Step("D", ALLOW_LIST, vr, constant=values.dummy(vr))
        case "2":
            return Step("Z", ALLOW_LIST, vr, constant=b"")
    return None


def _allowed_step(row: dict[str, str], vr: str, options: DeidOptions, otherwise: Step | None) -> Step:
    kind, detail, multiplicity = row["kind"], row["detail"], row["multiplicity"]
    if kind in _ITEMS:
        items = _ITEMS[kind]
        return Step("C" if items is Items.CODES else "K", ALLOW_LIST, vr, items=items, otherwise=otherwise)
    is_off = (kind == "descriptor" and not options.clean_descriptors) or (
        kind == "identity" and not options.retain_device_identity
    )
    function: ValueFunction
    match kind:
        case "number":
            low, _, high = detail.partition("..")
            function = numbers.keep_numbers(vr, float(low), float(high), multiplicity)
        case "words":
            function = values.keep_words(tuple(detail.split("|")), many=multiplicity == "n")
        case "pattern":
            function = values.keep_pattern(detail, int(multiplicity))
        case _:
            function = values.drop if is_off else _FUNCTIONS[kind]
    return Step(_CODES.get(kind, "K"), ALLOW_LIST, vr, function, otherwise=otherwise)
