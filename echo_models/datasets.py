"""Frames with labels, the phantom's frames, splits by subject, and what each network trains on."""

import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from echo_models.augment import Augmentation, disturb_masks, jitter, move
from echo_models.errors import DatasetError
from echo_models.preprocessing import COLUMNS, ROWS, apply_mask, to_input
from echo_models.views import VIEWS

SUBJECTS_PER_BLOCK: Final = 4
"""A block is rendered by one process; blocks are the same however many processes there are."""

_MASKS: Final = ("fov_masks", "lv_masks")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which phantom frames to render; the same plan gives the same frames.

    Attributes:
        seed: of everything random.
        subjects: how many people.
        views: which views of each.
        clips: clips of each view of each subject.
        frames_per_clip: how many frames of each clip.
        lvh_ratio: share of the subjects with hypertrophy. The paper has one in five.
        severity: strength of the artefacts, 1 for the usual.
        any_phase: clips begin anywhere in the beat; else at end-diastole, as a stored clip does.
        rows: height of the frames.
        columns: width of the frames.
        site: whose machines and screens: a name in `echo_models.phantom.SITES`.
    """

    seed: int
    subjects: int
    views: tuple[str, ...] = VIEWS
    clips: int = 1
    frames_per_clip: int = 2
    lvh_ratio: float = 0.5
    severity: float = 1.0
    any_phase: bool = True
    rows: int = ROWS
    columns: int = COLUMNS
    site: str = "home"


class Known(IntFlag):
    """Which labels of a frame are known. The phantom knows all; people and public sets know some."""

    VIEW = 1
    HYPERTROPHY = 2
    FOV = 4
    LV = 8
    ALL = 15


@dataclass(frozen=True, slots=True, eq=False)
class LabeledFrames:
    """Frames with labels, as far as they are known.

    Attributes:
        frames: [N, 120, 160], uint8, as on the screen.
        fov_masks: [N, 120, 160], bool, True in the field of view.
        lv_masks: [N, 120, 160], bool, True inside the epicardium; empty where there is none.
        views: [N], int64, index into `VIEWS`.
        hypertrophy: [N], bool, the paper's LVH.
        subjects: [N], int64, who it is; a split never divides one's frames.
        known: [N], uint8, bits of `Known`. A value whose bit is not set means nothing, except that an
            unknown field of view is the whole frame: such frames come masked.
    """

    frames: npt.NDArray[np.uint8]
    fov_masks: npt.NDArray[np.bool_]
    lv_masks: npt.NDArray[np.bool_]
    views: npt.NDArray[np.int64]
    hypertrophy: npt.NDArray[np.bool_]
    subjects: npt.NDArray[np.int64]
    known: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, which: npt.NDArray[np.bool_]) -> Self:
        """Keep the frames a boolean [N] marks."""
        return type(self)(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))

    def knowing(self, labels: Known) -> Self:
        """Keep the frames of which all these labels are known."""
        return self.take(self.knows(labels))

    def knows(self, labels: Known) -> npt.NDArray[np.bool_]:
        """Say of which frames all these labels are known: [N], bool."""
        return np.asarray(self.known & labels == labels)

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Put sets one after another.

        Raises:
            DatasetError: if there is none.
        """
        if not parts:
            raise DatasetError("no frames to join: ask for at least one subject and one view")
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def fingerprint(self) -> str:
        """Give a digest of every array: equal for equal data only."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            array = getattr(self, field.name)
            if field.name == "known" and (array == Known.ALL).all():
                continue  # as it was before there were frames with some labels only
            digest.update(f"{field.name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


# --- rendering --------------------------------------------------------------------------------------


def render(
    plan: Plan,
    *,
    processes: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabeledFrames:
    """Render the frames of a plan.

    Args:
        plan: which.
        processes: how many work at it; the result is the same.
        cache: a folder in which rendered sets are kept, named by plan and code.
        on_progress: called with subjects done and subjects in all.

    Raises:
        DatasetError: if the plan asks for nothing.
    """
    kept = None if cache is None else cache / f"phantom-{_plan_key(plan)}.npz"
    if kept is not None and kept.exists():
        return _read(kept)
    parts = []
    for part in _rendered_blocks(_blocks(plan), processes):
        parts.append(part)
        if on_progress is not None:
            on_progress(min(len(parts) * SUBJECTS_PER_BLOCK, plan.subjects), plan.subjects)
    rendered = LabeledFrames.join(parts)
    if kept is not None:
        _write(kept, rendered)
    return rendered


def _blocks(plan: Plan) -> list[tuple[Plan, int]]:
    """Cut a plan into plans of a few subjects, with the number of the first of each."""
    starts = range(0, plan.subjects, SUBJECTS_PER_BLOCK)
    seeds = np.random.SeedSequence(plan.seed).generate_state(len(starts))
    return [
        (
            dataclasses.replace(
                plan, seed=int(seed), subjects=min(SUBJECTS_PER_BLOCK, plan.subjects - start)
            ),
            start,
        )
        for start, seed in zip(starts, seeds, strict=True)
    ]


def _rendered_blocks(blocks: list[tuple[Plan, int]], processes: int) -> Iterator[LabeledFrames]:
    if processes == 1:
        yield from map(_render_block, blocks)
        return
    # Spawned, not forked: a fork of a process with TensorFlow's threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_render_block, blocks)


def _render_block(block: tuple[Plan, int]) -> LabeledFrames:
    from echo_models.phantom import (  # noqa: PLC0415 - slow to import, and not for a cached set
        generate_frames,
        site_named,
    )

    plan, first_subject = block
    numbers: dict[int, int] = {}
    clips = []
    for clip in generate_frames(
        seed=plan.seed,
        subjects=plan.subjects,
        views=plan.views,
        clips_per_subject_view=plan.clips,
        frames_per_clip=plan.frames_per_clip,
        lvh_ratio=plan.lvh_ratio,
        severity=plan.severity,
        any_phase=plan.any_phase,
        rows=plan.rows,
        columns=plan.columns,
        site=site_named(plan.site),
    ):
        count = len(clip.frames)
        subject = numbers.setdefault(clip.subject_id, first_subject + len(numbers))
        clips.append(
            LabeledFrames(
                frames=clip.frames,
                fov_masks=np.broadcast_to(clip.fov_mask, clip.frames.shape),
                lv_masks=clip.lv_masks,
                views=np.full(count, VIEWS.index(clip.view)),
                hypertrophy=np.full(count, clip.hypertrophy.is_lvh),
                subjects=np.full(count, subject),
                known=np.full(count, Known.ALL, np.uint8),
            )
        )
    return LabeledFrames.join(clips)


def _plan_key(plan: Plan) -> str:
    """Name a plan, and the code that renders it."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(plan)).encode())
    for path in sorted((Path(__file__).parent / "phantom").glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _write(path: Path, labeled: LabeledFrames) -> None:
    arrays = {field.name: getattr(labeled, field.name) for field in dataclasses.fields(labeled)}
    for name in _MASKS:
        arrays[name] = np.packbits(arrays[name], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def _read(path: Path) -> LabeledFrames:
    with np.load(path) as stored:
        arrays = dict(stored)
    columns = arrays["frames"].shape[-1]
    for name in _MASKS:
        arrays[name] = np.unpackbits(arrays[name], axis=-1, count=columns).astype(bool)
    arrays.setdefault("known", np.full(len(arrays["frames"]), Known.ALL, np.uint8))  # an older cache has none
    return LabeledFrames(**arrays)


# --- splitting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Three sets of frames with no subject in two of them."""

    train: LabeledFrames
    validation: LabeledFrames
    test: LabeledFrames


def split_by_subject(
    labeled: LabeledFrames,
    *,
    seed: int,
    validation_ratio: float = 0.15,
    test_ratio: float = 0.15,
    published: npt.NDArray[np.int8] | None = None,
) -> Split:
    """Divide frames by subject, and so that each part has its share of subjects with hypertrophy.

    Args:
        labeled: what to divide.
        seed: of the draw.
        validation_ratio: share of the subjects.
        test_ratio: share of the subjects.
        published: [N], int8, the part that a public set gives the frame's subject: 0 train, 1 validation,
            2 test; -1 for a subject to draw. None to draw all.

    Raises:
        DatasetError: if there are too few subjects to give each part one.
    """
    rng = np.random.default_rng(seed)
    part_of = np.zeros(int(labeled.subjects.max(initial=-1)) + 1, np.int64)  # 0 train, 1 validation, 2 test
    if published is None:
        published = np.full(len(labeled), -1, np.int8)
    for stratum in (False, True):
        to_draw = (labeled.hypertrophy == stratum) & (published < 0)
        subjects = rng.permutation(np.unique(labeled.subjects[to_draw]))
        ends = np.round(np.cumsum([test_ratio, validation_ratio]) * len(subjects)).astype(int)
        part_of[subjects[: ends[0]]] = 2
        part_of[subjects[ends[0] : ends[1]]] = 1
    part_of[labeled.subjects[published >= 0]] = published[published >= 0]
    parts = part_of[labeled.subjects]
    if set(np.unique(parts)) != {0, 1, 2}:
        raise DatasetError(
            f"a split into three needs a subject for each part; {len(np.unique(labeled.subjects))} subjects "
            "are too few. Bring or render more"
        )
    return Split(*(labeled.take(parts == part) for part in range(3)))


# --- examples ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What one network trains on or is measured on.

    Attributes:
        frames: [N, 120, 160], uint8.
        masks: [N, 120, 160], bool, what is put on the frames; None for nothing.
        targets: [N], int64 classes, or [N, 120, 160], bool outlines.
    """

    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_] | None
    targets: npt.NDArray[np.int64] | npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        counts = {len(self.frames), len(self.targets), len(self.frames if self.masks is None else self.masks)}
        if len(counts) > 1 or not len(self.frames):
            raise DatasetError(
                f"examples need as many frames as masks and targets, and some; received {counts}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def batch(
        self,
        which: npt.NDArray[np.intp] | slice,
        augmentation: Augmentation | None = None,
        seed: tuple[int, ...] = (),
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Make the inputs and targets of some examples.

        Args:
            which: their indices.
            augmentation: how they are changed; None for not at all.
            seed: of the changes; equal seeds change equally.

        Returns:
            inputs [n, 120, 160, 1], float32, 0 to 1; targets [n] or [n, 120, 160], int64.
        """
        frames, targets = self.frames[which], self.targets[which]
        masks = None if self.masks is None else self.masks[which]
        if augmentation is not None:
            frames, masks, targets = _change(
                frames, masks, targets, augmentation, np.random.default_rng(seed)
            )
        if masks is not None:
            frames = apply_mask(frames, masks)
        return to_input(frames), targets.astype(np.int64)


def _change(
    frames: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_] | None,
    targets: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None, npt.NDArray[np.int64] | npt.NDArray[np.bool_]
]:
    outlined = targets.ndim == 3
    layers = [frames]
    layers += [] if masks is None else [masks.view(np.uint8)]
    layers += [targets.view(np.uint8)] if outlined else []
    moved = move(tuple(layers), augmentation, rng)
    frames = jitter(moved[0], augmentation.jitter, rng) if augmentation.jitter else moved[0]
    if masks is not None:
        masks = disturb_masks(moved[1].view(np.bool_), augmentation, rng)
    return frames, masks, moved[-1].view(np.bool_) if outlined else targets
