"""Synthetic studies: real DICOM, with what a machine would leave in them, and the same every time."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit

from beam_jobs.phantom_studies import BANNER_PX, PhantomStudy, burn_in
from echo_models.phantom import render_clip
from echo_models.views import VIEWS

STUDY = PhantomStudy(seed=3, frames_per_clip=2, views=("a4c", "cw", "mmode"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(STUDY.write(tmp_path_factory.mktemp("study")))


def test_each_view_is_one_instance_of_one_study(paths: list[Path]) -> None:
    assert [path.name for path in paths] == ["01-a4c.dcm", "02-cw.dcm", "03-mmode.dcm"]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert {header.StudyInstanceUID for header in headers} == {STUDY.study_instance_uid}
    assert len({header.SOPInstanceUID for header in headers}) == 3
    assert not list(paths[0].parent.glob("*.tmp"))


def test_a_whole_study_has_all_fifteen_views() -> None:
    assert tuple(PhantomStudy(seed=1).views) == VIEWS


def test_the_same_call_writes_the_same_bytes(paths: list[Path], tmp_path: Path) -> None:
    again = list(STUDY.write(tmp_path))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_another_seed_is_another_study_of_another_patient() -> None:
    other = PhantomStudy(seed=4, frames_per_clip=2, views=STUDY.views)
    assert other.study_instance_uid != STUDY.study_instance_uid
    assert other.banner != STUDY.banner


def test_frames_are_full_screens_in_jpeg_baseline(paths: list[Path]) -> None:
    dataset = pydicom.dcmread(paths[0])
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert dataset.pixel_array.shape == (2, 600, 800)
    assert dataset.pixel_array.max() > 100


def test_the_name_is_burned_in_above_the_sector(paths: list[Path]) -> None:
    frames = pydicom.dcmread(paths[0]).pixel_array
    assert (frames[:, :BANNER_PX].max(axis=(1, 2)) > 150).all()
    assert STUDY.banner.startswith("PHANTOM^SUBJECT 3")


def test_burning_in_leaves_the_frames_it_was_given_alone() -> None:
    frames = np.zeros((2, 600, 800), np.uint8)
    assert burn_in(frames, "PHANTOM").max() > 150
    assert frames.max() == 0


@pytest.mark.parametrize(
    ("index", "mode"),
    [(0, (1, {1, 2}, 3, 3, {"0001", "0011"})), (1, (3, {4}, 4, 7, {"0004"})), (2, (2, {1}, 4, 3, {"0002"}))],
)
def test_regions_and_image_type_name_the_mode(
    paths: list[Path], index: int, mode: tuple[int, set[int], int, int, set[str]]
) -> None:
    spatial_format, data_types, units_across, units_down, image_types = mode
    dataset = pydicom.dcmread(paths[index], stop_before_pixels=True)
    region = dataset.SequenceOfUltrasoundRegions[0]
    assert region.RegionSpatialFormat == spatial_format
    assert region.RegionDataType in data_types
    assert (region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection) == (units_across, units_down)
    assert dataset.ImageType[3] in image_types


def test_a_clip_with_a_colour_box_says_so_in_image_type_as_in_its_region() -> None:
    study = PhantomStudy(seed=1)
    for seed in range(40):
        clip = render_clip(study.subject, "plax", seed=seed, number_of_frames=1)
        dataset = study.instance(clip, 1)
        in_colour = dataset.SequenceOfUltrasoundRegions[0].RegionDataType == 2
        assert dataset.ImageType[3] == ("0011" if in_colour else "0001")
        if in_colour:
            return
    pytest.fail("no colour box in forty clips")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed")
def test_an_independent_validator_finds_no_error(paths: list[Path]) -> None:
    for path in paths:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr, said.stderr
