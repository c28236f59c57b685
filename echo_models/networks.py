"""The networks of the paper, and the small ones that ship.

`PRESETS["paper"]` has the paper's widths. `PRESETS["small"]` is for two CPU cores; each way in which
it differs says why beside its value. All are functional graphs of layers Keras has itself, so a saved
model loads without any code of this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import keras
from keras import layers

from echo_models.preprocessing import COLUMNS, ROWS
from echo_models.views import VIEWS

Pooling = Literal["max", "average"]

Head = Literal["sigmoid", "k_plus_1"]
"""How the GAN's discriminator tells real from generated: see `build_discriminator`."""

GAN_SIZE: Final = 110
"""Rows and columns of the semi-supervised GAN's frames (paper, Methods, "GAN")."""

_GENERATOR_LEVELS: Final = {28: (7, 14), 56: (7, 14, 28), GAN_SIZE: (7, 14, 28, 56)}
"""Sizes between 4 x 4 and that of the frames. 28 is for public digits and garments, and, with 56, for
experiments that must end in minutes."""

LEAK: Final = 0.2
"""Slope of the discriminator's leaky ReLU (paper, Methods, "GAN")."""


_EXACT: Final = "float32"
"""What losses are computed from stays exact where the rest of a network computes in bfloat16."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Widths and strengths of one family of networks.

    Attributes:
        stem_pool: the frame is averaged over squares of this many pixels first; 1 for not at all.
        unet_filters: filters of each level of the U-Net, finest first.
        unet_dropout: before the first up-convolution.
        cnn_filters: filters of each pair of convolutions.
        cnn_dense: units of the dense layers.
        view_l2: weight decay of the view CNN's dense layers.
        view_dropout: after each of them.
        hypertrophy_l2: weight decay of the LVH CNN's dense layers.
        hypertrophy_dropout: after each of them.
        batch_norm_momentum: share of the running averages that a step keeps.
        noise: length of the generator's input, its one-hot class included.
        generator_filters: filters at 56 x 56; the start has 16 times as many.
        discriminator_filters: filters of the blocks, then of the 1 x 1 convolution.
        input_dropout: before the discriminator's first convolution.
        block_dropout: after each of its down-steps.
        gan_size: rows and columns of the GAN's frames: 110, 56 or 28.
    """

    stem_pool: int
    unet_filters: tuple[int, ...]
    unet_dropout: float
    cnn_filters: tuple[int, ...]
    cnn_dense: tuple[int, ...]
    view_l2: float
    view_dropout: float
    hypertrophy_l2: float
    hypertrophy_dropout: float
    batch_norm_momentum: float
    noise: int
    generator_filters: int
    discriminator_filters: tuple[int, ...]
    input_dropout: float
    block_dropout: float
    gan_size: int = GAN_SIZE


PRESETS: Final = {
    "paper": Preset(
        stem_pool=1,
        unet_filters=(64, 128, 256, 512),
        unet_dropout=0.5,
        cnn_filters=(16, 32, 64, 128),
        cnn_dense=(1024, 512),
        view_l2=0.02,
        view_dropout=0.5,
        hypertrophy_l2=0.03,
        hypertrophy_dropout=0.4,
        batch_norm_momentum=0.99,
        noise=100,
        generator_filters=64,
        discriminator_filters=(64, 128, 256, 512, 1024),
        input_dropout=0.2,
        block_dropout=0.5,
    ),
    "small": Preset(
        # 60 x 80 cost the paper 0.8 points of accuracy (its Table 1) and costs a quarter of the time.
        stem_pool=2,
        unet_filters=(16, 32, 64),  # three levels below a stem of 2 end at 15 x 20, as the paper's four
        unet_dropout=0.3,
        cnn_filters=(16, 32, 64, 64),
        cnn_dense=(128, 64),
        view_l2=1e-4,  # with few units 0.02 outweighs the cross-entropy and nothing is learned
        view_dropout=0.3,  # likewise
        hypertrophy_l2=1e-4,
        hypertrophy_dropout=0.3,
        batch_norm_momentum=0.9,  # runs of a few hundred steps end before 0.99 has settled
        noise=32,
        generator_filters=8,
        discriminator_filters=(16, 32, 64, 64, 64),
        input_dropout=0.1,
        block_dropout=0.3,
    ),
}


# --- segmentation -----------------------------------------------------------------------------------


def build_unet(preset: Preset, name: str = "unet") -> keras.Model:
    """Build the U-Net that outlines the field of view or the left ventricle (paper, Methods).

    Pairs of 3 x 3 same-padded ReLU convolutions, dropout before the first up-convolution, pixel-wise
    softmax over outside and inside.

    Input shape:
        [N, 120, 160, 1], float32, 0 to 1.

    Output shape:
        [N, 120, 160, 2], float32 probabilities of outside and inside.
    """
    frames = keras.Input((ROWS, COLUMNS, 1), name="frames")
    x = _stem(frames, preset)
    skips = []
    for level, filters in enumerate(preset.unet_filters):
        if level:
            x = layers.MaxPooling2D(2)(x)
        x = _unet_pair(x, filters)
        skips.append(x)
    x = layers.Dropout(preset.unet_dropout)(x)
    for filters, skip in zip(preset.unet_filters[-2::-1], skips[-2::-1], strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, activation="relu")(x)
        x = _unet_pair(layers.Concatenate()([skip, x]), filters)
    logits = layers.Conv2D(2, 1, name="logits", dtype=_EXACT)(x)
    if preset.stem_pool > 1:
        logits = layers.UpSampling2D(preset.stem_pool, interpolation="bilinear", dtype=_EXACT)(logits)
    return keras.Model(frames, layers.Softmax(name="probabilities", dtype=_EXACT)(logits), name=name)


def _unet_pair(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    return x


# --- classification ---------------------------------------------------------------------------------


def build_view_classifier(
    preset: Preset,
    pooling: Pooling = "average",
    classes: int = len(VIEWS),
    name: str = "view_classifier",
    *,
    rows: int = ROWS,
    columns: int = COLUMNS,
    first_kernel: int = 3,
) -> keras.Model:
    """Build the VGG-like CNN that names the view (paper, Methods, "View classification").

    Args:
        preset: widths and strengths.
        classes: how many views.
        name: of the model; members of an ensemble need different ones.
        pooling: "max" for plain frames, "average" for frames masked by their field of view.
        rows: height of the frames (paper, "resolution study").
        columns: width of the frames.
        first_kernel: size of the filters of the first pair; the paper has 7 at 240 x 320.

    Input shape:
        [N, rows, columns, 1], float32, 0 to 1.

    Output shape:
        [N, classes], float32 probabilities.
    """
    frames = keras.Input((rows, columns, 1), name="frames")
    x = _convolutions(_stem(frames, preset), preset, pooling, first_kernel)
    x = _dense_layers(x, preset, l2=preset.view_l2, dropout=preset.view_dropout)
    logits = layers.Dense(classes, name="logits", dtype=_EXACT)(x)
    return keras.Model(frames, layers.Softmax(name="probabilities", dtype=_EXACT)(logits), name=name)


def build_ensemble(members: Sequence[keras.Model], name: str = "ensemble") -> keras.Model:
    """Join classifiers into one whose probabilities are the mean of theirs (paper, "ensemble").

    Input shape:
        That of the members.

    Output shape:
        That of the members.

    Raises:
        ValueError: if there are fewer than two, or two have the same name.
    """
    names = [member.name for member in members]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"an ensemble needs at least two members with different names; received {names}")
    frames = keras.Input(members[0].input_shape[1:], name="frames")
    mean = layers.Average(name="probabilities")([member(frames) for member in members])
    return keras.Model(frames, mean, name=name)


def build_hypertrophy_classifier(
    preset: Preset, name: str = "hypertrophy_classifier", views: keras.Model | None = None
) -> keras.Model:
    """Build the CNN that tells hypertrophy in an a4c frame masked by its left ventricle (paper, "LVH").

    The view CNN with average pooling, other weight decay and dropout, and one sigmoid unit.

    Args:
        preset: widths and strengths.
        name: of the model.
        views: a view classifier of the same preset whose convolutions this one starts from; dense
            layers start from Xavier uniform. From random convolutions the paper's failed to learn.

    Input shape:
        [N, 120, 160, 1], float32, 0 to 1.

    Output shape:
        [N, 1], float32 probability of hypertrophy.
    """
    frames = keras.Input((ROWS, COLUMNS, 1), name="frames")
    x = _convolutions(_stem(frames, preset), preset, "average")
    x = _dense_layers(x, preset, l2=preset.hypertrophy_l2, dropout=preset.hypertrophy_dropout)
    logit = layers.Dense(1, name="logit", dtype=_EXACT)(x)
    probability = layers.Activation("sigmoid", name="probability", dtype=_EXACT)(logit)
    model = keras.Model(frames, probability, name=name)
    if views is not None:
        for layer in convolution_layers(model):
            layer.set_weights(views.get_layer(layer.name).get_weights())
    return model


def convolution_layers(classifier: keras.Model) -> list[keras.Layer]:
    """List the layers a hypertrophy classifier shares with a view classifier, input first."""
    return [layer for layer in classifier.layers if layer.name.startswith("conv")]


def logits_of(model: keras.Model) -> keras.Model:
    """Give the same network without its last layer, which turns logits into probabilities.

    Both share every weight: training the one trains the other.

    Raises:
        ValueError: if the last layer does more than that.
    """
    last = model.layers[-1]
    if not isinstance(last, layers.Softmax | layers.Activation):
        raise ValueError(  # noqa: TRY004 - the network is of the right type and wrongly built
            f"a network to train ends in a layer that only turns logits into probabilities; {model.name} "
            f"ends in {type(last).__name__}. Give its last activation a layer of its own"
        )
    return keras.Model(model.input, last.input, name=f"{model.name}_logits")


def _stem(frames: keras.KerasTensor, preset: Preset) -> keras.KerasTensor:
    return layers.AveragePooling2D(preset.stem_pool, name="stem")(frames) if preset.stem_pool > 1 else frames


def _convolutions(
    x: keras.KerasTensor, preset: Preset, pooling: Pooling, first_kernel: int = 3
) -> keras.KerasTensor:
    pool = layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D
    for block, filters in enumerate(preset.cnn_filters, start=1):
        kernel = first_kernel if block == 1 else 3
        for place in "ab":
            x = layers.Conv2D(filters, kernel, padding="same", use_bias=False, name=f"conv{block}{place}")(x)
            x = layers.BatchNormalization(
                momentum=preset.batch_norm_momentum, name=f"conv{block}{place}_normalization"
            )(x)
            x = layers.ReLU()(x)
        if min(x.shape[1:3]) > 1:  # a frame of 15 x 20 is a single row after three
            x = pool(2)(x)
    return layers.Flatten()(x)


def _dense_layers(x: keras.KerasTensor, preset: Preset, *, l2: float, dropout: float) -> keras.KerasTensor:
    for units in preset.cnn_dense:
        x = layers.Dense(units, kernel_regularizer=keras.regularizers.L2(l2))(x)
        x = layers.BatchNormalization(momentum=preset.batch_norm_momentum)(x)
        x = layers.ReLU()(x)
        x = layers.Dropout(dropout)(x)
    return x


# --- the semi-supervised GAN ------------------------------------------------------------------------


def build_generator(preset: Preset, name: str = "generator") -> keras.Model:
    """Build the network that draws frames from noise (paper, Methods, "GAN").

    Transposed convolutions with batch normalisation and ReLU: 1, 4, 7, 14, 28, 56, two 3 x 3 at 56,
    then 110 and tanh. For frames of 56 or 28 it ends one or two levels earlier.

    Input shape:
        [N, noise], float32, the first entries a one-hot class.

    Output shape:
        [N, 110, 110, 1], float32, -1 to 1.
    """
    levels = _GENERATOR_LEVELS[preset.gan_size]
    filters = [preset.generator_filters * 2**power for power in range(len(levels), -1, -1)]
    noise = keras.Input((preset.noise,), name="noise")
    x = layers.Reshape((1, 1, preset.noise))(noise)
    x = _generator_step(x, preset, filters[0], kernel=4, stride=1, crop=0)  # 4 x 4
    x = _generator_step(x, preset, filters[1], kernel=3, stride=2, crop=1)  # 7 x 7
    for width in filters[2:]:
        x = _generator_step(x, preset, width, kernel=4, stride=2, crop=1)  # 14, 28, 56
    for _ in range(2):
        x = layers.Conv2D(filters[-1], 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=preset.batch_norm_momentum)(x))
    x = layers.Conv2DTranspose(1, 4, strides=2, activation="tanh")(x)
    crop = (2 * levels[-1] + 2 - preset.gan_size) // 2  # 114 -> 110
    return keras.Model(noise, layers.Cropping2D(crop, name="generated", dtype=_EXACT)(x), name=name)


def _generator_step(
    x: keras.KerasTensor, preset: Preset, filters: int, *, kernel: int, stride: int, crop: int
) -> keras.KerasTensor:
    x = layers.Conv2DTranspose(filters, kernel, strides=stride, use_bias=False)(x)
    x = layers.Cropping2D(crop)(x) if crop else x
    return layers.ReLU()(layers.BatchNormalization(momentum=preset.batch_norm_momentum)(x))


def build_discriminator(
    preset: Preset, classes: int, name: str = "discriminator", *, head: Head = "sigmoid"
) -> keras.Model:
    """Build the network that names the class and tells real from generated (paper, Methods, "GAN").

    Blocks of two 3 x 3 convolutions and one of stride 2, each with batch normalisation (not the very
    first) and leaky ReLU, dropout after each down-step; a 1 x 1 convolution, 2 x 2 max pooling.

    Args:
        preset: widths; a block for each but the last.
        classes: K.
        name: of the model.
        head: "sigmoid": one unit, linear in the logits. "k_plus_1": softmax over the K classes and
            "generated", whose own logit is held at 0, which takes nothing away since a softmax knows
            differences only (Salimans et al. 2016, section 5). Then
            p(y = K + 1 | x) = 1 / (1 + sum exp(logits)), so that the logit of "real" is log sum exp.

    Input shape:
        [N, 110, 110, 1], float32, -1 to 1.

    Output shape:
        "logits" [N, classes]; "real_logit" [N, 1]; "features" [N, F], what the logits are linear in.
    """
    frames = keras.Input((preset.gan_size, preset.gan_size, 1), name="frames")
    x = layers.Dropout(preset.input_dropout)(frames)
    first = True
    for filters in preset.discriminator_filters[:-1]:
        for stride in (1, 1, 2):
            x = layers.Conv2D(filters, 3, strides=stride, padding="same")(x)
            if not first:
                x = layers.BatchNormalization(momentum=preset.batch_norm_momentum)(x)
            x = layers.LeakyReLU(LEAK)(x)
            first = False
        x = layers.Dropout(preset.block_dropout)(x)
    x = layers.Conv2D(preset.discriminator_filters[-1], 1)(x)
    x = layers.BatchNormalization(momentum=preset.batch_norm_momentum)(x)
    x = layers.LeakyReLU(LEAK)(x)
    features = layers.Flatten(name="features", dtype=_EXACT)(layers.MaxPooling2D(2)(x))  # 7 x 7 -> 3 x 3
    logits = layers.Dense(classes, name="logits", dtype=_EXACT)(features)
    if head == "sigmoid":
        real_logit = layers.Dense(1, name="real_logit", dtype=_EXACT)(logits)
    else:
        real_logit = keras.ops.logsumexp(logits, axis=1, keepdims=True)
    outputs = {"logits": logits, "real_logit": real_logit, "features": features}
    return keras.Model(frames, outputs, name=name)


def build_discriminator_classifier(
    discriminator: keras.Model, name: str = "discriminator_classifier"
) -> keras.Model:
    """Make the classifier that a trained discriminator is, reading frames as every network here does.

    Input shape:
        [N, 110, 110, 1], float32, 0 to 1.

    Output shape:
        [N, classes], float32 probabilities.
    """
    frames = keras.Input(discriminator.input_shape[1:], name="frames")
    signed = layers.Rescaling(2.0, offset=-1.0)(frames)
    probabilities = layers.Softmax(name="probabilities")(discriminator(signed)["logits"])
    return keras.Model(frames, probabilities, name=name)
