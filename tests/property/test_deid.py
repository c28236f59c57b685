"""Whatever comes in, the door lets out clean frames or a reason code, and nothing else."""

import random
import string
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_jobs.deid import Pseudonymizer, RejectedError
from beam_jobs.deid.codestream import read_frame_size
from beam_jobs.deid.decoders import SUPPORTED_TRANSFER_SYNTAXES
from beam_jobs.frames import flatten_frames
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS
from tests.made_files import as_bytes, burn_in, clean, encapsulated, instance, region, speckle_cine

PATIENT_IDS = st.text(st.characters(codec="utf-8"), max_size=64)
UIDS = st.text(string.digits + ".", min_size=1, max_size=64)
QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def small_file(*, is_encapsulated: bool) -> bytes:
    pixels = speckle_cine(3, 60, 80)
    ds = instance(pixels, regions=[region(0, 0, 79, 59)], StudyDate="20200229", PatientName="DOE^JANE")
    if is_encapsulated:
        ds = encapsulated(
            ds, [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY") for frame in pixels]
        )
    return as_bytes(ds)


FILES = {kind: small_file(is_encapsulated=kind) for kind in (False, True)}


def flatten(data: bytes, folder: Path) -> int:
    """Count the frames that come out; a rejection is an answer."""
    path = folder / "instance.dcm"
    path.write_bytes(data)
    count, fault = 0, None
    try:
        for chunk in flatten_frames(clean(path)):
            assert chunk.frames.shape[1:] == (FRAME_ROWS, FRAME_COLUMNS)
            count += len(chunk.frames)
    except RejectedError as error:
        fault = error
    if fault is not None:
        assert fault.frames_kept == count
        assert fault.__context__ is None
    return count


@QUICK
@given(data=st.binary(max_size=2000), has_prefix=st.booleans())
def test_random_bytes_are_rejected_and_nothing_else(data: bytes, has_prefix: bool, tmp_path: Path) -> None:
    assert flatten(bytes(128) + b"DICM" + data if has_prefix else data, tmp_path) == 0


@settings(QUICK, max_examples=200)
@given(kind=st.booleans(), seed=st.integers(0, 2**32), changes=st.integers(1, 12))
def test_a_file_with_changed_bytes_gives_frames_or_a_reason(
    kind: bool, seed: int, changes: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    data = bytearray(FILES[kind])
    # Mostly the header: most of the file is pixels, where any byte is as good as another.
    for _ in range(changes):
        data[chance.randrange(chance.choice((1400, len(data))))] = chance.randrange(256)
    assert flatten(bytes(data), tmp_path) <= 36_000


@QUICK
@given(kind=st.booleans(), fraction=st.floats(0, 1))
def test_a_cut_file_gives_the_frames_before_the_cut_or_a_reason(
    kind: bool, fraction: float, tmp_path: Path
) -> None:
    data = FILES[kind]
    assert flatten(data[: int(fraction * len(data))], tmp_path) <= 3


@QUICK
@given(frame=st.binary(max_size=300), syntax=st.sampled_from(sorted(SUPPORTED_TRANSFER_SYNTAXES)))
def test_random_codestreams_are_rejected_and_nothing_else(frame: bytes, syntax: Any, tmp_path: Path) -> None:
    ds = instance(speckle_cine(1, 60, 80))
    if syntax.is_encapsulated:
        ds = encapsulated(ds, [frame + b"\0"], syntax)
        assert flatten(as_bytes(ds), tmp_path) == 0


@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]),
)
def test_a_size_is_read_or_refused(data: bytes, start: bytes) -> None:
    try:
        size = read_frame_size(start + data)
    except RejectedError:
        return
    assert len(size) == 4


@given(patient_id=PATIENT_IDS, uid=UIDS, key=st.binary(min_size=32, max_size=32))
def test_keys_are_stable_and_shifts_stay_within_a_year(patient_id: str, uid: str, key: bytes) -> None:
    first, second = Pseudonymizer(key), Pseudonymizer(key)
    subject = first.subject_key(patient_id, uid)
    assert subject == second.subject_key(patient_id, uid)
    assert -365 <= first.day_shift(subject) <= -1
    assert first.day_shift(subject) == second.day_shift(subject)


@given(first=UIDS, second=UIDS)
def test_different_identifiers_have_different_keys(first: str, second: str) -> None:
    keys = Pseudonymizer(bytes(32))
    assert (keys.study_key(first) == keys.study_key(second)) == (first == second)
    assert keys.study_key(first) != keys.series_key(first)


@settings(QUICK, max_examples=25)
@given(
    words=st.text(string.ascii_uppercase + string.digits + "^", min_size=3, max_size=14),
    left=st.integers(0, 30),
    size=st.integers(9, 32),
    number_of_frames=st.sampled_from([1, 3, 20]),
    only_frame=st.booleans(),
    data=st.data(),
)
def test_a_burned_in_name_above_the_sector_leaves_no_pixel(
    *, words: str, left: int, size: int, number_of_frames: int, only_frame: bool, data: st.DataObject
) -> None:
    pixels = speckle_cine(number_of_frames)
    marked = data.draw(st.integers(0, number_of_frames - 1))
    for frame in pixels[marked : marked + 1] if only_frame else pixels:
        burn_in(frame, words, left, 2, size)
    above = int(0.15 * 300) * FRAME_ROWS // 300 - 2
    for chunk in flatten_frames(clean(instance(pixels, regions=[region(0, 0, 399, 299)]))):
        assert not chunk.frames[:, :above].any()
        assert chunk.frames.any()


def test_a_header_nested_without_end_is_rejected(tmp_path: Path) -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    bomb = (b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + item) * 20_000
    data = FILES[False]
    place = data.index(b"\x08\x00\x60\x00CS")
    path = tmp_path / "instance.dcm"
    path.write_bytes(data[:place] + bomb)
    with pytest.raises(RejectedError):
        clean(path)
