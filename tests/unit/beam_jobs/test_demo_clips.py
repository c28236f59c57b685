"""Which files the demo sends, and with which command."""

import sys
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom import config
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from beam_jobs import demo_clips
from beam_jobs.dcmtk import find_dcmtk_storescu
from beam_jobs.demo_clips import Clip, describe_clips, public_clips
from beam_jobs.demo_sender import Sender, SendError, by_transfer_syntax


def write(path: Path, **values: str | None) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            dataset[name] = pydicom.DataElement(name, "UI", value, validation_mode=config.IGNORE)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_file_without_a_study_or_with_a_malformed_one_is_not_sent(tmp_path: Path) -> None:
    good = write(tmp_path / "good.dcm")
    lacking = write(tmp_path / "lacking.dcm", StudyInstanceUID=None)
    malformed = write(tmp_path / "malformed.dcm", StudyInstanceUID="1.2.03.x")
    clips, skipped = describe_clips([(path, "a file") for path in (good, lacking, malformed)])
    assert [clip.path for clip in clips] == [good]
    assert [(left.name, "Instance UID" in left.why) for left in skipped] == [
        ("lacking.dcm", True),
        ("malformed.dcm", True),
    ]


def test_an_instance_goes_out_once(tmp_path: Path) -> None:
    uid = generate_uid()
    first = write(tmp_path / "first.dcm", SOPInstanceUID=uid)
    second = write(tmp_path / "second.dcm", SOPInstanceUID=uid)
    clips, skipped = describe_clips([(first, "one"), (second, "another")])
    assert [clip.what for clip in clips] == ["one"]
    assert [left.name for left in skipped] == ["second.dcm"]


def test_what_is_not_dicom_is_not_sent(tmp_path: Path) -> None:
    text = tmp_path / "text.dcm"
    text.write_text("not DICOM")
    clips, skipped = describe_clips([(text, "a text")])
    assert (clips, [left.why for left in skipped]) == ([], ["not a DICOM file"])


def test_a_package_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_clips, "_PUBLIC", (("no_such_package", "data/a.dcm", "nothing"),))
    clips, skipped = public_clips(tmp_path)
    assert clips == []
    assert "no_such_package" in skipped[0].why


def test_an_archive_is_unpacked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "published"
    package.mkdir()
    (package / "__init__.py").touch()
    with zipfile.ZipFile(package / "cine.zip", "w") as archive:
        archive.write(write(tmp_path / "cine.dcm"), "folder/cine.dcm")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demo_clips, "_PUBLIC", (("published", "cine.zip", "a cine"),))
    (clip,), _ = public_clips(tmp_path / "unpacked")
    stamp = clip.path.stat().st_mtime_ns
    (again,), _ = public_clips(tmp_path / "unpacked")
    assert again == clip
    assert again.path.stat().st_mtime_ns == stamp
    assert clip.what == "a cine (published)"


def test_the_public_clips_hold_both_hearts(tmp_path: Path) -> None:
    pytest.importorskip("data_store")
    pytest.importorskip("deid_data")
    clips, skipped = public_clips(tmp_path)
    said = " ".join(clip.what for clip in clips)
    for what in (
        "apical four chamber",
        "parasternal",
        "secondary capture",
        "structured report",
        "not a heart",
    ):
        assert what in said
    assert [left.name for left in skipped] == ["examples_ybr_color.dcm"]


def clip_of(syntax: str, name: str) -> Clip:
    return Clip(Path(f"/clips/{name}.dcm"), name, "1.2", f"1.2.{len(name)}", syntax)


def test_each_association_carries_one_transfer_syntax() -> None:
    clips = [
        clip_of(JPEGBaseline8Bit, "a"),
        clip_of(ExplicitVRLittleEndian, "bb"),
        clip_of(JPEGBaseline8Bit, "ccc"),
    ]
    groups = {str(syntax): [clip.what for clip in group] for syntax, group in by_transfer_syntax(clips)}
    assert groups == {ExplicitVRLittleEndian: ["bb"], JPEGBaseline8Bit: ["a", "ccc"]}


def recorded_command(tmp_path: Path, code: int = 0) -> tuple[Path, Path]:
    """Make a program that writes its arguments to a file and ends with a code."""
    program, said = tmp_path / "storescu", tmp_path / "said"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"pathlib.Path({str(said)!r}).write_text('\\n'.join(sys.argv[1:]))\n"
        f"print('the last word', file=sys.stderr)\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return program, said


def test_dcmtk_is_told_to_propose_the_syntax_of_the_files(tmp_path: Path) -> None:
    program, said = recorded_command(tmp_path)
    sender = Sender("127.0.0.1", 104, "ECHOBEAM", program)
    (group,) = sender.send([clip_of(JPEGBaseline8Bit, "a")])
    assert [clip.what for clip in group] == ["a"]
    arguments = said.read_text().splitlines()
    assert "--propose-jpeg8" in arguments
    assert arguments[-3:] == ["127.0.0.1", "104", "/clips/a.dcm"]


def test_a_syntax_that_dcmtk_has_no_option_for_goes_out_with_pynetdicom(tmp_path: Path) -> None:
    program, _ = recorded_command(tmp_path)
    sender = Sender("127.0.0.1", 104, "ECHOBEAM", program)
    command = sender._command(JPEGLSLossless, [Path("a.dcm")])
    assert command[:4] == [sys.executable, "-m", "pynetdicom", "storescu"]


def test_a_client_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program, _ = recorded_command(tmp_path, code=7)
    sender = Sender("127.0.0.1", 104, "ECHOBEAM", program)
    with pytest.raises(SendError, match="code 7: the last word"):
        list(sender.send([clip_of(JPEGBaseline8Bit, "a")]))


def test_another_program_of_the_same_name_is_not_taken_for_dcmtk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_command(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_dcmtk_storescu() is None
    (tmp_path / "storescu").write_text("#!/bin/sh\necho '$dcmtk: storescu v3.6.7 $'\n")
    assert find_dcmtk_storescu() == tmp_path / "storescu"
