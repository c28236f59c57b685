"""Unity (Imperial College London): frames with key points and contours (Howard et al., 2021).

    <name>.json      {"<file>.png": {"labels": {"curve-lv-endo": {"type": "curve", "x": "…", "y": "…"}, …}}}
    <anywhere>/<video>-<n>.png

A label of type "off" says that the structure is not in the frame, "blurred" that it could not be told and
is unknown. Contours of the left ventricle go along the endocardium. Views are not labeled: a frame in which
the left ventricle and the right atrium are outlined is taken for a4c. Videos are not tied to patients:
each counts as one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from echo_models.errors import DatasetError, TableError
from echo_models.loaders.tmed2 import read_grey
from echo_models.outlines import polygon_mask
from echo_models.sources import Collector, Source, to_screen
from echo_models.views import A4C

_VENTRICLE: Final = "curve-lv-endo"
_RIGHT_ATRIUM: Final = "curve-ra-endo"
_POLYGON: Final = "curve"
_TYPES: Final = ("point", _POLYGON, "off", "blurred")

Points = list[tuple[float, float]]


def load(folder: Path) -> Source:
    """Load every frame that a JSON file of the folder labels.

    Raises:
        DatasetError: if a frame is absent, or a file cannot be read.
        TableError: if a label has a fault: file, frame and label are named.
    """
    collector = Collector("unity")
    images = {path.name: path for path in sorted(folder.rglob("*.png"))}
    for file in sorted(folder.rglob("*.json")):
        for name, entry in sorted(_read_json(file).items()):
            place = f"{file}, frame {name}"
            labels = entry.get("labels") if isinstance(entry, dict) else None
            if not isinstance(labels, dict):
                raise TableError([f"{place}, key labels: expected labels by name; there are none"])
            if name not in images:
                raise DatasetError(f"{place}: no such picture below {folder}")
            _add(collector, images[name], labels, place)
    return collector.finish(
        lv_border="endocardium",
        notes=(
            "left ventricles are outlined along the endocardium",
            "a frame is taken for a4c where left ventricle and right atrium are outlined",
        ),
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{file} must be JSON") from error
    if not isinstance(entries, dict):
        raise DatasetError(f"{file} must hold labels by the name of the frame")
    return entries


def _add(collector: Collector, path: Path, labels: Mapping[str, Any], place: str) -> None:
    frame = read_grey(path)
    kind, points = _contour(labels, _VENTRICLE, place)
    atrium, _ = _contour(labels, _RIGHT_ATRIUM, place)
    lv_mask = None
    if kind in (_POLYGON, "off"):
        lv_mask = to_screen(polygon_mask(points, *frame.shape))  # of no points: nothing
    collector.add(
        to_screen(frame),
        subject=path.stem.rpartition("-")[0] or path.stem,
        view=A4C if kind == atrium == _POLYGON else None,
        lv_mask=lv_mask,
    )


def _contour(labels: Mapping[str, Any], name: str, place: str) -> tuple[str | None, Points]:
    """Give type and points of a contour; None and none where it is not labeled."""
    label = labels.get(name)
    if label is None:
        return None, []
    kind = label.get("type") if isinstance(label, dict) else None
    if kind not in _TYPES:
        raise TableError(
            [f"{place}, label {name}, key type: expected one of {', '.join(_TYPES)}; received {kind!r}"]
        )
    if kind != _POLYGON:
        return kind, []
    try:
        x, y = ([float(number) for number in str(label[axis]).split()] for axis in "xy")
        points = list(zip(x, y, strict=True))
    except (KeyError, ValueError):
        points = []
    if len(points) < 3:
        raise TableError(
            [f"{place}, label {name}, keys x and y: expected as many numbers in each, at least three"]
        )
    return kind, points
