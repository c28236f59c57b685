"""`echobeam phantom` writes what it says, and says what it wrote."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from beam_jobs.command import main
from echo_models.views import VIEWS


def test_studies_are_written_one_folder_each(tmp_path: Path) -> None:
    command = ["phantom", "studies", "--out", str(tmp_path), "--seed", "5", "--count", "2"]
    result = CliRunner().invoke(main, [*command, "--frames-per-clip", "1", "--lvh", "--json"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert [Path(study["folder"]).name for study in written] == ["study-5", "study-6"]
    assert all(study["hypertrophy"] != "none" for study in written)
    for study in written:
        assert len(list(Path(study["folder"]).glob("*.dcm"))) == study["instances"] == len(VIEWS)


def test_frames_come_with_masks_labels_and_a_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["phantom", "frames", "--root", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert Path(written["frames"]).parent == tmp_path / "phantom"
    with np.load(written["frames"]) as arrays:
        count = 2 * len(VIEWS)
        assert (
            arrays["frames"].shape
            == arrays["fov_masks"].shape
            == arrays["lv_masks"].shape
            == (count, 120, 160)
        )
        assert arrays["frames"].dtype == np.uint8
        assert list(dict.fromkeys(arrays["views"])) == list(VIEWS)
        assert arrays["lv_masks"][arrays["views"] == "a4c"].any()
        assert len(arrays["hypertrophies"]) == len(arrays["subjects"]) == count
    with Image.open(written["contact_sheet"]) as sheet:
        assert sheet.format == "PNG"


def test_people_are_told_the_paths(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["phantom", "frames", "--out", str(tmp_path)])
    assert f"{tmp_path / 'frames.npz'}: 30 frames" in result.stdout
