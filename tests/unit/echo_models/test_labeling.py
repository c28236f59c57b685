"""The labeling tool: the session by itself, then the window, driven by keys and mouse without a display."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.backend_bases import KeyEvent, MouseButton, MouseEvent

from echo_models.errors import DatasetError
from echo_models.frame_sets import FrameRef, FrameSet, open_frames
from echo_models.labeling.agreement import kappa_of, measure_agreement
from echo_models.labeling.editor import Editor, asked, open_window
from echo_models.labeling.session import Session
from echo_models.labels import Label, read_labels, write_labels
from echo_models.outlines import polygon_mask, read_polygon, write_mask
from echo_models.verbs.label import label as label_verb
from tests.unit.echo_models.test_frame_sets import write_parquet

REFS = [FrameRef(f"s{number}", f"i{number}", 0) for number in range(4)]


class Desk:
    """A session with what it saved."""

    def __init__(
        self, *questions: str, labels: tuple[Label, ...] = (), refs: list[FrameRef] | None = None
    ) -> None:
        self.saved: list[list[Label]] = []
        self.now = 1000.0
        self.session = Session(
            REFS if refs is None else refs,
            labels,
            labeler="ana",
            questions=questions or ("view",),
            save=self.saved.append,
            clock=lambda: self.now,
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            assert self.session.press(key), key


def test_a_key_answers_and_goes_to_the_next_frame() -> None:
    desk = Desk("view")
    desk.press("7")
    assert desk.session.position == 1
    (label,) = desk.saved[-1]
    assert label == Label("s0", "i0", 0, "ana", 1000, view="a4c")
    desk.press("a", "e", "0")
    assert [label.view for label in desk.saved[-1]] == ["a4c", "sc_aorta", "mmode", "sc_ivc"]
    assert desk.session.is_complete
    assert desk.session.position == 3


def test_every_answer_is_saved_before_the_next() -> None:
    desk = Desk("view", "lvh_grade")
    desk.press("7")
    assert desk.session.question == "lvh_grade"
    assert desk.session.position == 0
    desk.press("9")
    assert [(label.view, label.lvh_grade) for label in desk.saved[-1]] == [("a4c", "severe")]
    assert len(desk.saved) == 2
    assert desk.session.position == 1


def test_outlines_are_drawn_or_there_is_none() -> None:
    desk = Desk("fov", "lv")
    desk.session.outline([(1, 2), (30.125, 4), (5, 60)])
    assert desk.saved[-1][0].fov == "1 2, 30.12 4, 5 60"
    desk.press("n")
    assert desk.saved[-1][0].lv == "none"
    with pytest.raises(DatasetError, match="three corners or more"):
        desk.session.outline([(1, 2), (3, 4)])
    with pytest.raises(DatasetError, match="received 3 corners for view"):
        Desk("view").session.outline([(1, 2), (3, 4), (5, 6)])


def test_undo_goes_back_one_change_at_a_time_to_where_it_was_made() -> None:
    desk = Desk("view")
    desk.press("7", "1", "left", "2")
    assert [label.view for label in desk.saved[-1]] == ["a4c", "rv_inflow"]
    desk.press("z")
    assert desk.session.position == 1
    assert [label.view for label in desk.saved[-1]] == ["a4c", "plax"]
    desk.press("z", "z")
    assert desk.session.position == 0
    assert desk.saved[-1] == []
    desk.press("z")
    assert desk.session.label is None


def test_a_skipped_frame_is_finished_without_a_label() -> None:
    desk = Desk("view")
    desk.press("s")
    assert desk.saved[-1][0].is_empty
    assert (desk.session.position, desk.session.finished) == (1, 1)
    desk.press("left", "7")
    assert desk.saved[-1][0].view == "a4c"


def test_a_session_goes_on_at_the_first_frame_that_is_not_finished() -> None:
    before = (
        Label("s0", "i0", 0, "ana", 1, view="a4c", lv="none"),
        Label("s1", "i1", 0, "ana", 2),
        Label("s2", "i2", 0, "ana", 3, view="a4c"),
        Label("s9", "other", 5, "ana", 4, view="pw"),
    )
    desk = Desk("view", "lv", labels=before)
    assert (desk.session.position, desk.session.question) == (2, "lv")
    desk.press("n")
    assert desk.session.position == 3
    assert {label.instance_key for label in desk.saved[-1]} == {"i0", "i1", "i2", "other"}


def test_frames_and_questions_can_be_gone_through_by_hand() -> None:
    desk = Desk("view", "lv")
    desk.press("right", "right", "right", "right", "left", "tab")
    assert (desk.session.position, desk.session.question) == (2, "lv")
    desk.press("tab")
    assert desk.session.question == "view"
    assert not desk.session.press("x")
    assert not desk.session.press("n")
    desk.press("q")
    assert desk.session.has_ended


def test_after_the_last_frame_come_those_that_were_left_open() -> None:
    desk = Desk("view")
    desk.press("right", "right", "right", "7")
    assert desk.session.position == 0


@pytest.mark.parametrize("question", ["view", "lvh_grade", "fov", "lv"])
def test_every_key_that_is_shown_does_something(question: str) -> None:
    for key, _ in Desk(question).session.key_help():
        if key not in ("click", "enter", "escape"):  # the window's own
            Desk(question).press(key)


def test_what_is_no_session_is_refused() -> None:
    with pytest.raises(DatasetError, match="questions are view"):
        Desk("colour")
    with pytest.raises(DatasetError, match="another's too"):
        Desk("view", labels=(Label("s", "i", 0, "bo", 0, view="pw"),))


def test_questions_are_asked_in_one_order() -> None:
    assert asked(("lv", "view", "lv")) == ("view", "lv")


# --- the window -------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path: Path) -> FrameSet:
    write_parquet(tmp_path / "frames.parquet")
    return open_frames(tmp_path / "frames.parquet")


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    yield
    plt.close("all")


class Hand:
    """Presses keys and clicks on pixels of the frame, as a window system would tell."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.canvas = editor.figure.canvas
        self.canvas.draw()

    def key(self, *keys: str) -> None:
        for key in keys:
            for name in ("key_press_event", "key_release_event"):
                self.canvas.callbacks.process(name, KeyEvent(name, self.canvas, key))

    def click(self, *corners: tuple[float, float]) -> None:
        for corner in corners:
            x, y = self.editor._picture.transData.transform(corner)
            for name in ("motion_notify_event", "button_press_event", "button_release_event"):
                button = None if name == "motion_notify_event" else MouseButton.LEFT
                self.canvas.callbacks.process(name, MouseEvent(name, self.canvas, x, y, button=button))


def hand_of(frames: FrameSet, desk: Desk) -> Hand:
    return Hand(Editor(plt.figure(figsize=(13, 7.5)), frames, desk.session))


TRIANGLE = ((20.0, 20.0), (120.0, 30.0), (60.0, 100.0))


def test_a_polygon_is_drawn_taken_and_shown(frames: FrameSet) -> None:
    desk = Desk("lv", "view", refs=frames.refs)
    hand = hand_of(frames, desk)
    hand.key("enter")
    assert desk.saved == []  # nothing is closed yet
    hand.click(*TRIANGLE, TRIANGLE[0])
    assert desk.saved == []  # not taken before it is confirmed
    hand.key("enter")
    (label,) = desk.saved[-1]
    drawn = polygon_mask(read_polygon(str(label.lv)), 120, 160)
    meant = polygon_mask(TRIANGLE, 120, 160)
    assert (drawn & meant).sum() > 0.97 * (drawn | meant).sum()
    hand.key("7")
    assert desk.session.position == 1
    hand.key("left")
    (outline,) = [line for line in hand.editor._picture.lines if len(np.atleast_1d(line.get_xdata())) == 4][
        :1
    ]
    assert np.asarray(outline.get_xdata())[0] == pytest.approx(20, abs=1)


def test_a_mask_is_shown_as_its_border(frames: FrameSet, tmp_path: Path) -> None:
    write_mask(tmp_path / "lv.png", polygon_mask(TRIANGLE, 120, 160))
    ref = frames.refs[0]
    before = Label(ref.subject_key, ref.instance_key, ref.frame_index, "ana", 1, lv="lv.png", folder=tmp_path)
    hand = hand_of(frames, Desk("view", labels=(before,), refs=frames.refs))
    (border,) = hand.editor._picture.collections
    assert border.get_datalim(hand.editor._picture.transData).x0 == pytest.approx(20, abs=1)


def test_escape_begins_an_outline_again(frames: FrameSet) -> None:
    desk = Desk("fov", refs=frames.refs)
    hand = hand_of(frames, desk)
    hand.click(*TRIANGLE, TRIANGLE[0])
    hand.key("escape", "enter")
    assert desk.saved == []
    hand.click((5, 5), (150, 5), (150, 110), (5, 110), (5, 5))
    hand.key("enter")
    assert len(read_polygon(str(desk.saved[-1][0].fov))) == 4


def test_the_keys_are_on_the_screen_and_change_with_the_question(frames: FrameSet) -> None:
    desk = Desk("view", "lv", refs=frames.refs)
    hand = hand_of(frames, desk)
    (words,) = [text.get_text() for text in hand.editor._words.texts]
    assert "frame 1 of 6, 0 finished" in words
    assert "7  a4c" in words
    assert "z  undo" in words
    hand.key("7")
    (words,) = [text.get_text() for text in hand.editor._words.texts]
    assert "view      a4c" in words
    assert "enter  take the closed outline" in words


def test_keys_that_mean_nothing_change_nothing_and_q_closes(frames: FrameSet) -> None:
    desk = Desk("view", refs=frames.refs)
    hand = hand_of(frames, desk)
    hand.key("x", "shift", "ctrl+s")
    assert (desk.saved, desk.session.position) == ([], 0)
    hand.key("s")  # matplotlib itself would save a picture
    assert desk.saved[-1][0].is_empty
    hand.key("q")
    assert not plt.get_fignums()


def test_without_a_display_no_window_is_opened(frames: FrameSet) -> None:
    with pytest.raises(RuntimeError, match="no window can be opened"):
        open_window(frames, Desk("view", refs=frames.refs).session)
    assert not plt.get_fignums()


# --- agreement --------------------------------------------------------------------------------------


def labels_of(labeler: str, answers: list[str], question: str = "view") -> list[Label]:
    return [
        Label(f"s{number}", f"i{number}", 0, labeler, 0, **{question: answer})  # type: ignore[arg-type]
        for number, answer in enumerate(answers)
    ]


def test_kappa_is_cohens() -> None:
    # The example of Cohen's kappa in every textbook: 50 items, 20 and 15 agreed on.
    assert kappa_of(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)
    assert kappa_of(np.eye(3)) == 1
    assert math.isnan(kappa_of(np.array([[4.0, 0.0], [0.0, 0.0]])))


def test_views_are_compared_on_the_frames_that_both_labeled() -> None:
    ana = labels_of("ana", ["a4c"] * 10 + ["plax"] * 10)
    bo = labels_of("bo", ["a4c"] * 8 + ["plax"] * 12)[:18]
    (found,) = measure_agreement([*ana, *bo])
    assert (found.question, found.labelers, found.measure) == ("view", ("ana", "bo"), "kappa")
    assert found.interval.n == 18
    assert found.equal == pytest.approx(16 / 18)
    expected = kappa_of(np.array([[8.0, 2.0], [0.0, 8.0]]))
    assert found.interval.value == pytest.approx(expected)
    assert found.interval.low < expected < found.interval.high


def test_grades_are_compared_as_hypertrophy_or_none() -> None:
    ana = labels_of("ana", ["severe", "none", "severe", "none"], "lvh_grade")
    bo = labels_of("bo", ["moderate_concentric", "mild_concentric", "severe", "none"], "lvh_grade")
    (found,) = measure_agreement([*ana, *bo])
    assert (found.interval.value, found.equal) == (1, 1)


def test_outlines_are_compared_by_dice_for_every_two_labelers() -> None:
    square, wider = "9.5 9.5, 49.5 9.5, 49.5 49.5, 9.5 49.5", "9.5 9.5, 89.5 9.5, 89.5 49.5, 9.5 49.5"
    labels = [
        *labels_of("ana", [square, "none"], "lv"),
        *labels_of("bo", [wider, "none"], "lv"),
        *labels_of("cy", [square], "lv"),
    ]
    found = measure_agreement(labels)
    assert [it.labelers for it in found] == [("ana", "bo"), ("ana", "cy"), ("bo", "cy")]
    assert [it.interval.value for it in found] == pytest.approx([(2 / 3 + 1) / 2, 1, 2 / 3])
    assert [it.interval.n for it in found] == [2, 1, 1]


# --- the verb ---------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(label_verb, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_labels_saves_and_goes_on(
    tmp_path: Path, frames: FrameSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    presses = iter((("7", "9", "q"), ("1", "1", "q")))
    editors: list[Editor] = []
    monkeypatch.setattr(
        "echo_models.labeling.editor.open_window",
        lambda *opened: editors.append(Editor(plt.figure(), *opened)),
    )
    monkeypatch.setattr(plt, "show", lambda: Hand(editors[-1]).key(*next(presses)))
    arguments = ("frames", str(tmp_path / "frames.parquet"), "--labeler", "ana", "--root", str(tmp_path))
    ask = ("--ask", "lvh_grade", "--ask", "view")
    code, out, err = run(*arguments, *ask)
    assert code == 0, err
    assert out == f"{tmp_path}/labels/ana.csv: 1 of {len(frames)} frames finished\n"
    assert run(*arguments, *ask)[1].endswith(f": 2 of {len(frames)} frames finished\n")
    said = [(label.view, label.lvh_grade) for label in read_labels(tmp_path / "labels")]
    assert said == [("a4c", "severe"), ("plax", "none")]


def test_the_verb_says_where_no_window_or_frame_is(tmp_path: Path, frames: FrameSet) -> None:  # noqa: ARG001
    code, _, err = run("frames", "--labeler", "ana", "--root", str(tmp_path))
    assert (code, "holds none" in err) == (1, True)
    code, _, err = run(
        "frames", str(tmp_path / "frames.parquet"), "--labeler", "ana", "--root", str(tmp_path)
    )
    assert (code, "no window can be opened" in err) == (2, True)


def test_labels_are_checked_and_counted(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.csv", labels_of("ana", ["a4c", "plax"]))
    code, out, _ = run("check", str(tmp_path), "--json")
    counts = {
        "rows": 2,
        "frames": 2,
        "subjects": 2,
        "labelers": 1,
        "view": 2,
        "lvh_grade": 0,
        "fov": 0,
        "lv": 0,
    }
    assert (code, json.loads(out)) == (0, counts)
    assert "labelers   1" in run("check", str(tmp_path))[1]
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("plax", "axis"))
    code, _, err = run("check", str(tmp_path))
    assert code == 1
    assert f"{tmp_path / 'a.csv'}, row 3, column view: expected one of" in err


def test_agreement_is_reported_with_n_and_interval(tmp_path: Path) -> None:
    write_labels(tmp_path / "ana.csv", labels_of("ana", ["a4c", "plax", "a4c", "plax"]))
    code, _, err = run("agreement", str(tmp_path))
    assert (code, "nothing to compare" in err) == (1, True)
    write_labels(tmp_path / "bo.csv", labels_of("bo", ["a4c", "plax", "plax", "plax"]))
    code, out, _ = run("agreement", str(tmp_path))
    assert code == 0
    assert out.startswith("view      ana and bo")
    assert "kappa 0.500 (" in out
    assert "n = 4), the same answer to 75.0%" in out
    (found,) = json.loads(run("agreement", str(tmp_path), "--json")[1])
    assert (found["measure"], found["n"], found["value"], found["equal"]) == ("kappa", 4, 0.5, 0.75)
    write_labels(tmp_path / "ana.csv", labels_of("ana", ["a4c"]))
    assert "undefined: one answer to all 1 frames" in run("agreement", str(tmp_path))[1]
    assert json.loads(run("agreement", str(tmp_path), "--json")[1])[0]["value"] is None
    (tmp_path / "bo.csv").write_text("view\na4c\n")
    assert run("agreement", str(tmp_path))[0] == 1
