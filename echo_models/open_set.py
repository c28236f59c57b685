"""Whether a frame is like any class at all: the relative Mahalanobis distance of its features.

A classifier of fifteen views has no answer "none of them", and its own confidence is no such answer: on an
abdomen or a test pattern it is often as high as on a heart. What tells them apart is where the features lie
that its last layer rests on. The distance to the nearest class, less the distance to all frames together,
leaves out what all frames differ in anyway (Lee K et al., NeurIPS 2018; Ren J et al., arXiv:2106.09022). Of
the scores that `experiments/open_set.py` compares it turned most foreign frames away at the same coverage.
"""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self
from zipfile import BadZipFile

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from echo_models.errors import BundleError

_RIDGE: Final = 1e-3
"""Share of the mean variance that is added to every feature's: some never fire."""

Features = npt.NDArray[np.float32]
"""[N, M, D]: D features of each of M members of an ensemble."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the features of known classes look like, for each of M members; float32 all.

    Attributes:
        class_means: [M, K, D].
        class_whitening: [M, D, D], makes the spread within classes round.
        mean: [M, D], of all frames.
        whitening: [M, D, D], makes the spread of all frames round.
    """

    class_means: npt.NDArray[np.float32]
    class_whitening: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    whitening: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: Features, labels: npt.NDArray[np.int64], classes: int) -> Self:
        """Learn it from frames of known class, some of each.

        Args:
            features: [N, M, D], float32.
            labels: [N], int64, true classes.
            classes: K.

        Raises:
            ValueError: if a class has no frame.
        """
        counts = np.bincount(labels, minlength=classes)
        if not counts.all():
            raise ValueError(f"each class needs frames; received {counts.tolist()} by class")
        parts: list[tuple[npt.NDArray[np.float64], ...]] = []
        for member in np.moveaxis(np.asarray(features, np.float64), 1, 0):
            means = np.stack([member[labels == number].mean(axis=0) for number in range(classes)])
            middle = member.mean(axis=0)
            parts.append((means, _whitening(member - means[labels]), middle, _whitening(member - middle)))
        return cls(*(np.stack(part).astype(np.float32) for part in zip(*parts, strict=True)))

    def score(self, features: Features) -> npt.NDArray[np.float64]:
        """Say how near frames are to known classes: [N], higher is nearer, summed over members."""
        to_class, to_all = self.distances(features)
        return to_all - to_class

    def distances(self, features: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Give squared distances to the nearest class and to all frames, [N] each, summed over members."""
        to_class, to_all = np.zeros(len(features)), np.zeros(len(features))
        for number, member in enumerate(np.moveaxis(np.asarray(features, np.float64), 1, 0)):
            whiten = self.class_whitening[number].astype(np.float64)
            frames, means = member @ whiten, self.class_means[number] @ whiten
            # |f - m|² in parts: no array of frames x classes x features.
            apart = (frames**2).sum(axis=1)[:, None] - 2 * frames @ means.T + (means**2).sum(axis=1)
            from_all = (member - self.mean[number]) @ self.whitening[number].astype(np.float64)
            to_class += apart.min(axis=1)
            to_all += (from_all**2).sum(axis=1)
        return to_class, to_all

    def to_bytes(self) -> bytes:
        """Give the file's content: the same for the same numbers."""
        content = io.BytesIO()
        np.savez_compressed(
            content, allow_pickle=False, **{it.name: getattr(self, it.name) for it in fields(self)}
        )
        return content.getvalue()


def _whitening(deviations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give W with W Wᵗ the inverse of the covariance: [N, D] → [D, D]."""
    covariance = deviations.T @ deviations / len(deviations)
    size = len(covariance)
    covariance += (_RIDGE * np.trace(covariance) / size + np.finfo(np.float32).tiny) * np.eye(size)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)))


def read_reference(path: Path) -> Reference:
    """Read what `Reference.to_bytes` gave.

    Raises:
        BundleError: if the file is no such thing.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Reference(**{it.name: stored[it.name] for it in fields(Reference)})
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise BundleError(f"{path} must hold the features of known classes; it cannot be read") from error


def cross_scores(
    features: Features,
    labels: npt.NDArray[np.int64],
    subjects: npt.NDArray[np.int64],
    classes: int,
    folds: int,
) -> npt.NDArray[np.float64]:
    """Score each frame by a reference that its subject had no part in: [N].

    A threshold from scores of the very frames a reference was learned from would turn away too many others.

    Raises:
        ValueError: if a class is lost without one fold's subjects.
    """
    scores = np.zeros(len(labels))
    who, index = np.unique(subjects, return_inverse=True)
    fold_of = (np.arange(len(who)) % folds)[index]
    for fold in range(folds):
        held = fold_of == fold
        scores[held] = Reference.fit(features[~held], labels[~held], classes).score(features[held])
    return scores


def with_features(model: keras.Model) -> keras.Model:
    """Give a classifier that also shows what its logits rest on; it shares every weight.

    Input shape:
        That of the model.

    Output shape:
        A list: the model's probabilities [N, K], and of each member of an ensemble [N, D].

    Raises:
        BundleError: if a member does not end in a dense layer of its classes.
    """
    dense = last_layers(model)
    if len(dense) != len(_members(model)):
        raise BundleError(
            f"an open-set score needs a classifier that ends in a dense layer of its classes; {model.name} "
            f"gives {list(model.output_shape)}"
        )
    if _members(model) == [model]:
        return keras.Model(model.input, [model.output, dense[0].input])
    frames = keras.Input(model.input_shape[1:], name="frames")
    outputs, features = [], []
    for member, layer in zip(_members(model), dense, strict=True):
        output, seen = keras.Model(member.input, [member.output, layer.input])(frames)
        outputs.append(output)
        features.append(seen)
    return keras.Model(frames, [model.layers[-1](outputs), *features])


def has_features(model: keras.Model) -> bool:
    """Say whether a network, or each member of an ensemble, ends in a dense layer of its classes."""
    return len(last_layers(model)) == len(_members(model))


def last_layers(model: keras.Model) -> list[keras.Layer]:
    """List the dense layers that make logits, of each member that has one."""
    last = []
    for member in _members(model):
        dense = [layer for layer in member.layers if isinstance(layer, layers.Dense)]
        last += [layer for layer in dense[-1:] if layer.units == member.output_shape[-1]]
    return last


def _members(model: keras.Model) -> list[keras.Model]:
    if not isinstance(model.layers[-1], layers.Average):
        return [model]
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]
