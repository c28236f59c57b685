"""Whether the phantom's frames cover what the public real clips look like.

Real and synthetic frames are measured alike: inside the outlines that the shipped networks draw on them. For
each statistic the report says where the real clip lies among the synthetic ones: far from both ends means
that training has seen the like. Real frames go into the picture only, which is written where it is asked for.

    python -m benchmarks.phantom_calibration [--clips 80] [--out docs/reports] [--picture FILE.png]
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Placement
from echo_models.bundle import Bundle, load_bundle
from echo_models.phantom import random_subject, render_clip
from echo_models.preprocessing import apply_mask
from echo_models.recipes import code_version
from echo_models.registry import SHIPPED

NAME: Final = "phantom-calibration"
HEAD: Final = """\
# The phantom beside real clips

Made by `python -m benchmarks.phantom_calibration --clips {clips}`, {code}. {clips} synthetic clips of
a view, {frames} frames each, beside one public real clip: two real clips in all, so this says whether
training saw the like of them, and nothing about other machines. Both are measured inside outlines that
the shipped networks drew.

`place` is the share of synthetic clips below the real one: near 0 or 1 means outside of what the phantom
draws. Neighbour correlation is that of horizontal neighbours at 120 x 160 after a mean over 7 x 7 is taken
off: it tells the size of speckle."""

Pages = dict[str, dict[str, tuple[float, list[float]]]]
"""By real clip and statistic: its value, and the values of the synthetic clips."""

Frames = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]

FRAMES_A_CLIP: Final = 6
LIT: Final = 3
"""Greys up to this one are the black of a screen."""
SEGMENTS: Final = 24
WALL_PX: Final = 5
DROPPED_CONTRAST: Final = 1.3
"""A segment of wall that is not brighter than the cavity by this factor does not show."""
REAL: Final = (
    ("apical four chamber, SonoSite", "a4c", "data_store", "data/color3d_jpeg_baseline.dcm"),
    ("parasternal long axis, Philips", "plax", "deid_data", "data/ultrasounds/ultrasound-multiframe.dcm"),
)


class Clip(NamedTuple):
    """Frames of one clip."""

    name: str
    frames: Frames


def shipped(task: str) -> Bundle:
    """Load the bundle that ships."""
    return load_bundle(next(iter(sorted((SHIPPED / task).iterdir()))))


def real_clip(name: str, package: str, file: str) -> Clip:
    """Read frames, spread over a public clip, through de-identification.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the public clips need the extra `demo`: {package} is not installed")
    placement = Placement("0" * 32, "0" * 32, "0" * 32, 1, 1, "0" * 32, "0" * 32)
    ds = read_instance(Path(spec.origin).parent / file)
    chunks = flatten_frames(deidentify_instance(ds, placement, Pseudonymizer(bytes(32))))
    frames = np.concatenate([chunk.frames for chunk in chunks])
    return Clip(name, frames[np.linspace(0, len(frames) - 1, FRAMES_A_CLIP).astype(int)])


def synthetic_clips(view: str, count: int) -> Iterator[Clip]:
    """Draw clips of as many subjects, none of whom a shipped model has seen."""
    for number in range(count):
        subject = random_subject(777_000_000 + number)
        clip = render_clip(subject, view, seed=number, number_of_frames=FRAMES_A_CLIP)
        yield Clip(f"{view} {number}", clip.frames)


def measure(clip: Clip, fov: Bundle, lv: Bundle | None) -> dict[str, float]:
    """Give the statistics of a clip.

    Args:
        clip: frames [N, 120, 160], uint8.
        fov: outlines the fan.
        lv: outlines the left ventricle; None where the view does not show it lengthwise.
    """
    fan = fov.predict(clip.frames).mean(axis=0) > 0.5
    frames = apply_mask(clip.frames, fan)
    inside = frames[:, fan]
    lit = inside[inside > LIT]
    rows = np.flatnonzero(fan.any(axis=1))
    thirds = np.array_split(rows, 3) if len(rows) >= 6 else [rows] * 3
    values = {
        "share of black in the fan": float((inside <= LIT).mean()),
        "median of lit pixels": float(np.median(lit)) if lit.size else 0.0,
        "95th percentile in the fan": float(np.percentile(inside, 95)) if inside.size else 0.0,
        "share of white (over 250)": float((inside > 250).mean()) if inside.size else 0.0,
    }
    for name, third in zip(("near", "middle", "far"), thirds, strict=True):
        band = np.zeros_like(fan)
        band[third] = fan[third]
        values[f"neighbour correlation, {name} third"] = neighbour_correlation(frames, band)
        values[f"mean grey, {name} third"] = float(frames[:, band].mean()) if band.any() else 0.0
    if lv is not None:
        values |= wall(frames, lv.predict(frames) > 0.5)
    return values


def neighbour_correlation(frames: Frames, mask: Masks) -> float:
    """Correlate horizontal neighbours after taking out what is larger than speckle."""
    both = mask[:, 1:] & mask[:, :-1]
    wide = frames.astype(np.float64)
    fine = wide - ndimage.uniform_filter(wide, (0, 7, 7))
    left, right = fine[:, :, :-1][:, both], fine[:, :, 1:][:, both]
    scale = np.sqrt((left**2).mean() * (right**2).mean()) if left.size else 0.0
    return float((left * right).mean() / scale) if scale > 0 else 0.0


def wall(frames: Frames, outlines: Masks) -> dict[str, float]:
    """Compare a ring inside the ventricle's outline, the wall, with what is inside of that, the cavity."""
    contrasts, dropped = [], []
    for frame, outline in zip(frames.astype(np.float64), outlines, strict=True):
        if outline.sum() < 200:
            continue
        cavity = ndimage.binary_erosion(outline, iterations=WALL_PX)
        ring = outline & ~cavity
        if not cavity.any():
            continue
        level = frame[cavity].mean() + 1
        contrasts.append((frame[ring].mean() + 1) / level)
        middle = ndimage.center_of_mass(outline)
        rows, columns = np.nonzero(ring)
        segment = (
            (np.arctan2(rows - middle[0], columns - middle[1]) + np.pi) / (2 * np.pi) * SEGMENTS
        ).astype(int)
        brightness = [
            (frame[rows[segment == part], columns[segment == part]].mean() + 1) / level
            for part in range(SEGMENTS)
            if (segment == part).any()
        ]
        dropped.append(float(np.mean(np.array(brightness) < DROPPED_CONTRAST)))
    if not contrasts:
        return {}
    return {
        "contrast of wall to cavity": float(statistics.mean(contrasts)),
        "share of wall that does not show": float(statistics.mean(dropped)),
    }


def place(value: float, among: Sequence[float]) -> float:
    """Give the share of values below, half of those that are equal."""
    array = np.array(among)
    return float((array < value).mean() + 0.5 * (array == value).mean())


def draw_places(pages: Pages, path: Path) -> None:
    """Draw the spread of the synthetic clips with the real one marked."""
    names = list(dict.fromkeys(name for rows in pages.values() for name in rows))
    figure = Figure(figsize=(9, 0.42 * len(names) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(pages), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(panels, pages.items(), strict=True):
        for row, name in enumerate(names):
            if name not in rows:
                continue
            real, synthetic = rows[name]
            low, high = float(np.min([*synthetic, real])), float(np.max([*synthetic, real]))
            scaled = (np.array(synthetic) - low) / ((high - low) or 1)
            axes.plot(scaled, np.full(len(scaled), row), "|", color="#4477aa", alpha=0.5)
            axes.plot((real - low) / ((high - low) or 1), row, "o", color="#cc3311")
        axes.set_title(title, fontsize=9)
        axes.set_xticks([0, 1], ["lowest", "highest"])
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def draw_frames(rows: Sequence[Frames], path: Path) -> None:
    """Put rows of frames under each other, real ones first."""
    width = min(len(row) for row in rows)
    sheet = np.concatenate([np.concatenate(list(row[:width]), axis=1) for row in rows])
    Image.fromarray(sheet).save(path)


def report(pages: Pages, clips: int) -> str:
    """Write the page."""
    lines = [HEAD.format(clips=clips, frames=FRAMES_A_CLIP, code=code_version())]
    for name, rows in pages.items():
        lines += ["", f"## {name}", ""]
        lines += ["| statistic | real | synthetic: median (5 to 95 %) | place |", "|---|---|---|---|"]
        for key, (value, among) in rows.items():
            low, middle, high = np.percentile(among, [5, 50, 95])
            spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {key} | {value:.2f} | {spread} | {place(value, among):.2f} |")
    lines += ["", f"![Where the real clips lie]({NAME}.png)", ""]
    return "\n".join([*lines, "Red: the real clip. Blue: synthetic clips.", ""])


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=80, help="synthetic clips of each view")
    parser.add_argument("--out", type=Path, default=Path("docs/reports"))
    parser.add_argument("--picture", type=Path, help="real frames over synthetic ones; not for committing")
    options = parser.parse_args()
    fov, lv = shipped("fov"), shipped("lv")
    pages: Pages = {}
    shown: list[Frames] = []
    for name, view, package, file in REAL:
        outline = lv if view == "a4c" else None
        clip = real_clip(name, package, file)
        real = measure(clip, fov, outline)
        synthetic = list(synthetic_clips(view, options.clips))
        measured = [measure(other, fov, outline) for other in synthetic]
        pages[name] = {
            key: (value, [other[key] for other in measured if key in other]) for key, value in real.items()
        }
        shown += [clip.frames, np.stack([other.frames[0] for other in synthetic[:FRAMES_A_CLIP]])]
    options.out.mkdir(parents=True, exist_ok=True)
    draw_places(pages, options.out / f"{NAME}.png")
    if options.picture is not None:
        draw_frames(shown, options.picture)
    page = options.out / f"{NAME}.md"
    page.write_text(report(pages, options.clips), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
