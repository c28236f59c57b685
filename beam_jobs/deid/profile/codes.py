"""Coded concepts of closed vocabularies: what a code means is looked up, never copied from a file.

The meaning beside a code is free text, and a private code is free text too. So a code is kept only if
it is a concept of the context groups of PS3.16, with the meaning that these give it.
"""

from functools import cache
from typing import Any, Final

from beam_jobs.deid.profile.table import read_words

_UNIT_SCHEME: Final = "UCUM"
_OLD_SNOMED_SCHEMES: Final = frozenset({"SRT", "SNM3", "99SDM"})

_UNITS: Final = read_words("ucum_units.txt")
"""Units of echo measurements that are in no context group that pydicom carries."""


@cache
def _meanings() -> dict[tuple[str, str], str]:
    # 18,000 concepts, half a second: only who meets a code pays for them.
    from pydicom.sr._concepts_dict import concepts  # noqa: PLC0415 - the only list of them

    by_scheme: Any = concepts
    return {
        (scheme, code): meaning
        for scheme, by_keyword in by_scheme.items()
        for by_code in by_keyword.values()
        for code, (meaning, _) in by_code.items()
    }


@cache
def _snomed_of_old() -> dict[str, str]:
    from pydicom.sr._snomed_dict import mapping  # noqa: PLC0415 - likewise

    return mapping["SRT"]


def meaning_of(code: str, scheme: str) -> str | None:
    """Give the meaning of a code, None where it is of no closed vocabulary that is known."""
    if scheme in _OLD_SNOMED_SCHEMES:
        code, scheme = _snomed_of_old().get(code, ""), "SCT"
    found = _meanings().get((scheme, code))
    if found is None and scheme == _UNIT_SCHEME and code in _UNITS:
        return code
    return found
