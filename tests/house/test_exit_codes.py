"""A verb ends with the code of its error, and the page of exit codes has each."""

import re
from pathlib import Path

import pytest

from beam_jobs.compaction import CompactionError, ExchangeError
from beam_jobs.deid.errors import KeyFileError
from beam_jobs.erase import EraseBusyError, NoSuchSubjectError
from beam_jobs.errors import QueryError, SetupError
from dicom_listener.errors import (
    CommitmentNotFoundError,
    LedgerUnavailableError,
    ListenerError,
    PortInUseError,
    SettingsError,
    SpoolLockedError,
    StudyBusyError,
    StudyNotFoundError,
)
from dicom_listener.exit_codes import ExitCode, VerbError, exit_codes
from echo_models import verbs as verbs_of_models

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ListenerError("what"), 1),
        (LedgerUnavailableError("what"), 1),
        (SettingsError(["what"]), 2),
        (PortInUseError("what"), 4),
        (SpoolLockedError("what"), 4),
        (StudyBusyError("what"), 4),
        (StudyNotFoundError("what"), 3),
        (CommitmentNotFoundError("what"), 3),
        (QueryError("what"), 1),
        (SetupError("what"), 2),
        (KeyFileError("what"), 2),
        (CompactionError("what"), 1),
        (ExchangeError("what"), 2),
        (NoSuchSubjectError("what"), 3),
        (EraseBusyError("what"), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, VerbError) else str(value),
)
def test_a_verb_ends_with_the_code_of_its_error(
    error: VerbError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_a_bug_is_no_exit_code() -> None:
    with pytest.raises(KeyError), exit_codes():
        raise KeyError("what")


def test_the_page_lists_every_code_and_no_other() -> None:
    listed = {
        int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert listed == {0, *ExitCode}


def test_the_verbs_of_the_models_which_know_no_listener_use_the_same_codes() -> None:
    theirs = {name: code for name, code in vars(verbs_of_models).items() if name in ExitCode.__members__}
    assert theirs == {"FAILED": ExitCode.FAILED, "NOT_FOUND": ExitCode.NOT_FOUND}
