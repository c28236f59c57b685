"""What a labeler does: answers, outlines, skips, goes back, undoes. No window and no file in here.

A key is one press; every change is saved at once. A session that is begun again goes on at the first
frame that is not finished.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from echo_models.errors import DatasetError
from echo_models.frame_sets import FrameRef
from echo_models.labels import GRADES, QUESTIONS, FrameKey, Label
from echo_models.outlines import NO_OUTLINE, polygon_text
from echo_models.views import VIEWS

OUTLINES: Final = ("fov", "lv")
"""The questions that are answered by drawing."""

WORDS: Final = {
    "view": "which view?",
    "lvh_grade": "which grade of hypertrophy?",
    "fov": "outline the field of view",
    "lv": "outline the left ventricle (epicardium)",
}

_CHOICES: Final = {
    "view": dict(zip("1234567890abcde", VIEWS, strict=True)),
    "lvh_grade": dict(zip("123456789", GRADES, strict=True)),
}
_DRAWING: Final = (
    ("click", "set a corner; the first again closes"),
    ("enter", "take the closed outline"),
    ("escape", "begin the outline again"),
    ("n", "there is none"),
)
_MOVES: Final = (
    ("right", "next frame"),
    ("left", "previous frame"),
    ("tab", "next question"),
    ("s", "skip: leave this frame"),
    ("z", "undo"),
    ("q", "quit"),
)


class Session:
    """One labeler's way through frames.

    Attributes:
        refs: the frames, in order.
        questions: what is asked of each, in order.
        position: the frame being labeled.
        question: the one being asked.
        has_ended: the labeler quit.
    """

    def __init__(
        self,
        refs: Sequence[FrameRef],
        labels: Iterable[Label],
        *,
        labeler: str,
        questions: Sequence[str],
        save: Callable[[list[Label]], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin, or go on.

        Args:
            refs: at least one.
            labels: what this labeler said before.
            labeler: a pseudonym.
            questions: of `QUESTIONS`, at least one.
            save: called with every label after each change.
            clock: seconds since the epoch.

        Raises:
            DatasetError: if a label is another labeler's, or a question is none.
        """
        if not questions or not set(questions) <= set(QUESTIONS):
            raise DatasetError(f"questions are {', '.join(QUESTIONS)}; received {list(questions)}")
        self.refs = refs
        self.questions = tuple(questions)
        self.position = 0
        self.question = self.questions[0]
        self.has_ended = False
        self._labeler = labeler
        self._labels: dict[FrameKey, Label] = {label.frame_key: label for label in labels}
        if any(label.labeler != labeler for label in self._labels.values()):
            raise DatasetError("a session's file holds one labeler's labels; this one holds another's too")
        self._save = save
        self._clock = clock
        self._past: list[tuple[int, str, Label | None]] = []
        self._go_to(self._next_unfinished(0) or 0)

    # --- what there is to see ---

    @property
    def ref(self) -> FrameRef:
        """The frame being labeled."""
        return self.refs[self.position]

    @property
    def label(self) -> Label | None:
        """What the labeler said of it; None for nothing yet."""
        return self._labels.get(self.ref.frame_key)

    @property
    def finished(self) -> int:
        """How many frames are finished, skipped ones included."""
        return sum(self._is_finished(position) for position in range(len(self.refs)))

    @property
    def is_complete(self) -> bool:
        """Say whether every frame is finished."""
        return self._next_unfinished(0) is None

    def key_help(self) -> list[tuple[str, str]]:
        """List each key and what it does now."""
        own = _DRAWING if self.question in OUTLINES else tuple(_CHOICES[self.question].items())
        return [*own, *_MOVES]

    # --- what the labeler does ---

    def press(self, key: str) -> bool:
        """Do what a key says.

        Returns:
            whether it means anything now.
        """
        choices = _CHOICES.get(self.question, {})
        actions: dict[str, Callable[[], None]] = {
            "right": lambda: self._go_to(min(self.position + 1, len(self.refs) - 1)),
            "left": lambda: self._go_to(max(self.position - 1, 0)),
            "tab": self._next_question,
            "s": self._skip,
            "z": self._undo,
            "q": self._quit,
        }
        if key in choices:
            self._answer(choices[key])
        elif key == "n" and self.question in OUTLINES:
            self._answer(NO_OUTLINE)
        elif key in actions:
            actions[key]()
        else:
            return False
        return True

    def outline(self, vertices: Sequence[tuple[float, float]]) -> None:
        """Take a closed outline as the answer.

        Args:
            vertices: (x, y) in pixels of the frame, three or more.

        Raises:
            DatasetError: if no outline is asked for, or it has fewer corners.
        """
        if self.question not in OUTLINES or len(vertices) < 3:
            raise DatasetError(
                f"an outline of three corners or more answers {' or '.join(OUTLINES)}; received "
                f"{len(vertices)} corners for {self.question}"
            )
        self._answer(polygon_text(vertices))

    # --- how ---

    def _answer(self, value: str) -> None:
        answer: dict[str, Any] = {self.question: value}
        self._change(replace(self.label or self._empty(), **answer))
        unanswered = self._unanswered(self.position)
        if unanswered:
            self.question = unanswered[0]
            return
        self._go_on()

    def _skip(self) -> None:
        self._change(self._empty())
        self._go_on()

    def _undo(self) -> None:
        if not self._past:
            return
        position, question, before = self._past.pop()
        self.position, self.question = position, question
        self._put(before)

    def _quit(self) -> None:
        self.has_ended = True

    def _next_question(self) -> None:
        self.question = self.questions[(self.questions.index(self.question) + 1) % len(self.questions)]

    def _change(self, label: Label) -> None:
        self._past.append((self.position, self.question, self.label))
        self._put(replace(label, labeled_at=int(self._clock())))

    def _put(self, label: Label | None) -> None:
        if label is None:
            del self._labels[self.ref.frame_key]
        else:
            self._labels[self.ref.frame_key] = label
        self._save(list(self._labels.values()))

    def _go_on(self) -> None:
        """Go to the next frame that is not finished, the first after the last; stay where all are."""
        following = self._next_unfinished(self.position + 1)
        if following is None:
            following = self._next_unfinished(0)
        self._go_to(self.position if following is None else following)

    def _go_to(self, position: int) -> None:
        self.position = position
        self.question = next(iter(self._unanswered(position)), self.questions[0])

    def _next_unfinished(self, start: int) -> int | None:
        return next((n for n in range(start, len(self.refs)) if not self._is_finished(n)), None)

    def _is_finished(self, position: int) -> bool:
        label = self._labels.get(self.refs[position].frame_key)
        return label is not None and (label.is_empty or not self._unanswered(position))

    def _unanswered(self, position: int) -> list[str]:
        label = self._labels.get(self.refs[position].frame_key)
        return [it for it in self.questions if label is None or getattr(label, it) is None]

    def _empty(self) -> Label:
        ref = self.ref
        return Label(ref.subject_key, ref.instance_key, ref.frame_index, self._labeler, int(self._clock()))
