"""De-identified DICOM files: named by keys, dated by revision, seen only once they are verified."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
)

from beam_jobs.deid.archive import (
    ArchiveSource,
    StagedArchive,
    remove_study,
    staged_archive,
    study_folder,
)
from beam_jobs.deid.archive_file import DeidentifiedFile, deidentify_file
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.profile import DeidOptions
from beam_jobs.deid.redaction import RedactedPixels
from beam_jobs.records import Reason
from tests import marks
from tests.made_files import PLACEMENT, PSEUDONYMIZER, header, instance, region, speckle_cine, written

NAME = f"{marks.WORD}^JANE"


def pixels(pixel_data: bytes, **described: Any) -> RedactedPixels:
    """Give what a redaction gives: grey frames, if nothing else is said."""
    usual: dict[str, Any] = {
        "transfer_syntax": ExplicitVRLittleEndian,
        "photometric_interpretation": "MONOCHROME2",
        "samples_per_pixel": 1,
        "planar_configuration": None,
        "number_of_frames": 3,
        "is_reencoded": True,
    }
    return RedactedPixels(pixel_data=pixel_data, **(usual | described))


def black(ds: Dataset, path: Path) -> RedactedPixels:
    """Hide everything."""
    assert path.is_file()
    assert ds.PatientName == NAME
    return pixels(bytes(ds.NumberOfFrames * ds.Rows * ds.Columns), number_of_frames=ds.NumberOfFrames)


def source(folder: Path, number: int = 1, ds: Dataset | None = None, **placement: Any) -> ArchiveSource:
    if ds is None:
        ds = instance(speckle_cine(3, 30, 40), regions=[region(0, 0, 39, 29)], PatientName=NAME)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyDate = "1.2.3", "1.2.4", "20200229"
    placed = replace(PLACEMENT, instance_key=f"{number:032x}", **placement)
    return ArchiveSource(placed, written(ds, folder / f"{number}.dcm"))


def report(number: int) -> Dataset:
    ds = header(PatientName=NAME, ValueType="CONTAINER")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.5.{number}")
    return ds


@contextmanager
def staged(
    *sources: ArchiveSource, folder: Path, redact: Any = black, **options: Any
) -> Iterator[StagedArchive]:
    with staged_archive(
        sources, folder, options=DeidOptions(**options), pseudonymizer=PSEUDONYMIZER, redact=redact
    ) as archive:
        yield archive


def made(ds: Dataset, folder: Path, *, redact: Any = black, **options: Any) -> DeidentifiedFile:
    return deidentify_file(
        written(ds, folder / "instance.dcm"),
        PLACEMENT,
        options=DeidOptions(**options),
        pseudonymizer=PSEUDONYMIZER,
        redact=redact,
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_study_is_seen_only_once_it_is_put_in_place(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with staged(source(tmp_path), source(tmp_path, 2), folder=archive) as files:
        target = study_folder(archive, PLACEMENT.study_key)
        assert all(one.path.is_file() for one in files.instances)
        assert not target.exists()
        files.put_in_place()
        assert files_in(target) == [f"{PLACEMENT.series_key}/{number:032x}.dcm" for number in (1, 2)]
    assert len(files_in(archive)) == 2


def test_a_study_that_is_not_released_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with staged(source(tmp_path), folder=archive):
        pass
    assert files_in(archive) == []


def test_a_later_revision_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for number, revision in ((1, 1), (2, 2)):
        with staged(source(tmp_path, number, revision=revision), folder=archive) as files:
            files.put_in_place()
    target = study_folder(archive, PLACEMENT.study_key)
    assert [path.name for path in target.rglob("*.dcm")] == [f"{2:032x}.dcm"]
    assert files_in(archive) == [str(path.relative_to(archive)) for path in target.rglob("*.dcm")]


def test_a_revision_without_an_instance_for_the_archive_removes_the_study(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with staged(source(tmp_path), folder=archive) as files:
        files.put_in_place()
    missing = ArchiveSource(PLACEMENT, tmp_path / "none.dcm")
    with staged(missing, folder=archive) as files:
        assert [(one.placement, one.reason) for one in files.left_out] == [(PLACEMENT, Reason.MISSING_FILE)]
        files.put_in_place()
    assert not study_folder(archive, PLACEMENT.study_key).exists()


def test_a_study_can_be_removed(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with staged(source(tmp_path), folder=archive) as files:
        files.put_in_place()
    assert remove_study(archive, PLACEMENT.study_key)
    assert not remove_study(archive, PLACEMENT.study_key)
    assert files_in(archive) == []


@pytest.mark.parametrize("study_keys", [(), ("5" * 32, "9" * 32)])
def test_instances_of_one_study_are_staged(tmp_path: Path, study_keys: tuple[str, ...]) -> None:
    sources = [source(tmp_path, number, study_key=key) for number, key in enumerate(study_keys)]
    with (
        pytest.raises(ValueError, match=f"instances of {len(study_keys)}"),
        staged(*sources, folder=tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"")
    with pytest.raises(OSError, match="archive"), staged(source(tmp_path), folder=tmp_path / "archive"):
        pass


def test_the_same_instance_gives_the_same_bytes_and_no_date_is_real(tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        with staged(source(tmp_path), folder=tmp_path / name) as files:
            files.put_in_place()
        target = study_folder(tmp_path / name, PLACEMENT.study_key)
        path = next(target.rglob("*.dcm"))
        contents.append(path.read_bytes())
        for dated in (path, path.parent, target):
            assert dated.stat().st_mtime == 946_684_800 + PLACEMENT.revision
    assert contents[0] == contents[1]
    assert b"2020" not in contents[0][:2000]


def test_a_file_has_no_mark_of_its_patient_and_the_pixels_that_were_cleaned(tmp_path: Path) -> None:
    with staged(source(tmp_path), folder=tmp_path / "archive") as files:
        archived = files.instances[0]
        content = archived.path.read_bytes()
        assert archived.is_reencoded
        assert any(action.rule == "E.1-1 (0010,0010)" for action in archived.actions)
    assert marks.find_marks(content) == []
    ds = pydicom.dcmread(BytesIO(content))
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID == PSEUDONYMIZER.uid("1.2.3.1")
    assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
    assert (ds.NumberOfFrames, ds.pixel_array.shape, ds.pixel_array.any()) == (3, (3, 30, 40), np.False_)
    assert (ds.PatientIdentityRemoved, ds.BurnedInAnnotation) == ("YES", "NO")
    assert content[:128] == bytes(128)


def test_frames_that_show_nobody_stay_as_they_were_encoded(tmp_path: Path) -> None:
    frames = [b"\xff\xd8" + bytes([number]) * 4 for number in range(3)]

    def kept(_: Dataset, __: Path) -> RedactedPixels:
        return pixels(
            encapsulate(frames, has_bot=False), transfer_syntax=JPEGBaseline8Bit, is_reencoded=False
        )

    file = made(instance(speckle_cine(3, 30, 40)), tmp_path, redact=kept)
    ds = pydicom.dcmread(BytesIO(file.content))
    assert ds.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert list(generate_frames(ds.PixelData, number_of_frames=3)) == frames
    assert not file.is_reencoded


def test_an_image_that_was_lossy_says_so_after_it_was_encoded_again(tmp_path: Path) -> None:
    ds = instance(speckle_cine(3, 30, 40), PatientName=NAME)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([b"\xff\xd8"] * 3, has_bot=False)
    ds["PixelData"].is_undefined_length = True
    said = pydicom.dcmread(BytesIO(made(ds, tmp_path).content))
    assert (said.LossyImageCompression, said.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def test_pixels_say_what_they_are(tmp_path: Path) -> None:
    ds = instance(
        np.zeros((1, 30, 40, 3), np.uint8), PlanarConfiguration=1, SOPClassUID=UltrasoundImageStorage
    )
    del ds.NumberOfFrames

    def colour(_: Dataset, __: Path) -> RedactedPixels:
        return pixels(bytes(3600), photometric_interpretation="RGB", samples_per_pixel=3,
                      planar_configuration=0, number_of_frames=1)  # fmt: skip

    said = pydicom.dcmread(BytesIO(made(ds, tmp_path, redact=colour).content))
    assert (said.PhotometricInterpretation, said.SamplesPerPixel, said.PlanarConfiguration) == ("RGB", 3, 0)
    assert "NumberOfFrames" not in said

    def grey(_: Dataset, __: Path) -> RedactedPixels:
        return pixels(bytes(1200), number_of_frames=1)

    assert "PlanarConfiguration" not in pydicom.dcmread(BytesIO(made(ds, tmp_path, redact=grey).content))


def test_words_of_16_bits_are_written_as_words(tmp_path: Path) -> None:
    ds = instance(np.zeros((3, 30, 40), np.uint16), PatientName=NAME)

    def words(_: Dataset, __: Path) -> RedactedPixels:
        return pixels(bytes(7200))

    assert pydicom.dcmread(BytesIO(made(ds, tmp_path, redact=words).content))["PixelData"].VR == "OW"


def test_a_report_needs_no_redaction(tmp_path: Path) -> None:
    ds = pydicom.dcmread(BytesIO(made(report(1), tmp_path, clean_pixel_data=False).content))
    assert ds.SOPClassUID == ComprehensiveSRStorage
    assert ds.PatientIdentityRemoved == "YES"


def test_without_clean_pixels_an_image_stays_out(tmp_path: Path) -> None:
    with staged(
        source(tmp_path), source(tmp_path, 2, report(2)), folder=tmp_path, clean_pixel_data=False
    ) as files:
        assert [one.placement.instance_key[-1] for one in files.instances] == ["2"]
        assert [one.reason for one in files.left_out] == [Reason.NOT_ULTRASOUND]


def refusing(_: Dataset, __: Path) -> RedactedPixels:
    raise RejectedError(Reason.NO_IMAGE_REGION)


@pytest.mark.parametrize(
    ("elements", "redact", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, black, Reason.NOT_ULTRASOUND),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, black, Reason.NOT_ULTRASOUND),
        ({}, refusing, Reason.NO_IMAGE_REGION),
    ],
)
def test_what_cannot_be_cleaned_is_left_out(
    tmp_path: Path, elements: dict[str, Any], redact: Any, reason: Reason
) -> None:
    ds = instance(speckle_cine(3, 30, 40), **elements)
    with pytest.raises(RejectedError) as raised:
        made(ds, tmp_path, redact=redact)
    assert raised.value.reason is reason


def test_a_deflated_dataset_is_left_out_before_it_is_inflated(tmp_path: Path) -> None:
    ds = instance(speckle_cine(3, 30, 40))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(RejectedError) as raised:
        made(ds, tmp_path)
    assert raised.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 132 + b"\xff" * 60])
def test_what_is_no_dicom_is_left_out(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "instance.dcm"
    path.write_bytes(data)
    with pytest.raises(RejectedError) as raised:
        deidentify_file(path, PLACEMENT, options=DeidOptions(), pseudonymizer=PSEUDONYMIZER, redact=black)
    assert raised.value.reason is Reason.UNREADABLE_HEADER
    assert raised.value.__context__ is None
