import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from dicom_listener.errors import StudyNotFoundError
from dicom_listener.log import configure_logging, describe_error

PLANTED = "PLANTED^PATIENT"


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield io.StringIO()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def fail() -> None:
    raise ValueError(PLANTED)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_records_are_json_lines_where_nobody_watches(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    structlog.get_logger("dicom_listener.x").info("association", new=3)
    logging.getLogger("somebody.else").warning("from %s", "elsewhere")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["new"], ours["level"]) == ("association", 3, "info")
    assert theirs["event"] == "from elsewhere"


def test_a_terminal_gets_readable_lines(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True)
    configure_logging(stream=stream)
    structlog.get_logger("dicom_listener.x").info("association", new=3)
    assert "association" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_quiet_leaves_warnings(stream: io.StringIO) -> None:
    configure_logging(quiet=True, stream=stream)
    structlog.get_logger("x").info("not this")
    structlog.get_logger("x").warning("this")
    assert [line["event"] for line in lines(stream)] == ["this"]


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom", "pynetdicom.acse"])
def test_what_the_dicom_libraries_say_is_withheld_but_not_that_they_spoke(
    stream: io.StringIO, name: str
) -> None:
    configure_logging(stream=stream)
    logging.getLogger(name).warning("Invalid value %s", PLANTED)
    logging.getLogger(name).info(PLANTED)
    [line] = lines(stream)
    assert line["logger"] == name
    assert "withheld" in str(line["event"])
    assert PLANTED not in stream.getvalue()


def test_no_warning_about_a_value_is_remembered(stream: io.StringIO) -> None:
    remembered: dict[str | tuple[str, type[Warning], int], int] = {}
    with warnings.catch_warnings():
        configure_logging(stream=stream)
        warnings.warn_explicit(PLANTED, UserWarning, "x.py", 1, "pydicom.valuerep", remembered)
    assert not any(PLANTED in str(key) for key in remembered)
    assert PLANTED not in stream.getvalue()


def test_the_text_of_a_warning_is_withheld_but_not_its_kind_and_place(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    with warnings.catch_warnings():
        logging.captureWarnings(capture=False)
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(f"Invalid value: {PLANTED}", UserWarning, stacklevel=1)
    [line] = lines(stream)
    assert "test_log.py" in str(line["event"])
    assert "UserWarning" in str(line["event"])
    assert PLANTED not in stream.getvalue()


def test_an_exception_shows_its_kind_and_way_but_not_its_text(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    try:
        fail()
    except ValueError:
        structlog.get_logger("x").exception("ours")
        logging.getLogger("y").exception("theirs")
    ours, theirs = lines(stream)
    for line in (ours, theirs):
        assert "ValueError at dicom_listener/test_log.py" in str(line["error"])
        assert any("test_log.py" in place for place in line["way"])  # type: ignore[attr-defined]
    assert PLANTED not in stream.getvalue()


def test_an_exception_that_ends_a_thread_is_logged_without_its_text(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    [line] = lines(stream)
    assert "ValueError" in str(line["error"])
    assert PLANTED not in stream.getvalue()


def test_our_own_messages_are_told() -> None:
    assert describe_error(StudyNotFoundError("what to do")) == "StudyNotFoundError: what to do"


def test_the_cause_of_an_error_is_told_by_its_kind(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    try:
        try:
            fail()
        except ValueError as error:
            raise StudyNotFoundError("what to do") from error
    except StudyNotFoundError:
        structlog.get_logger("x").exception("failed")
    [line] = lines(stream)
    assert str(line["error"]).startswith("StudyNotFoundError: what to do ← ValueError at")
    assert PLANTED not in stream.getvalue()
