"""How fast the phantom draws, beside the least that any renderer of its kind must do.

The limit is the bare point spread of one frame (both components of the echo, on the phantom's polar grid) and
its scan conversion to 120 x 160: no anatomy, no scatterers, no artefacts, no screen. A ratio of 0.2 says that
the phantom draws one frame in the time in which five could be blurred and converted. Times are of the
process, so that one core is counted whatever else the machine does.

    python -m benchmarks.phantom [--quick] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from echo_models.phantom import random_subject, render_clip
from echo_models.phantom.screen import Box, Fan, FanSampler, Raster
from echo_models.phantom.speckle import point_spread
from echo_models.views import VIEWS

LINES, SAMPLES = 128, 256


def bare_limit() -> Callable[[int], None]:
    """Give the limit as a function of a repetition's number."""
    rng = np.random.default_rng(0)
    echo = [rng.standard_normal((LINES, SAMPLES), np.float32) for _ in range(2)]
    fan = Fan(30, 400, 3.2, 3, 160, 0.75, mirrored=False, upside_down=False, box=Box(0, 600, 0, 800))
    sampler = FanSampler(fan, Raster(120, 160), LINES, SAMPLES)

    def limit(_: int) -> None:
        real, imaginary = (point_spread(part, 0.9, 1.8, 1.5) for part in echo)
        sampler(real * real + imaginary * imaginary)

    return limit


def seconds(work: Callable[[int], None], repetitions: int) -> list[float]:
    """Time repetitions of a piece of work, after one that warms up."""
    work(0)
    times = []
    for repetition in range(repetitions):
        start = time.process_time()
        work(repetition)
        times.append(time.process_time() - start)
    return times


def clip_of(view: str, number_of_frames: int) -> Callable[[int], None]:
    """Give the drawing of a clip as a function of a repetition's number."""

    def draw(repetition: int) -> None:
        render_clip(random_subject(repetition), view, seed=repetition, number_of_frames=number_of_frames)

    return draw


def measure(*, quick: bool) -> list[dict[str, float | str]]:
    """Measure each view; gives a row a view and one for all."""
    repetitions = 5 if quick else 25
    limit_s = statistics.median(seconds(bare_limit(), 4 * repetitions))
    rows: list[dict[str, float | str]] = []
    for view in VIEWS:
        row: dict[str, float | str] = {"view": view}
        for name, number_of_frames in (("stills", 1), ("pairs", 2), ("clips", 12)):
            runs = seconds(clip_of(view, number_of_frames), max(repetitions // number_of_frames, 2))
            times = [run / number_of_frames for run in runs]
            median_s = statistics.median(times)
            row[f"{name}_frames_per_s"] = 1 / median_s
            row[f"{name}_spread_ratio"] = (max(times) - min(times)) / median_s
            row[f"{name}_ratio_to_limit"] = limit_s / median_s
        rows.append(row)
    whole: dict[str, float | str] = {"view": "all"}
    for name in ("stills", "pairs", "clips"):
        per_frame_s = statistics.mean(1 / float(row[f"{name}_frames_per_s"]) for row in rows)
        whole[f"{name}_frames_per_s"] = 1 / per_frame_s
        whole[f"{name}_spread_ratio"] = statistics.mean(float(row[f"{name}_spread_ratio"]) for row in rows)
        whole[f"{name}_ratio_to_limit"] = limit_s / per_frame_s
    return [*rows, whole]


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = measure(quick=options.quick)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("Frames a second on one core, (spread as share of the median), share of the limit's speed")
    print(f"{'view':14}{'1 frame':>24}{'2 frames':>24}{'12 frames':>24}")
    for row in rows:
        print(
            f"{row['view']:14}" + "".join(f"{_cell(row, name):>24}" for name in ("stills", "pairs", "clips"))
        )


def _cell(row: dict[str, float | str], name: str) -> str:
    speed, spread, ratio = (
        row[f"{name}_{what}"] for what in ("frames_per_s", "spread_ratio", "ratio_to_limit")
    )
    return f"{speed:7.1f} ({spread:.2f}) {ratio:6.3f}"


if __name__ == "__main__":
    main()
