"""What can go wrong with models, grouped by what the caller does next.

ModelsError
├── BundleError            do not use this bundle: incomplete, altered or against its contract
├── DatasetError           the frames or labels asked for cannot be made or do not fit together
│   └── TableError         a file of labels has faults: each is named by file, row and column
├── TrainingError          training cannot go on: numbers no longer finite, or the wrong backend
└── RegistryError          the registry refuses the change; production is as it was
    └── NotInRegistryError the task, version or alias is not there
"""

from collections.abc import Sequence


class ModelsError(Exception):
    """Root of every error this package raises on purpose."""


class BundleError(ModelsError):
    """A bundle is incomplete, was altered, or does not keep its contract."""


class DatasetError(ModelsError):
    """Frames and labels cannot be made, read, or do not fit together."""


class TableError(DatasetError):
    """A table of labels or measurements has faults.

    Attributes:
        faults: one line each: file, row and column, what was expected and what was received.
    """

    SHOWN = 20

    def __init__(self, faults: Sequence[str]) -> None:
        shown = list(faults[: self.SHOWN])
        if len(faults) > self.SHOWN:
            shown.append(f"and {len(faults) - self.SHOWN} more")
        super().__init__("\n".join(shown))
        self.faults = tuple(faults)


class TrainingError(ModelsError):
    """Training cannot go on, for example because the loss is no longer finite."""


class RegistryError(ModelsError):
    """The registry refuses a change; what was in production still is."""


class NotInRegistryError(RegistryError):
    """The registry has no such task, version or alias."""
