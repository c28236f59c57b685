"""A training of the GAN as pictures: curves of its log, and its generated frames by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from echo_models.checkpoints import Log
from echo_models.gan.grids import GAP_PX

_PANELS: Final = (
    ("accuracy and F1 (validation)", ("accuracy", "f1")),
    ("losses of the discriminator", ("supervised", "unsupervised", "generated")),
    ("feature matching", ("matching",)),
    ("D(x), D(G(z)), diversity", ("d_real", "d_generated", "diversity_ratio")),
)


def draw_curves(log: Log, path: Path, *, caption: str) -> None:
    """Draw what a log tells by epoch, a line for each member (paper, accuracy and F1 by epoch).

    Args:
        log: as `TrainedGan` has it; measures it lacks are left out.
        path: of the picture, PNG.
        caption: above it: which data.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only reports draw

    panels = [
        (title, present)
        for title, names in _PANELS
        if (present := [name for name in names if name in log[0]])
    ]
    members = sorted({entry["member"] for entry in log})
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    figure.suptitle(caption, fontsize=9)
    styles = ("-", "--", ":", "-.")
    for (title, names), axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for number, member in enumerate(members):
            entries = [entry for entry in log if entry["member"] == member]
            epochs = [entry["epoch"] for entry in entries]
            for name, colour in zip(names, ("#4477aa", "#cc6677", "#228833"), strict=False):
                values: list[Any] = [entry[name] for entry in entries]
                label = name.replace("_", " ") if number == 0 else None
                axes.plot(epochs, values, styles[number % len(styles)], color=colour, label=label)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def join_grids(grids: Sequence[Path], path: Path) -> None:
    """Put grids of several epochs above one another, earliest first.

    Args:
        grids: PNGs as `save_grid` writes them, of one size.
        path: of the picture, PNG.
    """
    parted = []
    for grid in grids:
        with Image.open(grid) as picture:
            parted.append(np.pad(np.asarray(picture), ((0, 4 * GAP_PX), (0, 0)), constant_values=255))
    Image.fromarray(np.vstack(parted)).save(path, optimize=True)
