"""The paper's transfer baselines: ImageNet networks with a new head (paper, Methods, "Transfer learning").

Weights come from a file, since a hospital's machine often cannot download them: the `notop` files that
Keras publishes for its applications. Without one a network starts from random convolutions, and
whoever trains it says so.
"""

import warnings
from pathlib import Path
from typing import Final

import keras
from keras import layers

from echo_models.errors import TrainingError
from echo_models.views import VIEWS

SIZE: Final = 224
"""Rows and columns that both networks were made for (paper, Methods)."""

_IMAGENET_MEAN_BGR: Final = (103.939, 116.779, 123.68)
"""What both networks subtract from blue, green and red, 0 to 255 (He 2016, Simonyan 2015)."""


def build_resnet50(
    weights: Path | None, classes: int = len(VIEWS), size: int = SIZE, name: str = "resnet50_views"
) -> keras.Model:
    """Build ResNet50 with the paper's head: batch normalisation and softmax. All of it learns.

    Args:
        weights: ImageNet weights without top; None for random ones.
        classes: K.
        size: rows and columns.
        name: of the model.

    Input shape:
        [N, size, size, 1], float32, 0 to 1.

    Output shape:
        [N, K], float32 probabilities.

    Raises:
        TrainingError: if the weights cannot be read, or are another network's.
    """
    frames = keras.Input((size, size, 1), name="frames")
    base = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    _load(base, weights)
    x = layers.BatchNormalization()(base(_as_imagenet(frames)))
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(frames, layers.Softmax(name="probabilities")(logits), name=name)


def build_vgg16(
    weights: Path | None,
    *,
    units: tuple[int, ...],
    l2: float,
    dropout: float,
    classes: int = len(VIEWS),
    size: int = SIZE,
    name: str = "vgg16_views",
) -> keras.Model:
    """Build VGG16 with the dense layers of the view CNN, Xavier uniform.

    Its stages train the head first and then everything: see `convolutional_base`.

    Args:
        weights: ImageNet weights without top; None for random ones.
        units: of the dense layers.
        l2: their weight decay.
        dropout: after each of them.
        classes: K.
        size: rows and columns.
        name: of the model.

    Input shape:
        [N, size, size, 1], float32, 0 to 1.

    Output shape:
        [N, K], float32 probabilities.

    Raises:
        TrainingError: if the weights cannot be read, or are another network's.
    """
    frames = keras.Input((size, size, 1), name="frames")
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    _load(base, weights)
    x = layers.Flatten()(base(_as_imagenet(frames)))
    for width in units:
        x = layers.Dense(width, kernel_regularizer=keras.regularizers.L2(l2))(x)
        x = layers.Dropout(dropout)(layers.ReLU()(layers.BatchNormalization()(x)))
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(frames, layers.Softmax(name="probabilities")(logits), name=name)


def convolutional_base(model: keras.Model) -> keras.Model:
    """Give the ImageNet network inside a transfer model."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def _as_imagenet(frames: keras.KerasTensor) -> keras.KerasTensor:
    """Make three channels of one, 0 to 255, less the mean of ImageNet's pixels."""
    bytes_like = layers.Rescaling(255.0)(frames)
    return layers.Concatenate()(
        [layers.Rescaling(1.0, offset=-mean)(bytes_like) for mean in _IMAGENET_MEAN_BGR]
    )


def _load(base: keras.Model, weights: Path | None) -> None:
    if weights is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a layer whose weights are missing is only warned of
            base.load_weights(weights)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise TrainingError(
            f"{weights} must hold Keras' ImageNet weights of {base.name} without top; they cannot be "
            f"loaded ({type(error).__name__}). Take the `notop` file of keras.applications"
        ) from error
