"""`bundle.json`: what a model reads and gives, where it came from, and digests of its files.

No Keras here: listing and checking bundles costs nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from echo_models.errors import BundleError

FORMAT: Final = 1
"""Raised when a reader of the older form would misread the newer."""

MANIFEST: Final = "bundle.json"
MODEL: Final = "model.keras"
CARD: Final = "MODEL_CARD.md"
REFERENCE: Final = "open_set.npz"
"""What features of known views look like; only in a bundle that can say "unknown"."""

TASKS: Final = ("fov", "view", "lv", "lvh")
"""Field of view, view, left ventricle, left ventricular hypertrophy; in the pipeline's order."""

Mask = Literal["none", "fov", "lv"]

VERSION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Interval(BaseModel):
    """A measured value with its bootstrap interval.

    Attributes:
        value: the value on all n.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: how many frames it was measured on.
        control: the same measure of a guess that looks at no frame (a constant mask), where given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    n: int
    control: float | None = None

    def __str__(self) -> str:
        control = "" if self.control is None else f"; control {self.control:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n}{control})"


class OpenSet(BaseModel):
    """When a frame is none of the classes.

    Attributes:
        score: how near a frame's features are to those of known classes; higher is nearer.
        threshold: least score of a known frame.
        coverage: share of the frames it was fitted on that the threshold keeps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: Literal["relative_mahalanobis"] = "relative_mahalanobis"
    threshold: float
    coverage: float = Field(gt=0, lt=1)


class Calibration(BaseModel):
    """What makes probabilities of a network's scores, and "unknown" of a frame that is no class.

    Attributes:
        temperature: logits are divided by it; above 1 takes confidence away.
        open_set: None where no frame is ever called unknown.
        source: whose labeled frames it was fitted on.
        fingerprint: of those frames.
        frames: how many.
        subjects: of how many subjects, none of whom the network learned from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    open_set: OpenSet | None = None
    source: str
    fingerprint: str
    frames: int = Field(gt=0)
    subjects: int = Field(gt=0)


class Manifest(BaseModel):
    """The contract of one bundle.

    Attributes:
        task: one of `TASKS`.
        version: unique within its task.
        classes: in the order of the output.
        rows: H of the network's input in pixels.
        columns: W of the network's input in pixels.
        mask: what frames must be masked by before they are given.
        preprocessing: the function that makes the input from uint8 frames.
        training: settings, seed, data fingerprint and code version: what it takes to train it again.
        metrics: by name, on held-out frames.
        calibration: of its probabilities; None leaves them as the network gives them.
        files: sha256 of each other file of the bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    task: Literal["fov", "view", "lv", "lvh"]
    version: str = Field(pattern=VERSION_PATTERN)
    classes: tuple[str, ...] = Field(min_length=2)
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    mask: Mask
    preprocessing: Literal["echo_models.preprocessing.to_input"] = "echo_models.preprocessing.to_input"
    training: dict[str, Any]
    metrics: dict[str, Interval]
    calibration: Calibration | None = None
    files: dict[str, str]

    @model_validator(mode="after")
    def _keeps_its_reference(self) -> Self:
        wanted = self.calibration is not None and self.calibration.open_set is not None
        if wanted != (REFERENCE in self.files):
            raise ValueError(f"{REFERENCE} belongs to a bundle that can say unknown, and to no other")
        return self

    @property
    def name(self) -> str:
        """Name task and version, as every row of the tables says which model made it."""
        return f"{self.task}-{self.version}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json`; a bundle without calibration has the bytes it had before there was any."""
    content = manifest.model_dump(
        mode="json", exclude={"calibration"} if manifest.calibration is None else None
    )
    text = json.dumps(content, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Give the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check `bundle.json` alone.

    Raises:
        BundleError: if it is missing or says something it may not.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"a bundle has a {MANIFEST}; {folder} has none") from error
    except ValidationError as error:
        raise BundleError(f"{path} does not describe a bundle of format {FORMAT}: {error}") from error


def verify(folder: Path) -> Manifest:
    """Check every digest of a bundle.

    Returns:
        its manifest.

    Raises:
        BundleError: if a file is missing, altered or not listed.
    """
    manifest = read_manifest(folder)
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    if found != set(manifest.files) or MODEL not in found:
        raise BundleError(
            f"bundle {folder} must hold exactly {sorted(manifest.files)}; found {sorted(found)}. "
            "Copy or train it again"
        )
    for name, expected in manifest.files.items():
        received = sha256_of(folder / name)
        if received != expected:
            raise BundleError(
                f"{folder / name} was altered: expected sha256 {expected}, received {received}. "
                "Copy or train it again"
            )
    return manifest
