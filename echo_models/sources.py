"""Where labeled frames come from, other than the phantom: one shape for every public set and a site's own.

A loader gives a `Source`; `join_sources` puts sources together so that nobody is in two of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from echo_models.datasets import Known, LabeledFrames
from echo_models.errors import DatasetError
from echo_models.preprocessing import COLUMNS, ROWS, shrink
from echo_models.views import VIEWS

Border = Literal["epicardium", "endocardium"]
"""What an outline of the left ventricle goes along. The paper's, the phantom's: epicardium."""

TRAIN: Final = 0
VALIDATION: Final = 1
TEST: Final = 2
UNDECIDED: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Frames of one set, as far as it labels them.

    Attributes:
        kind: names the set.
        labeled: its frames.
        parts: [N], int8, the set's own split: `TRAIN`, `VALIDATION`, `TEST`, or `UNDECIDED`.
        lv_border: of its outlines of the left ventricle; None where it has none.
        notes: what a model card must say of the labels.
    """

    kind: str
    labeled: LabeledFrames
    parts: npt.NDArray[np.int8]
    lv_border: Border | None = None
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What a bundle's manifest says of it, as JSON: no path, no name."""
        return {
            "kind": self.kind,
            "frames": len(self.labeled),
            "subjects": len(np.unique(self.labeled.subjects)),
            "labels": {bit.name.lower(): int(self.labeled.knows(bit).sum()) for bit in Known.ALL if bit.name},
            "lv_border": self.lv_border,
            "fingerprint": self.labeled.fingerprint(),
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class Collector:
    """Gathers frames and what is known of them, and makes a source of them.

    Attributes:
        kind: names the set.
    """

    kind: str
    _frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _fov_masks: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _lv_masks: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _values: list[tuple[int, bool, str, int, int]] = field(default_factory=list)

    def add(
        self,
        frame: npt.NDArray[np.uint8],
        *,
        subject: str,
        view: str | None = None,
        hypertrophy: bool | None = None,
        fov_mask: npt.NDArray[np.bool_] | None = None,
        lv_mask: npt.NDArray[np.bool_] | None = None,
        part: int = UNDECIDED,
    ) -> None:
        """Add a frame; None is "not known".

        Args:
            frame: [120, 160], uint8.
            subject: who it is, in the set's own names.
            view: one of `VIEWS`.
            hypertrophy: the paper's LVH.
            fov_mask: [120, 160], bool.
            lv_mask: [120, 160], bool; empty where there is no ventricle.
            part: of the set's own split.
        """
        known = Known(0)
        for bit, value in (
            (Known.VIEW, view),
            (Known.HYPERTROPHY, hypertrophy),
            (Known.FOV, fov_mask),
            (Known.LV, lv_mask),
        ):
            known |= bit if value is not None else Known(0)
        self._frames.append(frame)
        self._fov_masks.append(np.ones((ROWS, COLUMNS), bool) if fov_mask is None else fov_mask)
        self._lv_masks.append(np.zeros((ROWS, COLUMNS), bool) if lv_mask is None else lv_mask)
        self._values.append((VIEWS.index(view) if view else 0, bool(hypertrophy), subject, known, part))

    def finish(self, *, lv_border: Border | None = None, notes: Sequence[str] = ()) -> Source:
        """Make the source.

        Raises:
            DatasetError: if there is no frame, or the set's own split has a subject in two parts.
        """
        if not self._frames:
            raise DatasetError(f"{self.kind}: the folder must hold frames of this set; it holds none")
        views, hypertrophy, names, known, parts = zip(*self._values, strict=True)
        _, subjects = np.unique(np.array(names), return_inverse=True)
        labeled = LabeledFrames(
            frames=np.stack(self._frames),
            fov_masks=np.stack(self._fov_masks),
            lv_masks=np.stack(self._lv_masks),
            views=np.array(views, np.int64),
            hypertrophy=np.array(hypertrophy, bool),
            subjects=subjects.astype(np.int64),
            known=np.array(known, np.uint8),
        )
        of_subject: dict[str, int] = {}
        for name, part in zip(names, parts, strict=True):
            if of_subject.setdefault(name, part) != part:
                raise DatasetError(
                    f"{self.kind}: nobody may be in two parts of a split; one subject is. "
                    "Correct the set's own list"
                )
        return Source(self.kind, labeled, np.array(parts, np.int8), lv_border, tuple(notes))


def phantom_source(labeled: LabeledFrames) -> Source:
    """Give the phantom's frames as a source among others."""
    parts = np.full(len(labeled), UNDECIDED, np.int8)
    return Source("phantom", labeled, parts, "epicardium", ("synthetic frames with exact labels",))


def join_sources(sources: Sequence[Source], *, outlined: bool) -> Source:
    """Put sources together; subjects of different sources are different people.

    Args:
        sources: one or more.
        outlined: whether outlines of the left ventricle will be used.

    Raises:
        DatasetError: if there is none, or the outlines that will be used go along different borders.
    """
    if not sources:
        raise DatasetError("there must be a source of frames; received none")
    first, labeled = 0, []
    for source in sources:
        labeled.append(dataclasses.replace(source.labeled, subjects=source.labeled.subjects + first))
        first = int(labeled[-1].subjects.max()) + 1
    return Source(
        "+".join(source.kind for source in sources),
        LabeledFrames.join(labeled),
        np.concatenate([source.parts for source in sources]),
        _one_border(sources) if outlined else None,
        tuple(f"{source.kind}: {note}" for source in sources for note in source.notes),
    )


def _one_border(sources: Sequence[Source]) -> Border | None:
    borders: Mapping[Border, str] = {source.lv_border: source.kind for source in sources if source.lv_border}
    if len(borders) > 1:
        raise DatasetError(
            "outlines of the left ventricle must all go along one border; "
            + ", ".join(f"{kind}'s along the {border}" for border, kind in borders.items())
            + ". Train on one of them"
        )
    return next(iter(borders), None)


def to_screen(
    frames: npt.NDArray[Any], *, pixel_width: float = 1.0, pixel_height: float = 1.0
) -> npt.NDArray[Any]:
    """Bring pictures of any shape to 120 x 160 as a 4 : 3 screen would show them: true in shape.

    Black is added at the right and left, or above and below; then rows and columns are sampled by the
    same nearest neighbour as a site's own frames (`echo_models.preprocessing.shrink`).

    Args:
        frames: [..., H, W], any dtype: masks as well.
        pixel_width: of a pixel, in any unit.
        pixel_height: of a pixel, in the same unit.

    Returns:
        [..., 120, 160], same dtype.
    """
    height, width = frames.shape[-2:]
    wanted = height * pixel_height * COLUMNS / ROWS / pixel_width  # columns that make it 4 : 3
    if wanted >= width:
        extra_rows, extra_columns = 0, round(wanted) - width
    else:
        extra_rows, extra_columns = round(width * pixel_width * ROWS / COLUMNS / pixel_height) - height, 0
    padding = [(0, 0)] * (frames.ndim - 2)
    padding += [(extra // 2, extra - extra // 2) for extra in (extra_rows, extra_columns)]
    return shrink(np.pad(frames, padding))
