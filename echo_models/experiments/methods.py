"""The methods that are compared on few labels, trained alike."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from echo_models.augment import Augmentation
from echo_models.challengers import CHALLENGERS, train_challenger
from echo_models.checkpoints import Log
from echo_models.gan import GanOptions, train_gan
from echo_models.networks import Head

Frames = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

GANS: Final[Mapping[str, Head]] = {"gan": "sigmoid", "gan_k_plus_1": "k_plus_1"}
"""Heads of the GANs, by name of the method: both readings of how real is told from generated."""

METHODS: Final[Mapping[str, str]] = {
    **{challenger.name: challenger.title for challenger in CHALLENGERS.values()},
    "gan": "GAN, sigmoid head",
    "gan_k_plus_1": "GAN, K+1 head",
}
"""Titles of the methods, by name."""

AUGMENTATION: Final = Augmentation(jitter=0.5)
"""The paper's movement, and half of the changes of grey that the supervised networks train with."""


def learn(
    method: str,
    labeled: Frames,
    labels: Labels,
    unlabeled: Frames,
    *,
    ensemble: int,
    ema_decay: float | None,
    **others: Any,
) -> tuple[keras.Model, Log]:
    """Train by one method.

    Args:
        method: one of `METHODS`.
        labeled: [L, H, W], uint8.
        labels: [L], int64.
        unlabeled: [M, H, W], uint8.
        ensemble: members.
        ema_decay: share of the moving average of weights that a step keeps; None to classify with the last.
        others: what `train_gan` and `train_challenger` both take.

    Returns:
        the classifier and the log of its training.
    """
    if method in GANS:
        options = GanOptions(
            head=GANS[method], augmentation=AUGMENTATION, ema_decay=ema_decay, ensemble=ensemble
        )
        gan = train_gan(labeled, labels, unlabeled, options=options, **others)
        return gan.classifier, gan.log
    trained = train_challenger(
        CHALLENGERS[method],
        labeled,
        labels,
        unlabeled,
        augmentation=AUGMENTATION,
        ema_decay=ema_decay,
        ensemble=ensemble,
        **others,
    )
    return trained.classifier, trained.log


def draw_labels(labels: Labels, count: int | None, seed: int) -> npt.NDArray[np.intp]:
    """Choose whose labels are known: `count` of each class, all where there are fewer.

    A smaller draw of one seed is part of a larger one.

    Args:
        labels: [N], int64.
        count: of each class; None for all.
        seed: of the draw.

    Returns:
        indices, sorted.
    """
    rng = np.random.default_rng((seed, 0x1ABE15))
    chosen: Sequence[npt.NDArray[np.intp]] = [
        rng.permutation(np.nonzero(labels == label)[0])[:count] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))
