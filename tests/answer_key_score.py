"""Run planted studies through spool, worker and archive, and score the answers as passed over all.

The scorer reads the de-identified DICOM files with pydicom alone, and finds the file of an instance by
its key. What is missing, because its instance was rejected or its study quarantined, counts as missed.
"""

import hashlib
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset

from beam_jobs.deid import Pseudonymizer
from beam_jobs.deid.ocr import find_ocr
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from tests.answer_key import Answer, Corner, Ink, Person, PlantedInstance, Rule, write
from tests.bright import write_bright_registry
from tests.studies import AT_ONCE

KEY: Final = bytes(range(32))

_LEGIBLE_CONTRAST: Final = 25
"""Grey levels by which letters must stand out of what is around them to be seen."""

_SAME_LEVELS: Final = 16
_SAME_RATIO: Final = 0.98
"""A retained picture is the same within JPEG's loss nearly everywhere."""

_MARGIN_PX: Final = 8


class Miss(NamedTuple):
    """An answer that was not met, without the planted value."""

    base: str
    rule: Rule
    place: str
    why: str


@dataclass
class Score:
    """How many answers were met."""

    asked: Counter[Rule] = field(default_factory=Counter)
    passed: Counter[Rule] = field(default_factory=Counter)
    misses: list[Miss] = field(default_factory=list)
    by_where: Counter[tuple[str, bool]] = field(default_factory=Counter)
    instances: int = 0

    @property
    def ratio(self) -> float:
        """Passed over all."""
        return sum(self.passed.values()) / max(sum(self.asked.values()), 1)


Planted = tuple[Person, list[PlantedInstance]]


def run(studies: Iterable[Planted], root: Path) -> tuple[list[Planted], dict[str, int]]:
    """Send the studies through the worker with the archive on; gives them back, and the ledger's counts."""
    write_bright_registry(root / "models")
    (root / "secret.key").write_bytes(KEY)
    (root / "secret.key").chmod(0o600)
    ledger = Ledger(f"sqlite:///{root / 'ledger.sqlite'}")
    kept = []
    for person, instances in studies:
        _receive(ledger, root / "spool", person, instances)
        kept.append((person, instances))
    deid = DeidSettings(root=root, archive=True)
    with Worker(WorkerSettings(root=root, http_port=0), AT_ONCE, deid=deid) as worker:
        worker.run(once=True)
    counts = ledger.counts_by_state()
    ledger.close()
    return kept, {state: count for state, count in counts.items() if count}


def _receive(ledger: Ledger, spool: Path, person: Person, instances: Iterable[PlantedInstance]) -> None:
    now = time.time() - 10
    spool.mkdir(exist_ok=True)
    for planted in instances:
        ds = planted.ds
        path = write(planted, spool / "unnamed")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        shutil.move(path, spool / f"{digest}.dcm")
        spooled = SpooledInstance(
            sop_instance_uid=str(ds.SOPInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            sop_class_uid=str(ds.SOPClassUID),
            transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
            path=f"{digest}.dcm",
            sha256=digest,
            size_bytes=size,
        )
        received = ReceivedInstance(str(ds.StudyInstanceUID), person.patient_id, spooled)
        ledger.record_instance(received, association="a", hold_until=now, now=now)
    ledger.release_holds("a")
    ledger.complete_studies(AT_ONCE, now=now + 1)


def score(studies: Iterable[Planted], archive: Path) -> Score:
    """Score every answer.

    Args:
        studies: what was sent.
        archive: folder of the de-identified DICOM files.
    """
    result = Score()
    keys = Pseudonymizer(KEY)
    files = {path.stem: path for path in archive.rglob("*.dcm")}
    judge = _Judge()
    for person, instances in studies:
        for planted in instances:
            result.instances += 1
            path = files.get(keys.instance_key(str(planted.ds.SOPInstanceUID)))
            cleaned = None if path is None else _read(path)
            for answer in planted.answers:
                with quiet_pydicom():
                    why = "no file" if cleaned is None else judge.fault(answer, person, planted, cleaned)
                result.asked[answer.rule] += 1
                if isinstance(answer.value, Ink):
                    result.by_where[_where(answer.value, planted), not why] += 1
                if why:
                    place = ".".join(str(part) for part in answer.place)
                    if isinstance(answer.value, Ink):
                        place = _where(answer.value, planted)
                    result.misses.append(Miss(planted.base, answer.rule, place or "whole file", why))
                else:
                    result.passed[answer.rule] += 1
    return result


def _where(ink: Ink, planted: PlantedInstance) -> str:
    return f"{ink.where}, {'all frames' if len(ink.frames) == len(planted.frames) else 'one frame'}"


class _Cleaned(NamedTuple):
    ds: Dataset
    content: bytes
    frames: npt.NDArray[np.uint8]


def _read(path: Path) -> _Cleaned:
    with quiet_pydicom():
        ds = pydicom.dcmread(path)
        frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns, ds.SamplesPerPixel)
    return _Cleaned(ds, path.read_bytes(), np.broadcast_to(frames, (*frames.shape[:3], 3)))


class _Judge:
    """Says why an answer was not met; remembers what must be the same everywhere."""

    def __init__(self) -> None:
        self._ocr = find_ocr("auto")
        self._uids: dict[str, str] = {}
        self._patients: dict[str, str] = {}
        self._shifts: dict[str, int] = {}

    def fault(self, answer: Answer, person: Person, planted: PlantedInstance, cleaned: _Cleaned) -> str:
        """Give "" where the answer was met."""
        if answer.rule is Rule.PIXELS_HIDDEN:
            return self._seen(answer.value, planted, cleaned.frames)
        if answer.rule is Rule.PIXELS_RETAINED:
            image, inks = answer.value
            return _altered(image, inks, planted.frames, cleaned.frames)
        if not answer.place:
            return "in the bytes" if _in_bytes(answer.value, cleaned.content) else ""
        value = _value_at(cleaned.ds, answer.place)
        faults: dict[Rule, Callable[[], str]] = {
            Rule.TAG_RETAINED: lambda: "" if value == answer.value else "another value",
            Rule.TEXT_NOTNULL: lambda: "" if value not in (None, "") else "empty",
            Rule.TEXT_RETAINED: lambda: "" if answer.value.lower() in str(value).lower() else "gone",
            Rule.TEXT_REMOVED: lambda: "still there" if _holds(value, answer.value) else "",
            Rule.DATE_SHIFTED: lambda: self._shift_fault(person, value, answer.value),
            Rule.UID_CHANGED: lambda: "the same" if str(value) == answer.value else "",
            Rule.UID_CONSISTENT: lambda: _consistent(self._uids, answer.value, value),
            Rule.PATID_CONSISTENT: lambda: _consistent(self._patients, answer.value, value),
        }
        return faults[answer.rule]()

    def _shift_fault(self, person: Person, value: Any, real: date) -> str:
        match = re.match(r"(\d{4})(\d{2})(\d{2})", str(value or ""))
        if match is None:
            return "no date"
        shift = (date(*map(int, match.groups())) - real) // timedelta(days=1)
        usual = self._shifts.setdefault(person.patient_id, shift)
        return "" if shift == usual != 0 else "another shift"

    def _seen(self, ink: Ink, planted: PlantedInstance, frames: npt.NDArray[np.uint8]) -> str:
        box = ink.box
        for place in ink.frames:
            crop = frames[place, box.top : box.bottom, box.left : box.right].max(axis=-1)
            contrast = float(crop[ink.mask].mean()) - float(crop[~ink.mask].mean())
            if contrast > _LEGIBLE_CONTRAST:
                return f"letters stand out by {contrast:.0f} levels"
        if self._ocr is not None:
            words = self._ocr.read(np.ascontiguousarray(frames[ink.frames[0]].max(axis=-1)), scale=1)
            read = " ".join(word.text for word in words).upper()
            if any(len(part) > 3 and part.upper() in read for part in ink.text.split()):
                return "read by OCR"
        return ""


def _altered(
    image: Corner,
    inks: tuple[Corner, ...],
    before: npt.NDArray[np.uint8],
    after: npt.NDArray[np.uint8],
) -> str:
    if len(before) != len(after):
        return f"{len(after)} frames of {len(before)}"
    judged = np.zeros(before.shape[1:3], np.bool_)
    judged[image.top : image.bottom, image.left : image.right] = True
    for box in inks:
        # Text is hidden with what is beside it on its line.
        judged[max(box.top - _MARGIN_PX, 0) : box.bottom + _MARGIN_PX] = False
    change = np.abs(after[:, judged].astype(np.int16) - before[:, judged]).max(axis=-1)
    same = float((change <= _SAME_LEVELS).mean())
    return "" if same >= _SAME_RATIO else f"{same:.1%} of the pixels are the same"


def _consistent(known: dict[str, str], original: str, value: Any) -> str:
    if value in (None, ""):
        return "gone"
    return "" if known.setdefault(original, str(value)) == str(value) else "another one elsewhere"


def _value_at(ds: Dataset, place: tuple[str | int, ...]) -> Any:
    value: Any = ds
    for step in place:
        try:
            value = value[step] if isinstance(step, int) else value.get(step)
        except IndexError:
            return None
        if value is None:
            return None
    return value


def _texts(value: Any) -> Iterator[str]:
    values = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    if values and all(isinstance(part, int) for part in values):
        yield "".join(chr(part) for part in values if 0 < part < 0x110000)
    yield " ".join(str(part) for part in values)


def _holds(value: Any, planted: str) -> bool:
    if value is None:
        return False
    return any(planted.lower() in text.lower() for text in _texts(value))


def _in_bytes(planted: str, content: bytes) -> bool:
    lower = content.lower()
    encodings = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
    return any(planted.encode(encoding).lower() in lower for encoding in encodings)
