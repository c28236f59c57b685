"""Whole clips: a subject, a view, a machine and its screen, with exact masks and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter

from echo_models.phantom.anatomy import SUPERIOR, Heart
from echo_models.phantom.arrays import BoolArray, ByteArray, FloatArray
from echo_models.phantom.errors import InvalidRequestError, UnknownViewError
from echo_models.phantom.overlays import (
    EcgStrip,
    draw_fan_marks,
    draw_screen_furniture,
    outline_box,
    random_ecg_strip,
)
from echo_models.phantom.planes import hold_probe
from echo_models.phantom.screen import SCREEN_COLUMNS, SCREEN_ROWS, Fan, FanSampler, Raster
from echo_models.phantom.sector import MachineSettings, Sector, random_settings
from echo_models.phantom.strips import m_mode_strip, spectral_strip
from echo_models.phantom.subject import LVH_SHARE, Hypertrophy, Subject, random_subject
from echo_models.views import A4C, B_MODE_VIEWS, VIEWS

__all__ = ["PhantomClip", "UltrasoundRegion", "generate_frames", "render_clip"]

_APICAL: Final = frozenset({"a2c", "a3c", "a4c", "a5c"})


@dataclass(frozen=True)
class UltrasoundRegion:
    """One box of the screen with its meaning, in DICOM's own terms (PS3.3 C.8.5.5).

    Attributes:
        min_x0, min_y0, max_x1, max_y1: Corners in pixels of the clip's raster, inclusive.
        spatial_format: 1 two-dimensional, 2 M-mode, 3 spectral.
        data_type: 1 tissue, 2 colour flow, 3 pulsed-wave, 4 continuous-wave Doppler.
        physical_delta_x, physical_delta_y: Size of a pixel, cm (two-dimensional), s and cm (M-mode), s and
            cm/s (spectral).
    """

    min_x0: int
    min_y0: int
    max_x1: int
    max_y1: int
    spatial_format: int
    data_type: int
    physical_delta_x: float
    physical_delta_y: float


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
    phases: tuple[float, ...] = ()
    regions: tuple[UltrasoundRegion, ...] = field(default=())


@dataclass(frozen=True)
class _Scene:
    """What every renderer of a clip needs."""

    subject: Subject
    heart: Heart
    view: str
    rng: np.random.Generator
    raster: Raster
    severity: float
    phases: FloatArray


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
    scene = _Scene(subject, Heart(subject), view, rng, Raster(rows, columns), severity, phases)
    frames, fov_mask, lv_masks, regions = (
        _render_strip(scene) if view not in B_MODE_VIEWS else _render_b_mode(scene)
    )
    return PhantomClip(
        frames=frames,
        fov_mask=fov_mask,
        lv_masks=lv_masks,
        view=view,
        hypertrophy=subject.hypertrophy,
        subject_id=subject.subject_id,
        frame_time_ms=frame_time_ms,
        end_diastole_index=int(np.argmin(np.abs((phases + 0.5) % 1.0 - 0.5))),
        phases=tuple(float(phase) % 1.0 for phase in phases),
        regions=regions,
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
                    severity=severity,
                    start_phase=float(rng.random()) if any_phase else None,
                )


_Rendered = tuple[ByteArray, BoolArray, BoolArray, tuple[UltrasoundRegion, ...]]


def _fan(
    rng: np.random.Generator, settings: MachineSettings, severity: float, box: tuple[int, int, int, int]
) -> Fan:
    """Fit a sector into a box (top, bottom, left, right) of the screen, a little off and sometimes zoomed."""
    top, bottom, left, right = box
    fit = (bottom - top) / (settings.depth_mm + 4)
    zoom = 1.0
    if rng.random() < 0.18 * severity:
        zoom = float(rng.uniform(1.15, 1.8))
    elif rng.random() < 0.5:
        zoom = float(rng.uniform(0.75, 1.0))
    px_per_mm = fit * zoom
    apex_row = top + 2 - settings.radius_mm * px_per_mm
    slack = (bottom - top) - px_per_mm * settings.depth_mm
    apex_row += float(rng.uniform(0, 1)) * slack if zoom > 1 else max(slack, 0) * float(rng.uniform(0, 0.8))
    centre = (left + right) / 2 + float(rng.normal(0, 0.04 * (right - left)))
    upside_down = bool(rng.random() < 0.02 * severity)
    return Fan(
        apex_row=(top + bottom) - apex_row if upside_down else apex_row,
        apex_column=centre,
        px_per_mm=px_per_mm,
        radius_mm=settings.radius_mm,
        depth_mm=settings.depth_mm,
        half_angle=settings.half_angle,
        mirrored=False,
        upside_down=upside_down,
        top=top,
        bottom=bottom,
        left=left,
        right=right,
    )


def _region(
    raster: Raster, box: tuple[int, int, int, int], formats: tuple[int, int], deltas: tuple[float, float]
) -> UltrasoundRegion:
    top, bottom, left, right = box
    down, over = raster.rows / SCREEN_ROWS, raster.columns / SCREEN_COLUMNS
    return UltrasoundRegion(
        min_x0=int(left * over),
        min_y0=int(top * down),
        max_x1=min(int(right * over), raster.columns) - 1,
        max_y1=min(int(bottom * down), raster.rows) - 1,
        spatial_format=formats[0],
        data_type=formats[1],
        physical_delta_x=deltas[0] / over,
        physical_delta_y=deltas[1] / down,
    )


def _fan_region(raster: Raster, fan: Fan, data_type: int) -> UltrasoundRegion:
    cm_per_px = 0.1 / fan.px_per_mm
    return _region(raster, (fan.top, fan.bottom, fan.left, fan.right), (1, data_type), (cm_per_px, cm_per_px))


def _image_box(rng: np.random.Generator) -> tuple[int, int, int, int]:
    return (
        int(rng.integers(12, 75)),
        int(rng.integers(510, 598)),
        int(rng.integers(0, 110)),
        int(rng.integers(690, 800)),
    )


def _render_b_mode(scene: _Scene) -> _Rendered:
    rng = scene.rng
    if rng.random() < 0.03 * scene.severity:  # dual mode: two sectors side by side
        boxes = [(90, 470, 4, 398), (90, 470, 402, 796)]
    else:
        boxes = [_image_box(rng)]
    plane = hold_probe(scene.heart, scene.view, rng, severity=scene.severity)
    settings = random_settings(rng, plane.usual_depth_mm, scene.severity)
    mirrored = bool(rng.random() < 0.06 * scene.severity)
    screen = np.zeros((SCREEN_ROWS, SCREEN_COLUMNS), np.uint8)
    draw_screen_furniture(screen, rng)
    painters = []
    for box in boxes:
        fan = _fan(rng, settings, scene.severity, box)
        fan = Fan(**{**fan.__dict__, "mirrored": mirrored})
        draw_fan_marks(screen, fan, rng)
        sector = Sector(scene.heart, plane, settings, rng, severity=scene.severity)
        painters.append(
            _SectorPainter(scene, sector, fan, screen, colour=bool(rng.random() < 0.22 * scene.severity))
        )
    finish = _Finish(scene, screen)
    frames, masks = [], []
    for index, phase in enumerate(scene.phases):
        image = np.zeros((scene.raster.rows, scene.raster.columns), np.float32)
        left = min(range(len(painters)), key=lambda k: painters[k].fan.left)
        for number, painter in enumerate(painters):
            mask = painter.paint(image, float(phase), index)
            if number == left:
                masks.append(mask)
        frames.append(finish(image, float(phase), index))
    fov = np.any([painter.sampler.mask for painter in painters], axis=0)
    regions = tuple(_fan_region(scene.raster, p.fan, 2 if p.colour else 1) for p in painters)
    return np.stack(frames), fov, np.stack(masks), regions


class _SectorPainter:
    """Paints one sector of a clip, with its colour box, frame by frame."""

    def __init__(self, scene: _Scene, sector: Sector, fan: Fan, screen: ByteArray, *, colour: bool) -> None:
        self.scene, self.sector, self.fan, self.colour = scene, sector, fan, colour
        self.sampler = FanSampler(fan, scene.raster, sector.angles.size, sector.ranges_mm.size)
        rng = scene.rng
        self._breath_mm = scene.severity * rng.uniform(0, 5)
        self._breath_phase = rng.uniform(0, 6)
        if colour:
            half = fan.half_angle
            middle, width = rng.uniform(-0.3, 0.3) * half, rng.uniform(0.25, 0.7) * half
            near = rng.uniform(0.2, 0.55) * fan.depth_mm
            depths = (
                float(near),
                float(min(near + rng.uniform(0.25, 0.5) * fan.depth_mm, 0.97 * fan.depth_mm)),
            )
            angles = (float(max(middle - width, -half)), float(min(middle + width, half)))
            outline_box(screen, fan, angles, depths, int(rng.integers(120, 256)))
            self._box = ((sector.angles > angles[0]) & (sector.angles < angles[1]))[:, None] & (
                (sector.ranges_mm > depths[0]) & (sector.ranges_mm < depths[1])
            )[None, :]
            self._colour_level = rng.uniform(25, 110)
            self._flow_size = rng.uniform((3, 6), (10, 24))
            self._flow_threshold = rng.uniform(-0.6, 0.8)
            self._tissue_ratio = rng.uniform(0.4, 1.0)

    def paint(self, image: FloatArray, phase: float, index: int) -> BoolArray:
        """Paint a frame into the image; gives the mask of the left ventricle."""
        breath = SUPERIOR * np.float32(self._breath_mm * np.sin(self._breath_phase + 0.05 * index))
        frame = self.sector.frame(phase, np.asarray(breath, np.float32))
        grey = self._coloured(frame.grey, frame.blood) if self.colour else frame.grey
        mask = self.sampler.mask
        image[mask] = self.sampler(grey)
        lv = np.zeros_like(mask)
        if self.scene.view in _APICAL:
            lv[mask] = self.sampler(frame.lv_level) < 0
        return lv

    def _coloured(self, grey: FloatArray, blood: BoolArray) -> FloatArray:
        """Lay the luminance of a colour flow map over the blood in the box."""
        rng = self.scene.rng
        flow = gaussian_filter(rng.standard_normal(grey.shape).astype(np.float32), self._flow_size)
        flow = 0.5 + 0.35 * flow / flow.std()
        shown = self._box & blood & (flow > self._flow_threshold)
        dimmed = np.where(self._box, grey * self._tissue_ratio, grey)
        level = self._colour_level * (0.45 + 0.55 * np.clip(flow, 0, 2))
        return np.asarray(np.where(shown, np.maximum(level, 0.6 * dimmed), dimmed), np.float32)


class _Finish:
    """Lays the screen's marks over the image, adds what lossy compression adds, and gives bytes."""

    def __init__(self, scene: _Scene, screen: ByteArray) -> None:
        rng = scene.rng
        self._raster = scene.raster
        self._screen = screen
        self._ecg: EcgStrip | None = random_ecg_strip(rng) if rng.random() < 0.6 else None
        self._progress = float(rng.uniform(0, 2))
        self._noise = float(scene.severity * rng.uniform(0, 2.0))
        self._rng = rng

    def __call__(self, image: FloatArray, phase: float, index: int) -> ByteArray:
        screen = self._screen
        if self._ecg is not None:
            screen = screen.copy()
            self._ecg.draw(screen, phase, self._progress + 0.012 * index)
        marks = self._raster.look(screen)
        image = np.where(marks > 0, marks, image)
        if self._noise > 0.2:
            spread = self._noise * (image > 2)
            image = image + spread * self._rng.standard_normal(image.shape, np.float32)
        return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _render_strip(scene: _Scene) -> _Rendered:
    """Render a spectral or M-mode screen: the strip, and often a small sector above it."""
    rng = scene.rng
    top = int(rng.integers(215, 330))
    with_image = bool(rng.random() < 0.8)
    if not with_image:
        top = int(rng.integers(30, 180))
    box = (top, int(rng.integers(500, 598)), int(rng.integers(0, 90)), int(rng.integers(700, 800)))
    anchor = (
        str(rng.choice(("plax", "psax_mid", "a4c", "a5c", "a3c")))
        if scene.view != "mmode"
        else str(rng.choice(("plax", "plax", "psax_mid", "a4c")))
    )
    plane = hold_probe(scene.heart, anchor, rng, severity=scene.severity)
    settings = random_settings(rng, plane.usual_depth_mm, scene.severity)
    screen = np.zeros((SCREEN_ROWS, SCREEN_COLUMNS), np.uint8)
    draw_screen_furniture(screen, rng)
    beats = float(rng.uniform(1.5, 6))
    if scene.view == "mmode":
        strip = m_mode_strip(
            scene.heart,
            plane,
            settings,
            rng,
            columns=220,
            rows=200,
            beats=beats,
            phase=float(scene.phases[0]),
            severity=scene.severity,
        )
        deltas = (
            beats * 60 / scene.subject.heart_rate_bpm / (box[3] - box[2]),
            settings.depth_mm / 10 / (box[1] - box[0]),
        )
        formats = (2, 1)
    else:
        strip, _ = spectral_strip(
            rng,
            continuous=scene.view == "cw",
            rows=150,
            columns=320,
            beats=beats,
            phase=float(scene.phases[0]),
            severity=scene.severity,
        )
        deltas = (beats * 60 / scene.subject.heart_rate_bpm / (box[3] - box[2]), 400.0 / (box[1] - box[0]))
        formats = (3, 4 if scene.view == "cw" else 3)
    raster = scene.raster
    rows, columns = raster.screen_rows, raster.screen_columns
    in_rows, in_columns = (rows >= box[0]) & (rows < box[1]), (columns >= box[2]) & (columns < box[3])
    at_rows = ((rows[in_rows] - box[0]) * strip.shape[0]) // (box[1] - box[0])
    at_columns = ((columns[in_columns] - box[2]) * strip.shape[1]) // (box[3] - box[2])
    strip_mask = in_rows[:, None] & in_columns[None, :]
    fov = strip_mask.copy()
    regions = [_region(raster, box, formats, deltas)]
    painter = None
    if with_image:
        image_box = (int(rng.integers(4, 40)), top - 4, 150, 650)
        fan = _fan(rng, settings, 0.0, image_box)
        draw_fan_marks(screen, fan, rng)
        sector = Sector(scene.heart, plane, settings, rng, severity=scene.severity, lines=96, samples=128)
        painter = _SectorPainter(scene, sector, fan, screen, colour=bool(rng.random() < 0.3))
        fov |= painter.sampler.mask
        regions.append(_fan_region(raster, fan, 1))
    finish = _Finish(scene, screen)
    frames = []
    small: FloatArray | None = None
    for index, phase in enumerate(scene.phases):
        image = np.zeros((raster.rows, raster.columns), np.float32)
        if painter is not None:
            if small is None:  # the small image is frozen while the strip runs
                painter.paint(image, float(phase), index)
                small = image[painter.sampler.mask]
            image[painter.sampler.mask] = small
        rolled = np.roll(strip, -2 * index, axis=1)
        image[strip_mask] = rolled[at_rows[:, None], at_columns[None, :]].ravel()
        frames.append(finish(image, float(phase), index))
    lv = np.zeros((len(frames), raster.rows, raster.columns), bool)
    return np.stack(frames), fov, lv, tuple(regions)


def _is_four_chamber(view: str) -> bool:
    return view == A4C
