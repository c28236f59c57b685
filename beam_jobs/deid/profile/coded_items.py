"""Items of code sequences: a known code with its own meaning, or nothing."""

from typing import Final

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from beam_jobs.deid.profile.codes import meaning_of
from beam_jobs.deid.profile.steps import ENCODING, raw_element
from beam_jobs.deid.profile.values import padded

_VALUE_TAGS: Final = (Tag(0x00080100), Tag(0x00080119), Tag(0x00080120))
_SCHEME: Final = Tag(0x00080102)
_MEANING: Final = Tag(0x00080104)
_LONGEST_MEANING: Final = 64
_LONGEST_SHORT_CODE: Final = 16


def code_of(item: Dataset) -> tuple[str, str] | None:
    """Read scheme and code of an item of a code sequence, None where it has none or not in ASCII."""
    scheme = _ascii(item, _SCHEME)
    code = next((found for tag in _VALUE_TAGS if (found := _ascii(item, tag))), None)
    return (scheme, code) if scheme and code else None


def _ascii(item: Dataset, tag: BaseTag) -> str | None:
    if tag not in item:
        return None
    value = item.get_item(tag).value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    value = str(value).strip(" \0")
    return value if value.isascii() else None


def clean_code(item: Dataset) -> Dataset | None:
    """Make a code anew out of its scheme and value, None if it is not known."""
    found = code_of(item)
    return None if found is None else make_code(found[1], found[0])


def make_code(code: str, scheme: str) -> Dataset | None:
    """Make the item of a code sequence for a code, None if it is not known."""
    meaning = meaning_of(code, scheme)
    return None if meaning is None else code_item(code, scheme, meaning)


def code_item(code: str, scheme: str, meaning: str) -> Dataset:
    """Make the item of a code sequence; a meaning is cut to what its attribute holds."""
    is_short = len(code) <= _LONGEST_SHORT_CODE
    written = (
        (_VALUE_TAGS[0 if is_short else 1], "SH" if is_short else "UC", code),
        (_SCHEME, "SH", scheme),
        (_MEANING, "LO", meaning[:_LONGEST_MEANING].rstrip()),
    )
    item = Dataset(
        {tag: raw_element(tag, vr, padded(text.encode("ascii", "replace"))) for tag, vr, text in written}
    )
    item.set_original_encoding(*ENCODING)
    return item
