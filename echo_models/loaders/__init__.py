"""Public labeled sets, each in the layout in which it is published (docs/public-sets.md).

Every loader is `load(folder) -> Source`, in a module of its own that is imported when it is used: some need
the extra `labeling`. No set comes with this package, and each has terms of its own.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from echo_models.errors import DatasetError
from echo_models.sources import Source


class Loader(NamedTuple):
    """Where a loader lives, and what it gives.

    Attributes:
        module: within this package.
        function: of that module.
        labels: what it knows of its frames.
    """

    module: str
    function: str
    labels: str


LOADERS: Final = {
    "echonet-dynamic": Loader("echonet_dynamic", "load", "a4c; left ventricle along the endocardium"),
    "echonet-lvh": Loader("echonet_lvh", "load", "plax; LVH by wall thickness, a proxy"),
    "echonet-lvh-mass": Loader("echonet_lvh", "load_by_mass", "plax; LVH by mass, a proxy"),
    "camus": Loader("camus", "load", "a4c, a2c; left ventricle along the epicardium"),
    "tmed2": Loader("tmed2", "load", "plax, a4c, a2c"),
    "unity": Loader("unity", "load", "a4c; left ventricle along the endocardium"),
}
"""By the kind that `echobeam train --dataset KIND:PATH` names."""


def load_public_set(kind: str, folder: Path) -> Source:
    """Load a public set.

    Args:
        kind: one of `LOADERS`.
        folder: the set's own top folder.

    Raises:
        DatasetError: if there is no such kind or folder, or a file is absent or cannot be read.
        TableError: if a table has a fault; it names file, row and column.
        ModuleNotFoundError: if the extra `labeling` is not installed and the set needs it.
    """
    if kind not in LOADERS:
        raise DatasetError(f"a public set is one of {', '.join(LOADERS)}; received {kind!r}")
    if not folder.is_dir():
        raise DatasetError(f"{kind}: expected the set's top folder; {folder} is no folder")
    loader = LOADERS[kind]
    load: Callable[[Path], Source] = getattr(import_module(f"{__name__}.{loader.module}"), loader.function)
    return load(folder)
