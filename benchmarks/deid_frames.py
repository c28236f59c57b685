"""What a frame costs: read, decoded to luminance, shrunk and cleaned, beside decoding alone.

The limit for JPEG is libjpeg-turbo itself: the same codestreams, in memory, decoded to grey and thrown
away, by the same simplejpeg. The tool most people use is pydicom's `iter_pixels`, which decodes to
colour and neither shrinks nor cleans. All are run in turn, round after round, in one process on one
thread; a ratio is the median over the rounds of the other's time over ours, so more is better and 1 is
as fast. `frames` is from an open instance to clean frames, `file` begins with its header.

The clips are public ones that the demo's packages carry; what they lack (long, large or of another
encoding) is made of them by repeating frames and encoding them again.

    python -m benchmarks.deid_frames [--quick] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
import simplejpeg
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.frames import flatten_frames
from beam_jobs.records import Placement

PLACEMENT: Final = Placement("", "study", "subject", 1, 1, "series", "instance")
KEYS: Final = Pseudonymizer(bytes(32))
JPEG_QUALITY: Final = 85
APICAL: Final = ("data_store", "data/color3d_jpeg_baseline.dcm")
APICAL_HALF: Final = ("pydicom", "data/test_files/examples_ybr_color.dcm")
PARASTERNAL: Final = ("deid_data", "data/ultrasounds/ultrasound-multiframe.dcm")


class Clip(NamedTuple):
    """One clip: its file, and its codestreams where it is JPEG."""

    name: str
    path: Path
    frames: int
    codestreams: Sequence[bytes]


class Row(NamedTuple):
    """How a clip compares; a ratio is None where there is nothing to compare with.

    Attributes:
        to_libjpeg: of frames, to libjpeg-turbo alone.
        file_to_libjpeg: of the whole file, likewise.
        to_pydicom: of frames, to pydicom's `iter_pixels`.
        spread_ratio: of our rounds, the largest less the smallest over the median.
    """

    clip: str
    frames: int
    to_libjpeg: float | None
    file_to_libjpeg: float | None
    to_pydicom: float
    spread_ratio: float


def public_file(place: tuple[str, str]) -> Path:
    """Find a public clip in the package that carries it.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    package, inside = place
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if Path(folder, inside).is_file():
            return Path(folder, inside)
    raise FileNotFoundError(f"{package} must be installed for its {inside}: install echobeam[demo]")


def clips(folder: Path) -> Iterator[Clip]:
    """Write the clips into a folder."""
    small, apical = (pydicom.dcmread(public_file(place)) for place in (APICAL_HALF, APICAL))
    large = pydicom.dcmread(public_file(PARASTERNAL))
    yield of_codestreams(small, 30, folder / "JPEG 240 x 320")
    yield of_codestreams(small, 120, folder / "JPEG 240 x 320, long")
    yield of_codestreams(apical, 120, folder / "JPEG 480 x 640")
    planes = np.frombuffer(large.PixelData, np.uint8).reshape(-1, 3, large.Rows, large.Columns)
    colour = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    yield of_codestreams(large, 30, folder / "JPEG 600 x 800", [jpeg(frame) for frame in colour])
    yield native(large, 30, folder / "native RGB by plane, 600 x 800")
    large.PlanarConfiguration, large.PixelData = 0, colour.tobytes()
    yield native(large, 30, folder / "native RGB by pixel, 600 x 800")
    grey = colour[..., 1]
    large.PhotometricInterpretation, large.SamplesPerPixel = "MONOCHROME2", 1
    large.PixelData = grey.tobytes()
    yield native(large, 30, folder / "native grey, 600 x 800")


def jpeg(frame: npt.NDArray[np.uint8]) -> bytes:
    """Encode [H, W, 3], uint8, as machines do."""
    encoded: bytes = simplejpeg.encode_jpeg(frame, quality=JPEG_QUALITY, colorsubsampling="422")
    return encoded


def of_codestreams(ds: Dataset, count: int, path: Path, encoded: Sequence[bytes] | None = None) -> Clip:
    """Write a JPEG clip of so many frames, by repetition."""
    if encoded is None:
        encoded = list(generate_frames(ds.PixelData, number_of_frames=int(ds.NumberOfFrames)))
    codestreams = list(islice(cycle(encoded), count))
    copy = pydicom.dcmread(ds.filename, stop_before_pixels=True)
    copy.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    copy.PhotometricInterpretation, copy.PlanarConfiguration = "YBR_FULL_422", 0
    copy.PixelData = encapsulate(codestreams, has_bot=False)
    copy["PixelData"].VR = "OB"
    copy["PixelData"].is_undefined_length = True
    return written(copy, count, path, codestreams)


def native(ds: Dataset, count: int, path: Path) -> Clip:
    """Write a clip of native pixels."""
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return written(ds, count, path, ())


def written(ds: Dataset, count: int, path: Path, codestreams: Sequence[bytes]) -> Clip:
    """Write a file."""
    ds.NumberOfFrames = count
    with quiet_pydicom():
        ds.save_as(path)
    return Clip(path.name, path, count, codestreams)


def measure(clip: Clip, rounds: int, *, pydicom_rounds: int) -> Row:
    """Run each in turn."""
    opened = deidentify_instance(read_instance(clip.path), PLACEMENT, KEYS)

    def frames() -> None:
        for _ in flatten_frames(opened):
            pass

    def file() -> None:
        for _ in flatten_frames(deidentify_instance(read_instance(clip.path), PLACEMENT, KEYS)):
            pass

    def libjpeg() -> None:
        for codestream in clip.codestreams:
            simplejpeg.decode_jpeg(codestream, colorspace="GRAY")

    def by_pydicom() -> None:
        with quiet_pydicom():
            for _ in iter_pixels(clip.path):
                pass

    ours = [frames, file, libjpeg] if clip.codestreams else [frames, file]
    times = times_of(ours, rounds)
    beside = times_of([frames, by_pydicom], pydicom_rounds)
    spread = (max(times[0]) - min(times[0])) / statistics.median(times[0])
    return Row(
        clip.name,
        clip.frames,
        ratio(times[2], times[0]) if clip.codestreams else None,
        ratio(times[2], times[1]) if clip.codestreams else None,
        ratio(beside[1], beside[0]),
        spread,
    )


def times_of(works: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Time pieces of work in turn; gives a list of seconds for each. The first round is not counted."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, found in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if number:
                found.append(time.perf_counter() - start)
    return times


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Give the median over the rounds of their time over ours."""
    return statistics.median(there / here for there, here in zip(theirs, ours, strict=True))


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rounds, pydicom_rounds = (5, 1) if options.quick else (31, 5)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(clip, rounds, pydicom_rounds=pydicom_rounds) for clip in clips(Path(folder))]
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    print(f"{rounds} rounds ({pydicom_rounds} of pydicom), medians of ratios, more is better")
    print(f"{'':34}{'frames':>8}{'libjpeg-turbo':>15}{'with header':>13}{'iter_pixels':>13}{'spread':>8}")
    for row in rows:
        first, second = (f"{part:.2f}" if part else "" for part in (row.to_libjpeg, row.file_to_libjpeg))
        print(
            f"{row.clip:34}{row.frames:8}{first:>15}{second:>13}{row.to_pydicom:13.1f}{row.spread_ratio:8.2f}"
        )


if __name__ == "__main__":
    main()
