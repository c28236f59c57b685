"""Whole clips: a subject, a view, a machine and its screen, with exact masks and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from echo_models.phantom.anatomy import Heart
from echo_models.phantom.arrays import BoolArray, ByteArray
from echo_models.phantom.b_mode_screen import render_b_mode
from echo_models.phantom.errors import InvalidRequestError, UnknownViewError
from echo_models.phantom.scene import Scene, UltrasoundRegion
from echo_models.phantom.screen import Raster
from echo_models.phantom.sites import HOME, Site
from echo_models.phantom.strip_screen import render_strip
from echo_models.phantom.subject import LVH_SHARE, Hypertrophy, Subject, random_subject
from echo_models.views import B_MODE_VIEWS, VIEWS

__all__ = ["PhantomClip", "generate_frames", "render_clip"]


@dataclass(frozen=True)
class PhantomClip:
    """One clip with its truth.

    Attributes:
        frames: [N, H, W], uint8, 0 is black.
        fov_mask: [H, W], bool: the sector; for Doppler and M-mode also the strip (paper, Methods).
        lv_masks: [N, H, W], bool: inside of the LV's epicardium from annulus to apex in apical views; all
            False in other views. In dual mode the left-most sector only (paper, Methods).
        view: One of the fifteen views.
        hypertrophy: The subject's grade.
        subject_id: The subject.
        frame_time_ms: Time between frames.
        end_diastole_index: The frame nearest to end-diastole.
        phases: Cardiac phase of each frame, 0 at end-diastole.
        regions: The boxes a DICOM writer declares.
    """

    frames: ByteArray
    fov_mask: BoolArray
    lv_masks: BoolArray
    view: str
    hypertrophy: Hypertrophy
    subject_id: int
    frame_time_ms: float
    end_diastole_index: int
    phases: tuple[float, ...]
    regions: tuple[UltrasoundRegion, ...]


def render_clip(
    subject: Subject,
    view: str,
    *,
    seed: int,
    number_of_frames: int,
    rows: int = 120,
    columns: int = 160,
    severity: float = 1.0,
    start_phase: float | None = None,
    site: Site = HOME,
) -> PhantomClip:
    """Scan a subject once.

    A small raster looks at the very screen points that nearest-neighbour down-sampling of the 600 x 800
    screen keeps, so both sizes of one seed show the same screen.

    Args:
        subject: Who is scanned.
        view: One of the fifteen views.
        seed: Everything random about this clip; the same seed gives the same bytes.
        number_of_frames: Length of the clip.
        rows: Height of the raster.
        columns: Width of the raster.
        severity: Strength of scatter and artefacts, 0 (textbook) to 2.
        start_phase: Cardiac phase of the first frame; None starts near end-diastole, as the R wave triggers
            a stored clip.
        site: Whose machine and screen; patients of a site are as severe as it says, times the severity.

    Raises:
        UnknownViewError: The view is none of the fifteen.
        InvalidRequestError: A count or size is below 1, or the severity outside 0 to 2.
    """
    if view not in VIEWS:
        raise UnknownViewError(f"The view must be one of {', '.join(VIEWS)}; got {view!r}.")
    if min(number_of_frames, rows, columns) < 1:
        raise InvalidRequestError(
            f"Frames, rows and columns must be 1 or more; got {number_of_frames}, {rows} and {columns}."
        )
    if not 0 <= severity <= 2:
        raise InvalidRequestError(f"The severity must lie in 0 to 2; got {severity}.")
    rng = np.random.default_rng([0xC119, subject.subject_id, VIEWS.index(view), seed])
    frame_time_ms = float(rng.uniform(16, 34))
    jitter = float(rng.normal(0, 0.02))
    first = jitter if start_phase is None else start_phase
    step = frame_time_ms / 1000 * subject.heart_rate_bpm / 60
    phases = np.asarray(first + step * np.arange(number_of_frames), np.float32)
    scene = Scene(
        subject,
        Heart(subject),
        view,
        rng,
        Raster(rows, columns),
        severity * site.severity_ratio,
        phases,
        site,
    )
    rendered = render_b_mode(scene) if view in B_MODE_VIEWS else render_strip(scene)
    return PhantomClip(
        frames=rendered.frames,
        fov_mask=rendered.fov_mask,
        lv_masks=rendered.lv_masks,
        view=view,
        hypertrophy=subject.hypertrophy,
        subject_id=subject.subject_id,
        frame_time_ms=frame_time_ms,
        end_diastole_index=int(np.argmin(np.abs((phases + 0.5) % 1.0 - 0.5))),
        phases=tuple(float(phase) % 1.0 for phase in phases),
        regions=rendered.regions,
    )


def generate_frames(
    *,
    seed: int,
    subjects: int,
    views: Sequence[str] = VIEWS,
    clips_per_subject_view: int = 1,
    frames_per_clip: int = 2,
    lvh_ratio: float = LVH_SHARE,
    severity: float = 1.0,
    any_phase: bool = True,
    rows: int = 120,
    columns: int = 160,
    site: Site = HOME,
) -> Iterator[PhantomClip]:
    """Scan many subjects: the training source.

    Subjects of one seed have the ids `seed * 1_000_000 + n`, so sets of different seeds share nobody.

    Args:
        seed: Seed of the whole set.
        subjects: Number of subjects.
        views: Views that each of them is scanned in.
        clips_per_subject_view: Clips of each view, each with another probe position and machine.
        frames_per_clip: Frames of each clip, in sequence.
        lvh_ratio: Share of subjects with LVH.
        severity: Strength of scatter and artefacts.
        any_phase: Start clips anywhere in the beat; False starts at end-diastole as the paper's first two
            frames do (paper, Methods, "LVH").
        rows: Height of the raster.
        columns: Width of the raster.
        site: Whose machines and screens.

    Yields:
        Clips, all of a subject before the next one's.

    Raises:
        InvalidRequestError: The ratio is outside 0 to 1, or a count is below 1.
    """
    if not 0 <= lvh_ratio <= 1:
        raise InvalidRequestError(f"The LVH ratio must lie in 0 to 1; got {lvh_ratio}.")
    if min(subjects, clips_per_subject_view, frames_per_clip) < 1:
        raise InvalidRequestError(
            f"Subjects, clips and frames must be 1 or more; got {subjects}, {clips_per_subject_view} and "
            f"{frames_per_clip}."
        )
    rng = np.random.default_rng([0x6E0, seed])
    for number in range(subjects):
        subject = random_subject(seed * 1_000_000 + number, lvh=bool(rng.random() < lvh_ratio))
        for view in views:
            for clip in range(clips_per_subject_view):
                yield render_clip(
                    subject,
                    view,
                    seed=clip,
                    number_of_frames=frames_per_clip,
                    rows=rows,
                    columns=columns,
                    severity=severity,
                    start_phase=float(rng.random()) if any_phase else None,
                    site=site,
                )
