"""The window of the labeling tool: a frame, matplotlib's own polygon selector, and the keys beside it.

Labels of the paper were drawn with such a tool (paper, Methods, "Field of view"). What happens to labels
is in `session`; here it is only shown.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

import matplotlib.pyplot as plt
from matplotlib.backend_bases import Event, KeyEvent
from matplotlib.figure import Figure
from matplotlib.widgets import PolygonSelector

from echo_models.frame_sets import FrameSet
from echo_models.labeling.session import OUTLINES, WORDS, Session
from echo_models.labels import QUESTIONS
from echo_models.outlines import NO_OUTLINE, outline_mask, read_polygon

_COLOURS: Final = {"fov": "tab:cyan", "lv": "tab:orange"}


class Editor:
    """Draws a session into a figure, and gives it keys and outlines.

    Attributes:
        figure: where.
        session: what is edited.
    """

    def __init__(self, figure: Figure, frames: FrameSet, session: Session) -> None:
        self.figure = figure
        self.session = session
        self._frames = frames
        self._picture, self._words = figure.subplots(1, 2, width_ratios=(3, 1))
        self._vertices: list[tuple[float, float]] = []
        self._selector: PolygonSelector | None = None
        self._release_keys()
        figure.canvas.mpl_connect("key_press_event", self._on_key)
        self.draw()

    def draw(self) -> None:
        """Show the frame, what was said of it, and the keys."""
        if self._selector is not None:
            self._selector.disconnect_events()
        self._vertices = []
        self._picture.clear()
        self._picture.set_axis_off()
        frame = self._frames.frame(self.session.position)
        self._picture.imshow(frame, cmap="gray", vmin=0, vmax=255)
        self._draw_outlines()
        colour = _COLOURS.get(self.session.question, "white")
        self._selector = PolygonSelector(
            self._picture, cast("Any", self._on_select), props={"color": colour, "linewidth": 1.5}
        )
        self._selector.set_active(self.session.question in OUTLINES)
        self._words.clear()
        self._words.set_axis_off()
        self._words.text(0, 1, "\n".join(self._lines()), va="top", family="monospace", fontsize=9)
        self.figure.canvas.draw_idle()

    def _release_keys(self) -> None:
        """Take the toolbar's shortcuts away: "s" would save a picture, "q" close the window unasked."""
        manager = self.figure.canvas.manager
        handler = None if manager is None else manager.key_press_handler_id
        if handler is not None:
            self.figure.canvas.mpl_disconnect(handler)

    def _on_select(self, vertices: Sequence[Any]) -> None:
        self._vertices = [(float(x), float(y)) for x, y in vertices]

    def _on_key(self, event: Event) -> None:
        if not isinstance(event, KeyEvent) or event.key is None:
            return
        if event.key == "enter" and len(self._vertices) >= 3:
            self.session.outline(self._vertices)
        elif event.key != "escape" and not self.session.press(event.key):
            return  # the selector's own keys, and those that mean nothing
        if self.session.has_ended:
            plt.close(self.figure)
        else:
            self.draw()

    def _draw_outlines(self) -> None:
        label = self.session.label
        for question, colour in _COLOURS.items():
            text = None if label is None else getattr(label, question)
            if label is None or text is None or text == NO_OUTLINE:
                continue
            if text.lower().endswith(".png"):
                self._picture.contour(outline_mask(text, label.folder), [0.5], colors=colour, linewidths=1)
                continue
            vertices = read_polygon(text)
            x, y = zip(*vertices, vertices[0], strict=False)
            self._picture.plot(x, y, color=colour, linewidth=1)

    def _lines(self) -> list[str]:
        session, ref, label = self.session, self.session.ref, self.session.label
        lines = [
            f"frame {session.position + 1} of {len(session.refs)}, {session.finished} finished",
            f"{ref.instance_key[:16]} : {ref.frame_index}",
            "",
        ]
        for question in session.questions:
            said = None if label is None else getattr(label, question)
            mark = ">" if question == session.question else " "
            outlined = said is not None and question in OUTLINES and said != NO_OUTLINE
            lines.append(f"{mark} {question:9} {'drawn' if outlined else said or '-'}")
        if label is not None and label.is_empty:
            lines.append("  skipped")
        if session.is_complete:
            lines.append("  every frame is finished")
        lines += ["", WORDS[session.question], ""]
        return lines + [f"{key:>6}  {meaning}" for key, meaning in session.key_help()]


def open_window(frames: FrameSet, session: Session) -> Editor:
    """Open the editor in a window of its own.

    Raises:
        RuntimeError: if no window can be opened here.
    """
    figure = plt.figure("echobeam label", figsize=(13, 7.5), layout="constrained")
    if plt.get_backend().lower() == "agg":
        plt.close(figure)
        raise RuntimeError("no window can be opened: log in with a display, or set MPLBACKEND")
    return Editor(figure, frames, session)


def asked(questions: Sequence[str]) -> tuple[str, ...]:
    """Put questions in the order in which they are asked, each once."""
    return tuple(question for question in QUESTIONS if question in questions)
