"""Whether a GAN is well: what stops its training, and what a person should hear of."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from echo_models.errors import TrainingError

LARGEST_LOSS: Final = 100.0
"""Nats. A label or a reality that is given a probability of e^-100 comes from weights that ran away."""

LEAST_DIVERSITY_RATIO: Final = 0.05
"""A generator whose frames differ by less, compared with real frames, draws one frame over and over."""

WON: Final = 0.99
"""Mean D(x) above which, with D(G(z)) below its complement, the discriminator has nothing left to learn."""


def require_convergence(means: Mapping[str, float], *, epoch: int, stage: str) -> None:
    """Stop a training whose numbers have run away.

    Args:
        means: losses of the epoch so far, by name.
        epoch: from 1.
        stage: what is being trained.

    Raises:
        TrainingError: if a loss is not finite or above `LARGEST_LOSS`.
    """
    values = np.array(list(means.values()))
    if np.isfinite(values).all() and (np.abs(values) <= LARGEST_LOSS).all():
        return
    shown = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
    raise TrainingError(
        f"{stage}: the GAN's losses must stay finite and below {LARGEST_LOSS:.0f}; received {shown} in epoch "
        f"{epoch}. Train with a smaller learning rate or another seed"
    )


def diversity_ratio(generated: npt.NDArray[np.float32], unlabeled: npt.NDArray[np.float32]) -> float:
    """Compare how much generated frames differ from each other with how much real ones do.

    Args:
        generated: [K, N, H, W, 1], float32: N frames drawn with each one-hot class, since a generator
            may draw one frame for each.
        unlabeled: [M, H, W, 1], float32, real ones of the same range.

    Returns:
        Standard deviation within a class, mean over classes and pixels, over that of real frames; 0 is
        the same frame again and again, 1 as different as real ones.
    """
    of_real = float(unlabeled.std(axis=0).mean())
    return float(generated.std(axis=1).mean()) / max(of_real, 1e-6)


def troubles(entry: Mapping[str, float]) -> dict[str, float]:
    """Say what is wrong with an epoch that training may go on after.

    Args:
        entry: of the log: "diversity_ratio", "d_real" and "d_generated".

    Returns:
        1 or 0 for "collapsed": generated frames are all alike; and for "discriminator_won": it tells every
        frame, so that the losses of telling teach it nothing more.
    """
    won = entry["d_real"] > WON and entry["d_generated"] < 1 - WON
    collapsed = entry["diversity_ratio"] < LEAST_DIVERSITY_RATIO
    return {"collapsed": float(collapsed), "discriminator_won": float(won)}
