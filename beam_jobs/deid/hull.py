"""Fill the convex hull of a mask: a fan is convex, so what lies between its parts belongs to it."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def convex_hull(mask: Mask) -> Mask:
    """Fill the convex hull of the True pixels.

    A hull begins in each row at a convex function of the row, and ends at a concave one, so the two
    are found and filled each for itself.

    Args:
        mask: [H, W], bool.

    Returns:
        [H, W], bool; all False where the mask is.
    """
    filled = np.zeros_like(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return filled
    inked = mask[rows]
    first = inked.argmax(axis=1)
    last = mask.shape[1] - 1 - inked[:, ::-1].argmax(axis=1)
    every = np.arange(rows[0], rows[-1] + 1)
    begins = np.ceil(_envelope(rows, first, every))
    ends = np.floor(-_envelope(rows, -last, every))
    columns = np.arange(mask.shape[1])
    filled[every] = (columns >= begins[:, None]) & (columns <= ends[:, None])
    return filled


def _envelope(
    rows: npt.NDArray[np.intp], edge: npt.NDArray[np.intp], at: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Give the largest convex function that is nowhere above `edge` (Andrew's monotone chain)."""
    # Two lists and no helper: this loop is the dearest part of a hull.
    ys: list[int] = []
    xs: list[int] = []
    for y, x in zip(rows.tolist(), edge.tolist(), strict=True):
        while len(ys) > 1 and (ys[-1] - ys[-2]) * (x - xs[-2]) <= (xs[-1] - xs[-2]) * (y - ys[-2]):
            ys.pop()
            xs.pop()
        ys.append(y)
        xs.append(x)
    # Rounded, or a corner that lies on the hull may fall just outside of it.
    found: npt.NDArray[np.float64] = np.interp(at, ys, xs).round(6)
    return found
