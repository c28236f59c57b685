"""Fill the convex hull of a mask: a fan is convex, so what lies between its parts belongs to it."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
_Points = list[tuple[int, int]]


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
    chain: _Points = []
    for point in zip(rows.tolist(), edge.tolist(), strict=True):
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    # Rounded, or a corner that lies on the hull may fall just outside of it.
    corners = np.array(chain, np.float64)
    found: npt.NDArray[np.float64] = np.interp(at, corners[:, 0], corners[:, 1]).round(6)
    return found


def _turn(start: tuple[int, int], middle: tuple[int, int], end: tuple[int, int]) -> int:
    return (middle[0] - start[0]) * (end[1] - start[1]) - (middle[1] - start[1]) * (end[0] - start[0])
