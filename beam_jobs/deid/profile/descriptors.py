"""Words of echocardiography that may stay of a free text: they name views, modes and places, nobody."""

import re
from typing import Final

from beam_jobs.deid.profile.table import read_words

_LONGEST: Final = 64
"""Characters of a text that are kept at most: what LO holds."""

_WORD: Final = re.compile(r"[A-Za-z0-9]+")

_WORDS: Final = read_words("descriptor_words.txt")


def keep_known_words(value: bytes) -> str:
    """Keep the words that are known, in their order, and nothing between them but a space.

    Numbers go too, other than those in names of views such as `4ch`.
    """
    words = _WORD.findall(value.decode("ascii", "replace"))
    kept = [word for word in words if word.lower() in _WORDS]
    text = " ".join(kept)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(" ")[0]
