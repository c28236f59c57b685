"""A study full of marks leaves none: not in tables, pool, archive, audit, file names, logs or exceptions.

Without Beam and networks, so that many studies can be tried: the door, the writer and the verifier are the
real ones, predictions are made by hand. `tests/integration/test_pipeline.py` does the same with all of it.
"""

import io
import logging
import re
import string
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_dict
from pydicom.sequence import Sequence
from pydicom.uid import UID

from beam_jobs.deid import Pseudonymizer, RejectedError, deidentify_instance, read_instance
from beam_jobs.deid.archive import ArchiveSource, staged_archive
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.redaction import redact
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Chunk, Placement, PredictedChunk
from beam_jobs.release import ReleaseCheck, Verdict
from beam_jobs.settings import DeidSettings
from beam_jobs.staging import staged
from beam_jobs.tables import build_tables
from beam_jobs.transforms import collect
from echo_models.views import VIEWS
from tests.made_files import instance, region, speckle_cine, written

KEYS = Pseudonymizer(bytes(range(32)))
TEXT_VRS = frozenset({"LO", "SH", "PN", "LT", "ST", "UT", "UC"})
TEXTS = sorted(
    keyword
    for keyword, tag in keyword_dict.items()
    if DicomDictionary[tag][0] in TEXT_VRS and tag >> 16 not in {0x0000, 0x0002, 0x0004, 0x0006, 0xFFFE}
)
DATES = sorted(keyword for keyword, tag in keyword_dict.items() if DicomDictionary[tag][0] == "DA")
UIDS = sorted(
    keyword
    for keyword, tag in keyword_dict.items()
    if DicomDictionary[tag][0] == "UI"
    and tag >> 16 not in {0x0000, 0x0002, 0x0004}
    and keyword != "SOPClassUID"
)
PIXELS = (speckle_cine(3, 120, 160) * 0.7).astype(np.uint8)

# Letters that no word of a screen, a table or the dictionary has beside each other.
MARKS = st.text("QXZJ", min_size=7, max_size=10).filter(lambda mark: len(set(mark)) > 2)


@st.composite
def marked_headers(draw: st.DrawFn) -> tuple[Dataset, list[str]]:
    """Draw a header with marks in some of every kind of element, and the marks."""
    mark = draw(MARKS)
    serial = "".join(draw(st.lists(st.sampled_from("3456789"), min_size=9, max_size=12)))
    day = draw(st.dates(min_value=date(1990, 1, 1), max_value=date(2090, 1, 1)))
    ds = instance(PIXELS, regions=[region(0, 0, 159, 119)], FrameTime=30.0)
    with quiet_pydicom():
        ds.PatientName, ds.PatientID, ds.StudyDate = (
            f"{mark}^{mark[::-1]}",
            f"{mark}-{serial}",
            f"{day:%Y%m%d}",
        )
        for keyword in draw(st.lists(st.sampled_from(TEXTS), max_size=25)):
            setattr(ds, keyword, mark)
        for keyword in draw(st.lists(st.sampled_from(DATES), max_size=6)):
            setattr(ds, keyword, f"{day:%Y%m%d}")
        for keyword in draw(st.lists(st.sampled_from(UIDS), max_size=6)):
            setattr(ds, keyword, f"1.2.826.{serial}.1")
        ds.StudyInstanceUID = ds.SeriesInstanceUID = f"1.2.826.{serial}.2"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.{serial}.3")
        item = Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID = mark, f"1.2.826.{serial}.4"
        ds.RequestAttributesSequence = Sequence([item])
        block = ds.private_block(0x200D, f"{mark} PRIVATE", create=True)
        block.add_new(1, "LO", mark)
        block.add_new(2, draw(st.sampled_from(["US", "UL", "SL"])), [ord(letter) for letter in mark])
        ds.Manufacturer = draw(st.sampled_from(["Philips", f"{mark} Medical", ""]))
    return ds, [mark, serial, f"{day:%Y%m%d}", f"{day:%Y-%m-%d}"]


def predicted(chunk: Chunk) -> PredictedChunk:
    """Call every frame apical four chamber, and store it."""
    count = len(chunk.frames)
    probabilities = np.full((count, len(VIEWS)), 0.01, np.float32)
    probabilities[:, VIEWS.index("a4c")] = 1 - 0.01 * (len(VIEWS) - 1)
    return PredictedChunk(
        placement=chunk.placement,
        header=chunk.header,
        first_frame_index=chunk.first_frame_index,
        parts=chunk.parts,
        frame_times_ms=chunk.frame_times_ms,
        fov_area_ratios=np.full(count, 0.5, np.float32),
        view_probabilities=probabilities,
        view_known=np.ones(count, np.bool_),
        lv_area_ratios=np.full(count, 0.1, np.float32),
        lvh_probabilities=np.full(count, np.nan, np.float32),
        fov_model="fov-1",
        view_model="view-1",
        lv_model="lv-1",
        lvh_model=None,
        pool_indexes=np.arange(count),
        pool_frames=chunk.frames,
    )


def placed(ds: Dataset, path: str) -> Placement:
    study = str(ds.StudyInstanceUID)
    return Placement(
        "token",
        KEYS.study_key(study),
        KEYS.subject_key(str(ds.PatientID), study),
        1,
        1,
        KEYS.series_key(str(ds.SeriesInstanceUID)),
        KEYS.instance_key(str(ds.SOPInstanceUID)),
        path,
    )


def release(ds: Dataset, root: Path) -> Verdict:
    """Do what the worker does to a study of one instance, up to its release."""
    spool = root / "spool"
    spool.mkdir()
    path = written(ds, spool / "0.dcm")
    placement = placed(ds, path.name)
    clean = deidentify_instance(read_instance(path), placement, KEYS)
    study = collect([predicted(chunk) for chunk in flatten_frames(clean)])
    tables = build_tables(study, pool_frames_per_clip=9)
    deid = DeidSettings(root=root, ocr="off", archive=True)
    with (
        staged(tables, root / "results", root / "pool") as files,
        staged_archive(
            [ArchiveSource(placement, path)],
            root / "deid_archive",
            options=deid.options(),
            pseudonymizer=KEYS,
            redact=redact,
        ) as archive,
    ):
        verdict = ReleaseCheck(spool, KEYS, deid).examine(study, files, archive)
        files.put_in_place()
        archive.put_in_place()
    return verdict


def told(root: Path) -> Iterator[str]:
    """Yield everything that a reader of the de-identified zone can see."""
    for folder in ("results", "pool", "deid_archive"):
        for path in (root / folder).rglob("*"):
            yield str(path.relative_to(root))
            if not path.is_file():
                continue
            content = path.read_bytes()
            for encoding in ("latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
                yield content.decode(encoding, errors="ignore")
            if path.suffix == ".parquet":
                table = pq.read_table(path, partitioning=None)
                yield str(table.schema)
                yield str(table.drop_columns([*{"frame"} & {*table.column_names}]).to_pylist())


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(marked=marked_headers())
def test_a_study_full_of_marks_leaves_none(marked: tuple[Dataset, list[str]]) -> None:
    ds, marks = marked
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            verdict = release(ds, Path(folder))
            seen = [*told(Path(folder)), log.getvalue(), verdict.describe(), repr(verdict)]
    finally:
        logging.getLogger().removeHandler(handler)
    assert verdict.reason is None, verdict.describe()
    for mark in marks:
        assert not [text for text in seen if mark.lower() in text.lower()], mark


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(marked=marked_headers(), broken=st.sampled_from(["PixelData", "Rows", "BitsAllocated", "SOPClassUID"]))
def test_no_exception_of_the_door_holds_a_mark(marked: tuple[Dataset, list[str]], broken: str) -> None:
    ds, marks = marked
    del ds[broken]
    try:
        list(flatten_frames(deidentify_instance(ds, placed(ds, ""), KEYS)))
    except RejectedError as error:
        said = f"{error!r} {error} {error.__cause__!r} {error.__context__!r} {error.__dict__}"
    else:
        said = ""
    for mark in marks:
        assert mark not in said
    assert said, broken


def test_marks_cannot_come_about_by_chance() -> None:
    words: Any = {word.upper() for keyword in keyword_dict for word in re.findall("[A-Z][a-z]+", keyword)}
    assert not [word for word in words if len(word) > 6 and set(word) <= set("QXZJ")]
    assert set("QXZJ") <= set(string.ascii_uppercase)
