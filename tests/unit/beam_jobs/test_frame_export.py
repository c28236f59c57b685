"""DICOM files become frames to label: through the door, under the site's keys."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from beam_jobs.deid import Pseudonymizer
from beam_jobs.frame_export import NoFramesError, find_files, read_mimic_list, write_frames
from beam_jobs.verbs.frames import frames as frames_verb
from echo_models.errors import DatasetError, TableError
from echo_models.frame_sets import open_frames
from tests.made_files import PSEUDONYMIZER, burn_in, instance, region, speckle_cine, written

WHOLE = [region(0, 0, 399, 299)]


def write_clip(path: Path, number: int, *, patient: str = "P1", regions: object = WHOLE) -> Path:
    pixels = speckle_cine(5, seed=number)
    for frame in pixels:
        burn_in(frame, "DOE^JANE", 5, 5)
    ds = instance(
        pixels,
        regions=regions,  # type: ignore[arg-type]
        PatientID=patient,
        PatientName="DOE^JANE",
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.4",
        SOPInstanceUID=f"1.2.3.4.{number}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return written(ds, path)


def test_frames_are_clean_and_under_the_keys_of_the_site(tmp_path: Path) -> None:
    files = [write_clip(tmp_path / f"{number}.dcm", number, patient=f"P{number // 2}") for number in range(3)]
    done = write_frames(files, tmp_path / "out", PSEUDONYMIZER, frames_per_clip=2)
    assert (done.frames, done.clips, done.subjects, done.left_out) == (6, 3, 2, {})
    frames = open_frames(tmp_path / "out")
    assert len(frames) == 6
    assert {ref.subject_key for ref in frames.refs} == {
        PSEUDONYMIZER.subject_key(patient, "1.2.3") for patient in ("P0", "P1")
    }
    keys = {PSEUDONYMIZER.instance_key(f"1.2.3.4.{number}") for number in range(3)}
    assert {ref.instance_key for ref in frames.refs} == keys
    assert {ref.frame_index for ref in frames.refs} == {0, 4}
    pixels = np.stack([frames.frame(number) for number in range(6)])
    assert pixels.shape == (6, 120, 160)
    assert not pixels[:, :12, :60].any()  # the name was there
    assert pixels[:, 40:100, 60:100].mean() > 10
    content = (tmp_path / "out" / "frames.parquet").read_bytes()
    assert b"DOE" not in content
    assert b"1.2.3" not in content


def test_the_order_of_rows_is_not_that_of_the_names(tmp_path: Path) -> None:
    files = [write_clip(tmp_path / f"day-{number}.dcm", number) for number in range(6)]
    write_frames(files, tmp_path / "out", PSEUDONYMIZER, frames_per_clip=1)
    in_file = pq.read_table(tmp_path / "out" / "frames.parquet").column("instance_key").to_pylist()
    by_name = [PSEUDONYMIZER.instance_key(f"1.2.3.4.{number}") for number in range(6)]
    assert sorted(in_file) == sorted(by_name)
    assert in_file != by_name


def test_a_clip_to_be_looked_at_first_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    files = [write_clip(tmp_path / "1.dcm", 1), write_clip(tmp_path / "2.dcm", 2, regions=())]
    done = write_frames(files, tmp_path / "out", PSEUDONYMIZER, frames_per_clip=1)
    assert (done.clips, done.left_out) == (1, {"needs_review": 1})
    done = write_frames(files, tmp_path / "out", PSEUDONYMIZER, frames_per_clip=1, include_unreviewed=True)
    assert (done.clips, done.left_out) == (2, {})


def test_what_the_door_rejects_is_counted_by_reason(tmp_path: Path) -> None:
    good, bad = write_clip(tmp_path / "1.dcm", 1), tmp_path / "2.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM" + b"DOE^JANE")
    done = write_frames([good, bad], tmp_path / "out", PSEUDONYMIZER, frames_per_clip=9)
    assert (done.frames, done.left_out) == (5, {"unreadable_header": 1})
    with pytest.raises(NoFramesError, match="left out: 1 unreadable_header"):
        write_frames([bad], tmp_path / "out", PSEUDONYMIZER, frames_per_clip=1)
    assert len(open_frames(tmp_path / "out")) == 5  # as it was
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frames.parquet"]
    with pytest.raises(NoFramesError, match="no file"):
        write_frames([], tmp_path / "out", PSEUDONYMIZER, frames_per_clip=1)


def test_dicom_files_are_found_by_their_first_bytes(tmp_path: Path) -> None:
    first, second = write_clip(tmp_path / "a" / "IM0001", 1), write_clip(tmp_path / "b.dcm", 2)
    (tmp_path / "notes.dcm").write_text("no DICOM")
    assert find_files(tmp_path) == [first, second]
    assert find_files(second) == [second]
    with pytest.raises(NoFramesError, match="is not there"):
        find_files(tmp_path / "absent")


LIST = "subject_id,study_id,acquisition_datetime,dicom_filepath\n"
LINE = "10000001,90000001,2150-01-01 10:00:00,files/p10/p10000001/s90000001/90000001_0001.dcm\n"


def test_mimic_s_list_names_the_files_that_are_there(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "files" / "p10" / "p10000001" / "s90000001" / "90000001_0001.dcm", 1)
    file = tmp_path / "echo-record-list.csv"
    file.write_text(LIST + LINE + LINE.replace("_0001", "_0002"))
    assert read_mimic_list(file) == [clip]
    for content, message in (
        (LIST.replace("dicom_filepath", "path") + LINE, "expected a column dicom_filepath"),
        (LIST + LINE.replace("files/", "../"), "row 2, column dicom_filepath: expected a path below"),
        (LIST + LINE.replace("_0001", "_0002"), "none of the listed files"),
        (LIST + "1,2,3,\n", "row 2, column dicom_filepath: expected a value"),
    ):
        file.write_text(content)
        with pytest.raises(TableError, match=message):
            read_mimic_list(file)
    with pytest.raises(DatasetError, match="is not there"):
        read_mimic_list(tmp_path / "absent.csv")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(frames_verb, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_uses_the_site_s_secret_and_says_what_was_left_out(tmp_path: Path) -> None:
    write_clip(tmp_path / "dicom" / "1.dcm", 1)
    write_clip(tmp_path / "dicom" / "2.dcm", 2, regions=())
    root = tmp_path / "root"
    arguments = (str(tmp_path / "dicom"), "--root", str(root), "--out", str(tmp_path / "out"))
    code, out, err = run(*arguments)
    assert code == 0, err
    assert out.endswith("2 frames of 1 clips of 1 subjects\nleft out: 1 needs_review\n")
    key = Pseudonymizer.from_existing_key_file(root / "secret.key").instance_key("1.2.3.4.1")
    assert {ref.instance_key for ref in open_frames(tmp_path / "out").refs} == {key}
    shown = json.loads(run(*arguments, "--json", "--include-unreviewed")[1])
    assert (shown["clips"], shown["left_out"]) == (2, {})


def test_the_verb_tells_nothing_to_do_from_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    arguments = (str(tmp_path / "dicom"), "--root", str(tmp_path), "--out", str(tmp_path / "out"))
    assert run(*arguments)[0] == 1
    (tmp_path / "echobeam.toml").write_text("[worker]\ncolour = 1\n")
    code, _, err = run(*arguments)
    assert (code, "colour" in err) == (2, True)


def test_mimic_s_list_is_taken_by_the_verb(tmp_path: Path) -> None:
    write_clip(tmp_path / "files" / "p10" / "p10000001" / "s90000001" / "90000001_0001.dcm", 1)
    (tmp_path / "echo-record-list.csv").write_text(LIST + LINE)
    arguments = ("--root", str(tmp_path), "--out", str(tmp_path / "out"))
    code, out, err = run(str(tmp_path), "--list", str(tmp_path / "echo-record-list.csv"), *arguments)
    assert code == 0, err
    assert "2 frames of 1 clips" in out
