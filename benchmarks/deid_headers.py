"""What the confidentiality profile costs a header, beside other tools on the same public files.

Timed are the header alone, from a dataset that has been read to a de-identified one, and the whole way
of reading, de-identifying and encoding, because a tool may leave work to either. Every tool runs in a
process of its own, in turn, round after round; the ratio of a tool is the median over the rounds of its
time over that of this project, summed over the files that both get through. Pixels are not read.

    python -m benchmarks.deid_headers [--quick] [--json] [--peers PATH_TO_PYTHON]

Peers are installed beside, never into, the project's environment:

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install dicognito==0.19.0 dicom-anonymizer==2.1.0 deid==0.4.13 pydicom==3.0.2
    python -m benchmarks.deid_headers --peers /tmp/peers/bin/python
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import pydicom

from beam_jobs.deid.headers import ULTRASOUND_SOP_CLASSES
from beam_jobs.deid.quiet import quiet_pydicom
from benchmarks.deid_header_tool import TOOLS

OURS: Final = "echobeam"
PACKAGES: Final = ("data_store", "deid_data", "pydicom")
TOOL: Final = Path(__file__).with_name("deid_header_tool.py")
Times = Mapping[str, tuple[float, float] | None]


class Row(NamedTuple):
    """How a tool compares.

    Attributes:
        files: how many it gets through.
        header_ratio: its time for the header over ours; None where it gets through no file.
        whole_ratio: the same with reading and encoding.
    """

    tool: str
    files: int
    header_ratio: float | None
    whole_ratio: float | None


def ultrasound_files() -> list[Path]:
    """List the public ultrasound files that the installed packages carry."""
    found = []
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            found += [path for path in sorted(Path(folder).rglob("*.dcm")) if is_ultrasound(path)]
    return found


def is_ultrasound(path: Path) -> bool:
    """Tell whether a file can be read and is of an ultrasound class."""
    try:
        with quiet_pydicom():
            ds = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
            return ds.get("SOPClassUID") in ULTRASOUND_SOP_CLASSES
    except Exception:  # noqa: BLE001 - some of the files are broken on purpose
        return False


def time_tool(tool: str, python: str, paths: Sequence[Path], repeats: int) -> Times:
    """Run one tool once over all files, in a process of its own."""
    command = [python, str(TOOL), tool, str(repeats)]
    if tool == OURS:
        command = [python, "-m", "benchmarks.deid_header_tool", tool, str(repeats)]
    done = subprocess.run(  # noqa: S603 - the tool is this project's, the Python is the caller's
        command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=True
    )
    times: Times = json.loads(done.stdout.splitlines()[-1])
    return times


def ratio(theirs: Times, ours: Times, which: int) -> float | None:
    """Compare the time of two tools over the files that both get through."""
    pairs = [(their, our) for path, their in theirs.items() if their and (our := ours[path])]
    if not pairs:
        return None
    return sum(their[which] for their, _ in pairs) / sum(our[which] for _, our in pairs)


def compare(peers: str | None, *, rounds: int, repeats: int) -> list[Row]:
    """Run all tools in turn.

    Args:
        peers: the Python in whose environment the peers are; None for this project alone.
        rounds: how often each tool is run.
        repeats: how often each file is done in a run.
    """
    paths = ultrasound_files()
    tools = [(OURS, sys.executable), *((tool, peers) for tool in TOOLS if peers and tool != OURS)]
    header: dict[str, list[float]] = {tool: [] for tool, _ in tools}
    whole: dict[str, list[float]] = {tool: [] for tool, _ in tools}
    files: dict[str, int] = {}
    for _ in range(rounds):
        times = {tool: time_tool(tool, python, paths, repeats) for tool, python in tools}
        for tool, its in times.items():
            files[tool] = sum(one is not None for one in its.values())
            for which, ratios in enumerate((header[tool], whole[tool])):
                found = ratio(its, times[OURS], which)
                if found is not None:
                    ratios.append(found)
    return [
        Row(
            tool,
            files[tool],
            statistics.median(header[tool]) if header[tool] else None,
            statistics.median(whole[tool]) if whole[tool] else None,
        )
        for tool, _ in tools
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of few repeats, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--peers", help="a Python with dicognito, dicom-anonymizer and deid installed")
    arguments = parser.parse_args()
    size = {"rounds": 1, "repeats": 3} if arguments.quick else {"rounds": 7, "repeats": 25}
    rows = compare(arguments.peers, **size)
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    print(f"{'tool':18} {'files':>6} {'header':>10} {'whole way':>10}   (time over that of {OURS})")
    for row in rows:
        print(f"{row.tool:18} {row.files:6} {_shown(row.header_ratio):>10} {_shown(row.whole_ratio):>10}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
