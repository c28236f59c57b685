"""Tiny sets in the shape of the public ones: right in every name and column, with pictures of noise."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import SimpleITK as sitk  # noqa: N813 - the name everybody gives it
from PIL import Image

from echo_models.labels import Label, write_labels
from echo_models.views import VIEWS
from tests.toy import toy_frames

SQUARE = ((30, 20, 70, 20), (30, 40, 70, 40), (30, 60, 70, 60))
"""Chords across a square of 112 x 112: (X1, Y1, X2, Y2)."""


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        writer.writerows(rows)


def write_video(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Write a grey AVI without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode(None))


def numbered_frames(count: int, rows: int = 112, columns: int = 112) -> npt.NDArray[np.uint8]:
    """Give frames whose grey says which they are: 10, 20, 30, ..."""
    return np.broadcast_to(
        np.arange(1, count + 1, dtype=np.uint8)[:, None, None] * np.uint8(10), (count, rows, columns)
    ).copy()


def write_echonet_dynamic(folder: Path, splits: Sequence[str] = ("TRAIN", "VAL", "TEST")) -> None:
    """Write a video of five frames for each split; frames 1 and 3 are traced, but not in the last."""
    names = [f"0X{number:016X}" for number in range(len(splits))]
    write_csv(
        folder / "FileList.csv",
        ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"),
        [
            (name, 60.5, 40.1, 101.5, 112, 112, 50, 5, split)
            for name, split in zip(names, splits, strict=True)
        ],
    )
    tracings = [
        (f"{name}.avi", *chord, frame)
        for name in names[:-1]
        for frame in (1, 3)
        for chord in ((50, 10, 50, 70), *SQUARE)
    ]
    write_csv(folder / "VolumeTracings.csv", ("FileName", "X1", "Y1", "X2", "Y2", "Frame"), tracings)
    for name in names:
        write_video(folder / "Videos" / f"{name}.avi", numbered_frames(5))


MEASUREMENTS = (
    "HashedFileName", "Calc", "CalcValue", "Frame", "X1", "X2", "Y1", "Y2", "Frames", "FPS", "Width",
    "Height", "split",
)  # fmt: skip


def write_echonet_lvh(
    folder: Path, walls: Sequence[float] = (0.9, 1.3, 0.8), splits: Sequence[str] = ("train", "val", "test")
) -> None:
    """Write a video of four frames for each wall, measured in frame 2, and at systole in frame 3."""
    rows = []
    for number, (wall, split) in enumerate(zip(walls, splits, strict=True)):
        name = f"0X{number:016X}"
        where = (10, 20, 30, 40, 4, 50, 1024, 768, split)
        rows += [(name, calc, value, 2, *where) for calc, value in _diastole(wall).items()]
        rows += [(name, "LVIDs", 3.0, 3, *where)]
        write_video(folder / f"Batch{number % 4 + 1}" / f"{name}.avi", numbered_frames(4, 96, 128))
    write_csv(folder / "MeasurementsList.csv", MEASUREMENTS, rows)


def _diastole(wall: float) -> dict[str, float]:
    return {"IVSd": wall, "LVIDd": 5.0, "LVPWd": wall}


def write_camus_patient(
    folder: Path,
    name: str = "patient0001",
    *,
    ending: str = ".mhd",
    sequence: bool = False,
    ed: int = 1,
    es: int = 3,
) -> None:
    """Write both views of a patient: 120 mm across, 90 mm deep, the ventricle left of the middle."""
    patient = folder / name
    patient.mkdir(parents=True, exist_ok=True)
    for chambers in ("2CH", "4CH"):
        (patient / f"Info_{chambers}.cfg").write_text(
            f"ED: {ed}\nES: {es}\nNbFrame: 3\nSex: F\nAge: 56\nImageQuality: Good\nLVef: 53.0\n"
        )
        frames = numbered_frames(3, 600, 400)
        outline = np.zeros((600, 400), np.uint8)
        outline[150:450, 50:150] = 2  # myocardium
        outline[200:400, 80:120] = 1  # cavity
        outline[450:550, 50:150] = 3  # left atrium
        stem = f"{name}_{chambers}"
        for moment, index in (("ED", ed - 1), ("ES", es - 1)):
            write_image(patient / f"{stem}_{moment}{ending}", frames[index])
            write_image(patient / f"{stem}_{moment}_gt{ending}", outline)
        if sequence:
            write_image(patient / f"{stem}_half_sequence{ending}", frames)


def write_image(
    path: Path, pixels: npt.NDArray[np.uint8], spacing: tuple[float, float] = (0.3, 0.15)
) -> None:
    """Write MetaImage as it is, NIfTI transposed, as CAMUS has them."""
    spacing = (0.3, 0.15)
    if path.name.endswith(".nii.gz"):
        pixels, spacing = np.swapaxes(pixels, -1, -2), spacing[::-1]
    image = sitk.GetImageFromArray(np.ascontiguousarray(pixels))
    image.SetSpacing([*spacing, 1.0][: image.GetDimension()])  # type: ignore[no-untyped-call]
    sitk.WriteImage(image, str(path))


TMED_ROWS = (
    ("1001s1_0.png", "PLAX", "no_AS"),
    ("1001s1_1.png", "A4C", "no_AS"),
    ("1001s2_0.png", "A2C", "severe_AS"),
    ("1002s1_0.png", "PSAX", "mild_AS"),
    ("1003s1_0.png", "A4CorA2CorOther", "no_AS"),
)


def write_tmed2(folder: Path, *, fold: bool = False) -> None:
    write_csv(folder / "labels_per_image.csv", ("query_key", "view_label", "diagnosis_label"), TMED_ROWS)
    for number, (name, _, _) in enumerate(TMED_ROWS):
        group = "view_and_diagnosis_labeled_set" if number % 2 else "view_labeled_set"
        path = folder / group / "labeled" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((112, 112), 10 * number + 10, np.uint8)).save(path)
    if fold:
        parts = {"1001": "train", "1002": "val", "1003": "test"}
        write_csv(
            folder / "DEV479" / "TMED2_fold0_labeledpart.csv",
            ("SourceFolder", "query_key", "view_label", "view_classifier_split"),
            [("view_labeled_set/labeled", name, view, parts[name[:4]]) for name, view, _ in TMED_ROWS],
        )


def unity_labels() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    square = {"type": "curve", "x": "30 70 70 30", "y": "20 20 60 60"}
    return {
        "01-aa-0001.png": {"labels": {"curve-lv-endo": square, "curve-ra-endo": square}},
        "01-aa-0002.png": {"labels": {"curve-lv-endo": {"type": "off", "x": "", "y": ""}}},
        "01-bb-0001.png": {
            "labels": {
                "curve-lv-endo": {"type": "blurred"},
                "lv-apex-endo": {"type": "point", "x": "5", "y": "6"},
            }
        },
    }


def write_unity(folder: Path, labels: object | None = None) -> None:
    for name in unity_labels():
        path = folder / "png-cache" / "01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((96, 128), 50, np.uint8)).save(path)
    (folder / "labels-all.json").write_text(json.dumps(unity_labels() if labels is None else labels))


def write_site(folder: Path, subjects: int = 12) -> tuple[Path, Path]:
    """Write toy frames as a site stores them, and one labeler's labels of all of them.

    Returns:
        the file of labels and the file of frames.
    """
    toy = toy_frames(subjects=subjects, frames_each=4)
    rows, labels = [], []
    for number, who in enumerate(toy.subjects):
        label = Label(
            subject_key=f"s{who}",
            instance_key=f"i{who}",
            frame_index=number % 4,
            labeler="ana",
            labeled_at=0,
            view=VIEWS[toy.views[number]],
            lvh_grade="severe" if toy.hypertrophy[number] else "none",
        )
        labels.append(label)
        keys = {name: getattr(label, name) for name in ("subject_key", "instance_key", "frame_index")}
        rows.append(keys | {"frame": toy.frames[number].tobytes()})
    pq.write_table(pa.Table.from_pylist(rows), folder / "frames.parquet")
    write_labels(folder / "labels.csv", labels)
    return folder / "labels.csv", folder / "frames.parquet"
