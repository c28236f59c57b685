"""`bundle.json`: what a model reads and gives, where it came from, and digests of its files.

No Keras here: listing and checking bundles costs nothing.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from echo_models.errors import BundleError

FORMAT: Final = 1
"""Raised when a reader of the older form would misread the newer."""

MANIFEST: Final = "bundle.json"
MODEL: Final = "model.keras"
CARD: Final = "MODEL_CARD.md"

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
    files: dict[str, str]

    @property
    def name(self) -> str:
        """Name task and version, as every row of the tables says which model made it."""
        return f"{self.task}-{self.version}"


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
