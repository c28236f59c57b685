"""The demo, as a newcomer runs it: twice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import Image

from beam_jobs.query import run_query
from echo_models.registry import SHIPPED

pytest.importorskip("data_store", reason="the extra `demo` is not installed")
pytestmark = pytest.mark.timeout(900)


def run_demo(root: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "beam_jobs", "demo", "--json", "--root", root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(root: Path) -> dict[str, Any]:
    return run_demo(root)


def test_bundles_ship_so_that_nothing_need_be_trained() -> None:
    assert list(SHIPPED.glob("*/*/bundle.json"))


def test_every_study_is_done_and_nothing_was_there_before(first: dict[str, Any]) -> None:
    assert {study["state"] for study in first["studies"]} == {"done"}
    assert first["already_there"] == 0
    assert first["sent"] >= 25


def test_every_instance_is_a_clip_or_a_rejection(first: dict[str, Any]) -> None:
    clips = sum(row["clips"] for row in first["views"])
    assert clips + len(first["rejections"]) == first["sent"]
    assert {"not_ultrasound", "no_pixels"} <= {row["reason"] for row in first["rejections"]}


def test_the_real_hearts_and_the_synthetic_study_have_views(first: dict[str, Any]) -> None:
    keys = {what: study["study_key"] for study in first["studies"] for what in study["files"]}
    with_views = {row["study_key"] for row in first["views"]}
    for begin in ("apical four chamber", "parasternal", "synthetic a4c"):
        key = next(key for what, key in keys.items() if what.startswith(begin))
        assert key in with_views
    assert first["phantom_views"]["drawn"] == 15


def test_the_models_see_most_synthetic_views(first: dict[str, Any]) -> None:
    assert first["phantom_views"]["right"] >= 8, "chance would be one of fifteen"


def test_the_contact_sheet_is_a_picture_of_many_frames(first: dict[str, Any]) -> None:
    with Image.open(first["contact_sheet"]) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 1000
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 200


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("table", ["frames", "clips", "studies", "rejections"])
def test_no_row_and_no_file_name_tells_the_patient(root: Path, table: str) -> None:
    secrets = set()
    for path in (root / "demo").rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        secrets |= {str(header.StudyInstanceUID), str(header.SOPInstanceUID), str(header.StudyDate)}
        secrets |= {str(header.PatientName), str(header.PatientID)}
    answer = run_query(f"SELECT * FROM {table}", root / "results")  # noqa: S608 - a table's name
    assert answer.rows
    told = f"{answer.rows} {[str(path) for path in (root / 'results').rglob('*')]}"
    assert [secret for secret in secrets if len(secret) > 5 and secret in told] == []


def test_a_second_run_sends_again_and_changes_nothing(first: dict[str, Any], root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*.parquet")}
    second = run_demo(root)
    assert second["already_there"] == second["sent"] == first["sent"]
    assert {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*.parquet")} == before
    for what in ("studies", "views", "rejections", "phantom_views"):
        assert second[what] == first[what]


def test_a_service_that_does_not_start_ends_the_demo_with_1_and_the_log(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)  # the worker refuses a key that others can read
    command = [sys.executable, "-m", "beam_jobs", "demo", "--json", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(tmp_path / "demo" / "up.log") in done.stderr
    assert "service_refused_to_start" in (tmp_path / "demo" / "up.log").read_text()
