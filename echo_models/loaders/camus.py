"""CAMUS: apical two- and four-chamber clips with outlined walls (Leclerc et al., IEEE TMI 2019).

    patientXXXX/Info_{2CH,4CH}.cfg                     ED, ES (from 1), NbFrame, …
    patientXXXX/patientXXXX_{2CH,4CH}_{ED,ES}[_gt]     .mhd with .raw, or .nii.gz
    patientXXXX/patientXXXX_{2CH,4CH}[_half]_sequence  the clip between them

Outlined are 1 cavity, 2 myocardium, 3 left atrium: the epicardium goes around 1 and 2. Pixels are wide
(0.308 x 0.154 mm). Where there is a sequence, every frame of it has its view, and the two at ED and ES
their outlines; ED may come after ES.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name everybody gives it

from echo_models.errors import DatasetError, TableError
from echo_models.sources import Collector, Source, to_screen

_VIEWS: Final = {"2CH": "a2c", "4CH": "a4c"}
_ENDINGS: Final = (".mhd", ".nii.gz")
_VENTRICLE: Final = (1, 2)
_MOMENTS: Final = ("ED", "ES")


def load(folder: Path) -> Source:
    """Load every patient below a folder.

    Raises:
        DatasetError: if an image is absent or cannot be read.
        TableError: if an Info file has a fault: file and key are named.
    """
    collector = Collector("camus")
    for info in sorted(folder.rglob("Info_?CH.cfg")):
        chambers = info.stem.removeprefix("Info_")
        if chambers in _VIEWS:
            _add_clip(collector, info, chambers)
    return collector.finish(
        lv_border="epicardium", notes=("left ventricles are cavity and myocardium, as CAMUS outlines them",)
    )


def _add_clip(collector: Collector, info: Path, chambers: str) -> None:
    moments = _read_info(info)
    stem = f"{info.parent.name}_{chambers}"
    outlines = {
        moment: np.isin(_read(_image(info.parent, f"{stem}_{moment}_gt"))[0], _VENTRICLE)
        for moment in _MOMENTS
    }
    of_frame = {index: outlines[moment] for moment, index in moments.items()}
    for ending in ("sequence", "half_sequence"):
        if sequence := _find(info.parent, f"{stem}_{ending}"):
            frames = _read(sequence)
            break
    else:
        frames = np.concatenate([_read(_image(info.parent, f"{stem}_{moment}")) for moment in _MOMENTS])
        of_frame = dict(enumerate(outlines.values()))
    if max(of_frame) >= len(frames):
        raise TableError([f"{info}, key ED or ES: expected 1 to {len(frames)}; received {moments}"])
    for index, frame in enumerate(frames):
        collector.add(frame, subject=info.parent.name, view=_VIEWS[chambers], lv_mask=of_frame.get(index))


def _read_info(info: Path) -> dict[str, int]:
    """Give the indices, from 0, of end-diastole and end-systole."""
    values: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    faults = [
        f"{info}, key {key}: expected a whole number from 1; received {values.get(key, 'nothing')!r}"
        for key in _MOMENTS
        if not values.get(key, "").isdecimal() or int(values[key]) < 1
    ]
    if faults:
        raise TableError(faults)
    return {key: int(values[key]) - 1 for key in _MOMENTS}


def _find(folder: Path, stem: str) -> Path | None:
    found = [folder / f"{stem}{ending}" for ending in _ENDINGS]
    return next((path for path in found if path.exists()), None)


def _image(folder: Path, stem: str) -> Path:
    path = _find(folder, stem)
    if path is None:
        raise DatasetError(f"{folder / stem} with one of {', '.join(_ENDINGS)} is not there")
    return path


def _read(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image, or a sequence of them: [N, 120, 160], uint8, true in shape."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DatasetError(f"{path} must be an image that can be read") from error
    pixels = sitk.GetArrayFromImage(image)
    pixels = pixels.reshape(-1, *pixels.shape[-2:]).astype(np.uint8)
    width, height = image.GetSpacing()[:2]  # type: ignore[no-untyped-call]
    if width < height:
        # The beam is sampled finer along its way, which is down. NIfTI files come transposed.
        pixels, width, height = pixels.transpose(0, 2, 1), height, width
    return to_screen(pixels, pixel_width=width, pixel_height=height)
