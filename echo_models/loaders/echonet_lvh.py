"""EchoNet-LVH: parasternal long-axis videos with measured walls (Duffy et al., JAMA Cardiology 2022).

    MeasurementsList.csv         HashedFileName, Calc, CalcValue in cm, Frame, split in lower case, …
    Batch1..4/<name>.avi

It has no label of hypertrophy, no sex and no body surface. What is loaded as one is a **proxy**, made of
the measurements at end-diastole: a wall of 1.2 cm or more, or a mass of 225 g or more by the cube formula
(Lang RM et al., J Am Soc Echocardiogr 28:1-39 (2015), of which 224 g is a man's upper limit). Measured
frames are loaded.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from echo_models.errors import DatasetError
from echo_models.loaders.videos import read_frames
from echo_models.sources import TEST, TRAIN, VALIDATION, Collector, Source, to_screen
from echo_models.tables import Row, read_table

_COLUMNS: Final = ("HashedFileName", "Calc", "CalcValue", "Frame", "split")
_CALCULATIONS: Final = {name: name for name in ("IVSd", "LVIDd", "LVPWd", "IVSs", "LVIDs", "LVPWs")}
_PARTS: Final = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_DIASTOLE: Final = ("IVSd", "LVIDd", "LVPWd")

THICK_WALL_CM: Final = 1.2
HEAVY_G: Final = 225.0


def mass_g(ivsd_cm: float, lvidd_cm: float, lvpwd_cm: float) -> float:
    """Give the mass of the left ventricle by the cube formula (Lang 2015)."""
    return 0.8 * 1.04 * ((ivsd_cm + lvidd_cm + lvpwd_cm) ** 3 - lvidd_cm**3) + 0.6


def load(folder: Path) -> Source:
    """Load measured frames; LVH is a wall of 1.2 cm or more.

    Raises:
        DatasetError: if a file is absent or cannot be decoded.
        TableError: if the table has a fault.
    """
    return _load(
        folder,
        "echonet-lvh",
        lambda cm: max(cm["IVSd"], cm["LVPWd"]) >= THICK_WALL_CM,
        f"LVH is a proxy: a wall of {THICK_WALL_CM} cm or more at end-diastole",
    )


def load_by_mass(folder: Path) -> Source:
    """Load measured frames; LVH is a mass of 225 g or more.

    Raises:
        DatasetError: if a file is absent or cannot be decoded.
        TableError: if the table has a fault.
    """
    return _load(
        folder,
        "echonet-lvh-mass",
        lambda cm: mass_g(cm["IVSd"], cm["LVIDd"], cm["LVPWd"]) >= HEAVY_G,
        f"LVH is a proxy: a mass of {HEAVY_G:g} g or more by the cube formula, whatever sex and size",
    )


def _load(folder: Path, kind: str, rule: Callable[[Mapping[str, float]], bool], note: str) -> Source:
    collector = Collector(kind)
    videos: dict[str, list[Row]] = defaultdict(list)
    for row in read_table(folder / "MeasurementsList.csv", _COLUMNS):
        videos[row.text("HashedFileName").removesuffix(".avi")].append(row)
    for name, rows in videos.items():
        cm = {row.choice_of("Calc", _CALCULATIONS): _centimetres(row) for row in rows}
        hypertrophy = rule(cm) if all(calculation in cm for calculation in _DIASTOLE) else None
        part = rows[0].choice_of("split", _PARTS)
        frames = read_frames(_find(folder, name, rows[0]), {row.index_of("Frame") for row in rows})
        for _, frame in sorted(frames.items()):
            collector.add(to_screen(frame), subject=name, view="plax", hypertrophy=hypertrophy, part=part)
    return collector.finish(notes=(note,))


def _centimetres(row: Row) -> float:
    value = row.number_of("CalcValue")
    if value <= 0 or math.isinf(value):
        raise row.fault("CalcValue", f"expected centimetres above 0; received {value}")
    return value


def _find(folder: Path, name: str, row: Row) -> Path:
    for video in sorted(folder.glob(f"Batch*/{name}.avi")):
        return video
    raise DatasetError(
        f"{row.file}, row {row.number}, column HashedFileName: {folder}/Batch*/{name}.avi is not there"
    )
