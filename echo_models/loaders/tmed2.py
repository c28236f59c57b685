"""TMED-2: still frames with view labels (Huang et al., MLHC 2021 and 2022).

    labels_per_image.csv                  query_key, view_label, diagnosis_label
    TMED2_fold0_labeledpart.csv           query_key, SourceFolder, view_classifier_split; where it is there
    view*_labeled_set/labeled/*.png       112 x 112, <patient>s<study>_<n>.png

PSAX does not say at which level and A4CorA2CorOther not which: frames with these labels are loaded as
unlabeled ones. The diagnosis is aortic stenosis and is not used.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from echo_models.errors import DatasetError
from echo_models.sources import TEST, TRAIN, UNDECIDED, VALIDATION, Collector, Source, to_screen
from echo_models.tables import Row, read_table

_VIEWS: Final = {"PLAX": "plax", "A4C": "a4c", "A2C": "a2c", "PSAX": None, "A4CorA2CorOther": None}
_PARTS: Final = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_NAME: Final = re.compile(r"(?P<patient>[^/\\]+?)s\d+_\d+\.png")
_FOLD: Final = "TMED2_fold0_labeledpart.csv"


def load(folder: Path) -> Source:
    """Load the labeled frames.

    Raises:
        DatasetError: if a file is absent or cannot be read.
        TableError: if a table has a fault.
    """
    collector = Collector("tmed2")
    images = {path.name: path for path in sorted(folder.glob("*/labeled/*.png"))}
    parts = _read_fold(folder)
    for row in read_table(folder / "labels_per_image.csv", ("query_key", "view_label", "diagnosis_label")):
        name = row.text("query_key")
        match = _NAME.fullmatch(name)
        if match is None:
            raise row.fault("query_key", f"expected <patient>s<study>_<n>.png; received {name!r}")
        if name not in images:
            raise row.fault("query_key", f"{folder}/*/labeled/{name} is not there")
        collector.add(
            to_screen(read_grey(images[name])),
            subject=match["patient"],
            view=row.choice_of("view_label", _VIEWS),
            part=parts.get(name, UNDECIDED),
        )
    return collector.finish(notes=("views of which TMED-2 does not say which of ours are unlabeled",))


def read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture as grey: [H, W], uint8.

    Raises:
        DatasetError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise DatasetError(f"{path} must be a picture that can be read; {type(error).__name__}") from error


def _read_fold(folder: Path) -> dict[str, int]:
    """Give the part of each image in the published split, where the split is there."""
    for file in sorted(folder.rglob(_FOLD)):
        rows: list[Row] = read_table(file, ("query_key", "view_classifier_split"))
        return {row.text("query_key"): row.choice_of("view_classifier_split", _PARTS) for row in rows}
    return {}
