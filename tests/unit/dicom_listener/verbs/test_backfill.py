import io
import sys
from importlib import import_module

import pytest

from dicom_listener.backfill.job import Outcome

verb = import_module("dicom_listener.verbs.backfill")  # the package has the command by the same name


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    with verb._progress(quiet=quiet) as bar:
        bar.asking(2)
        bar.asked(5)
        bar.fetching(5)
        bar.waiting(60, "until 22:00")
        bar._progress.refresh()
        bar.looked_at(Outcome.FETCHED, 2_500_000)
        bar._progress.refresh()
    return stream.getvalue()


def test_a_terminal_shows_how_far_it_is_and_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(Terminal(), monkeypatch)
    assert "waiting until 22:00" in text
    assert "1/5" in text
    assert "2.5 MB" in text


def test_nothing_is_shown_where_there_is_no_terminal_or_quiet_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown(io.StringIO(), monkeypatch) == ""
    assert shown(Terminal(), monkeypatch, quiet=True) == ""
