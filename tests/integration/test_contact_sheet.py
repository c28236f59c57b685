"""The contact sheet through the door and the models, with tiny models and synthetic clips."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from beam_jobs.contact_sheet import (
    Exhibit,
    Models,
    assess,
    load_models,
    read_clean,
    tiles_of,
    write_contact_sheet,
)
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.phantom_studies import BANNER_PX, PhantomStudy
from echo_models.errors import NotInRegistryError
from echo_models.registry import Registry
from echo_models.views import VIEWS
from tests.toy import write_toy_registry

PSEUDONYMIZER = Pseudonymizer(b"k" * 32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(write_toy_registry(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = PhantomStudy(seed=3, frames_per_clip=6, views=("a4c",))
    return next(study.write(tmp_path_factory.mktemp("study")))


def test_the_pixels_shown_are_those_behind_the_door(clip: Path) -> None:
    chunk = read_clean(clip, PSEUDONYMIZER)
    assert chunk is not None
    assert chunk.frames.shape == (6, 120, 160)
    assert chunk.frames.max() > 50
    assert chunk.frames[:, : BANNER_PX // 5].max() == 0, "the burned-in name is not shown"


def test_tiles_are_spread_over_the_clip_and_say_view_and_confidence(clip: Path, models: Models) -> None:
    chunk = read_clean(clip, PSEUDONYMIZER)
    assert chunk is not None
    tiles = list(tiles_of(assess(chunk, models), Exhibit(clip, "a caption", frames=3)))
    assert len(tiles) == 3
    for tile in tiles:
        view, _, confidence = tile.verdict.partition(" ")
        assert view in VIEWS
        assert 0 < float(confidence.split()[0]) <= 1
        assert tile.caption == "a caption"
        assert tile.fov.shape == tile.lv.shape == (120, 160)


def test_a_file_that_the_door_rejects_is_passed_over(tmp_path: Path, clip: Path, models: Models) -> None:
    without_pixels = tmp_path / "report.dcm"
    dataset = pydicom.dcmread(clip)
    del dataset.PixelData
    dataset.save_as(without_pixels)
    sheet = tmp_path / "sheet.png"
    shown = write_contact_sheet(
        [Exhibit(without_pixels, "no"), Exhibit(clip, "yes")], models, PSEUDONYMIZER, sheet
    )
    assert shown == 1
    with Image.open(sheet) as picture:
        assert np.asarray(picture).std() > 5
    assert [path.name for path in tmp_path.glob("sheet*")] == ["sheet.png"]


def test_a_registry_without_models_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotInRegistryError):
        load_models(Registry(tmp_path))
