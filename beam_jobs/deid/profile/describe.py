"""Say what is done with each row of Table E.1-1, for the reference page: taken from the plans themselves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydicom.uid import ComprehensiveSRStorage, EnhancedUSVolumeStorage, UltrasoundMultiFrameImageStorage

from beam_jobs.deid.profile.options import DeidOptions
from beam_jobs.deid.profile.plan import plan_for
from beam_jobs.deid.profile.steps import Items, Step
from beam_jobs.deid.profile.table import AttributeRule, attribute_rules

BASIC: Final = DeidOptions(
    clean_graphics=False,
    clean_structured_content=False,
    clean_descriptors=False,
    retain_modified_dates=False,
    retain_patient_characteristics=False,
)
"""The Basic Profile alone."""

OPTIONS: Final = {
    "Modified Dates": replace(BASIC, retain_modified_dates=True),
    "Patient Characteristics": replace(BASIC, retain_patient_characteristics=True),
    "Device Identity": replace(BASIC, retain_device_identity=True),
    "Clean Descriptors": replace(BASIC, clean_descriptors=True),
    "Clean Structured Content": replace(BASIC, clean_structured_content=True),
    "Clean Graphics": replace(BASIC, clean_graphics=True),
}
"""Each option of the Standard alone, on top of the Basic Profile."""

_CLASSES: Final = (UltrasoundMultiFrameImageStorage, EnhancedUSVolumeStorage, ComprehensiveSRStorage)


@dataclass(frozen=True, slots=True)
class RowDescription:
    """What is done with a row.

    Attributes:
        rule: the row.
        basic: actions of the Basic Profile in an ultrasound image, an ultrasound volume, a report, and
            inside a sequence.
        options: action under each option that changes something, by its name.
    """

    rule: AttributeRule
    basic: tuple[str, str, str, str]
    options: dict[str, str]


def describe_rows() -> Iterator[RowDescription]:
    """Describe every row, in the table's order."""
    for rule in attribute_rules():
        if rule.is_pattern:
            yield RowDescription(rule, ("X", "X", "X", "X"), {})
            continue
        top = [plan_for(BASIC, uid, is_nested=False)[rule.tag_number].code for uid in _CLASSES]
        nested = plan_for(BASIC, "", is_nested=True)[rule.tag_number].code
        yield RowDescription(rule, (top[0], top[1], top[2], nested), _under_options(rule))


def _under_options(rule: AttributeRule) -> dict[str, str]:
    plans = {name: plan_for(options, _CLASSES[0], is_nested=False) for name, options in OPTIONS.items()}
    without = plan_for(BASIC, _CLASSES[0], is_nested=False)[rule.tag_number]
    return {
        name: _words(step)
        for name, plan in plans.items()
        if (step := plan[rule.tag_number]).otherwise is not None or step.code != without.code
    }


def _words(step: Step) -> str:
    ways = {
        Items.CODES: "known codes",
        Items.CONTENT: "item by item",
        Items.SAME_RULES: "items by their rows",
    }
    if step.items in ways:
        return f"{step.code}: {ways[step.items]}"
    return {
        "shift_date": "C: moved",
        "shift_datetime": "C: moved",
        "shift_time": "C: removed or moved",
        "keep_descriptor": "C: known words",
        "cap_age": "K: 90 and over are 90",
    }.get(getattr(step.function, "__name__", ""), f"{step.code}: kept where it makes sense")
