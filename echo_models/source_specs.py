"""What `echobeam train` is told to train on, before anything is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from echo_models.datasets import LabeledFrames
from echo_models.errors import DatasetError
from echo_models.labeled_sources import load_labels, load_unlabeled
from echo_models.loaders import LOADERS, load_public_set
from echo_models.sources import Source, phantom_source

KINDS: Final = ("phantom", *LOADERS, "frames")
"""What `--dataset` knows: the phantom, the public sets, and a site's frames without labels."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source.

    Attributes:
        kind: one of `KINDS`, or "labels".
        path: where it is; of "labels" the labels. None for the phantom.
        frames: of "labels", what they speak of.
    """

    kind: str
    path: Path | None = None
    frames: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "SourceSpec":
        """Read "phantom" or "KIND:PATH".

        Raises:
            ValueError: if it is neither, or the kind is unknown.
        """
        kind, colon, path = text.partition(":")
        if kind not in KINDS or bool(path) == (kind == "phantom") or (colon and not path):
            raise ValueError(f"expected phantom, or KIND:PATH with KIND one of {', '.join(KINDS[1:])}")
        return cls(kind, Path(path) if path else None)

    @property
    def option(self) -> str:
        """Write the option that asks for it, without its path."""
        if self.kind == "labels":
            return "--labels LABELS --frames FRAMES"
        return f"--dataset {self.kind}" + ("" if self.path is None else ":FOLDER")

    def load(self, render: Callable[[], LabeledFrames]) -> Source:
        """Load it.

        Args:
            render: gives the phantom's frames.

        Raises:
            DatasetError: if it is absent or cannot be read.
            TableError: if a table has faults.
        """
        if self.path is None:
            return phantom_source(render())
        if self.kind == "frames":
            return load_unlabeled(self.path)
        if self.kind == "labels":
            if self.frames is None:
                raise DatasetError("labels need the frames they speak of; received none")
            return load_labels(self.path, self.frames)
        return load_public_set(self.kind, self.path)
