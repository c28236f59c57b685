"""What the demo prints, and how it ends."""

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from beam_jobs import demo as demo_module
from beam_jobs.command import main
from beam_jobs.demo import DemoError, Report, StudyOutcome
from beam_jobs.demo_clips import Skipped
from beam_jobs.demo_report import Bars, report_as_json, show_report
from beam_jobs.demo_sender import SendError
from dicom_listener.errors import SettingsError


def report(*, failed: bool = False) -> Report:
    studies = [
        StudyOutcome("a" * 32, "done", 1, ("apical four chamber (published)",), ""),
        StudyOutcome("b" * 32, "done", 1, ("synthetic a4c", "synthetic plax"), ""),
        StudyOutcome("c" * 32, "done", 1, ("structured report (published)",), ""),
    ]
    if failed:
        studies.append(StudyOutcome("d" * 32, "failed", 1, ("probe in air",), "OSError in WriteStudies"))
    row = {"view": "a4c", "clips": 1, "frames": 120, "confidence": 0.93, "lvh_probability": 0.25}
    return Report(
        client="DCMTK's storescu",
        sent=4,
        already_there=1,
        skipped=(Skipped("half.dcm", "has the SOP Instance UID of a file before"),),
        studies=tuple(studies),
        views=(
            {"study_key": "a" * 32, **row},
            {"study_key": "b" * 32, **row, "view": "plax", "lvh_probability": None},
        ),
        rejections=({"study_key": "c" * 32, "stage": "DeidentifyInstances", "reason": "no_pixels"},),
        phantom_views=(1, 2),
        results=Path("/root/results"),
        contact_sheet=Path("/root/contact_sheet.png"),
        seconds=12.3,
    )


def shown(of: Report) -> str:
    console = Console(file=io.StringIO(), width=100)
    show_report(of, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_report_shows_a_row_for_each_study_and_view() -> None:
    text = shown(report())
    for words in ("aaaaaaaa", "apical four chamber", "a4c", "120", "0.93", "0.25"):
        assert words in text
    assert "synthetic study of every view" in text
    assert "(done, no clip)" in text, "a study of only a report is shown too"


def test_the_report_says_what_was_rejected_skipped_and_there_before() -> None:
    text = shown(report())
    for words in ("1 no_pixels", "half.dcm", "already there: 1", "1 of 2 clips", "/root/contact_sheet.png"):
        assert words in text


def test_several_files_of_a_study_are_named_by_the_first() -> None:
    study = StudyOutcome("e" * 32, "done", 1, ("cine (published)", "still (published)", "report"), "")
    assert "cine and 2 more" in shown(Report(**{**vars(report()), "studies": (study,), "views": ()}))


def test_the_json_report_is_json_and_whole() -> None:
    document = json.loads(json.dumps(report_as_json(report())))
    assert document["already_there"] == 1
    assert document["phantom_views"] == {"right": 1, "drawn": 2}
    assert document["studies"][1]["files"] == ["synthetic a4c", "synthetic plax"]


def test_without_a_terminal_each_step_is_a_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with Bars(console) as bars:
        bars.step("sending", 3)
        bars.advance(3)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "sending …\n"


def test_on_a_terminal_each_step_is_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bars(console) as bars:
        bars.step("sending", 3)
        bars.advance(2)
    assert isinstance(console.file, io.StringIO)
    assert "2/3" in console.file.getvalue()


def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: Report | Exception) -> tuple[int, str]:
    def run_demo(*_: object) -> Report:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(demo_module, "run_demo", run_demo)
    result = CliRunner().invoke(main, ["demo", "--root", str(tmp_path), "--json"])
    return result.exit_code, result.stderr


def test_a_failed_study_ends_the_demo_with_1_and_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, said = invoke(monkeypatch, tmp_path, report(failed=True))
    assert code == 1
    assert "OSError in WriteStudies" in said
    assert invoke(monkeypatch, tmp_path, report())[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DemoError("did not become ready"), 1),
        (SendError("ended with code 3"), 1),
        (SettingsError(["port: many is no number"]), 2),
    ],
)
def test_an_error_ends_the_demo_with_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: int
) -> None:
    assert invoke(monkeypatch, tmp_path, error) == (code, f"Error: {error}\n")


def test_a_client_that_is_asked_for_and_not_there_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["demo", "--root", str(tmp_path), "--client", "dcmtk"])
    assert result.exit_code == 2
    assert "install dcmtk" in result.output
