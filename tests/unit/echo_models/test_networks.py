import keras
import numpy as np
import pytest

from echo_models.networks import (
    PRESETS,
    Preset,
    build_discriminator,
    build_discriminator_classifier,
    build_ensemble,
    build_generator,
    build_hypertrophy_classifier,
    build_unet,
    build_view_classifier,
    convolution_layers,
)
from tests.toy import TOY_PRESET

PAPER = PRESETS["paper"]


def conv(kernel: int, inputs: int, filters: int, *, bias: bool = True) -> int:
    return kernel * kernel * inputs * filters + bias * filters


def test_the_papers_unet_has_the_papers_parameters() -> None:
    # Levels of 64, 128, 256 and 512; pairs of 3 x 3; 2 x 2 up-convolutions; two classes.
    widths = (64, 128, 256, 512)
    down = sum(
        conv(3, before, width) + conv(3, width, width)
        for before, width in zip((1, *widths), widths, strict=False)
    )
    up = sum(
        conv(2, 2 * width, width) + conv(3, 2 * width, width) + conv(3, width, width) for width in widths[:-1]
    )
    assert build_unet(PAPER).count_params() == down + up + conv(1, 64, 2) == 7_696_258


def test_the_papers_unet_has_its_levels_and_drops_before_the_first_way_up() -> None:
    names = [type(layer).__name__ for layer in build_unet(PAPER).layers]
    assert names.count("Dropout") == 1
    up = names.index("Conv2DTranspose")
    assert names[up - 1] == "Dropout"
    down = build_unet(PAPER).layers[: up - 1]
    convolutions = [layer for layer in down if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.filters, *layer.output.shape[1:3]) for layer in convolutions] == [
        (filters, 120 // shrunk, 160 // shrunk)
        for filters, shrunk in ((64, 1), (128, 2), (256, 4), (512, 8))
        for _ in "ab"
    ]
    assert {(layer.kernel_size, layer.padding, layer.activation.__name__) for layer in convolutions} == {
        ((3, 3), "same", "relu")
    }


@pytest.mark.parametrize(("rows", "columns", "kernel"), [(120, 160, 3), (240, 320, 7)])
def test_the_papers_cnn_normalises_each_convolution_and_pools_each_pair(
    rows: int, columns: int, kernel: int
) -> None:
    model = build_view_classifier(PAPER, "max", rows=rows, columns=columns, first_kernel=kernel)
    convolution = ["Conv2D", "BatchNormalization", "ReLU"]
    names = [type(layer).__name__ for layer in model.layers]
    assert names[1 : names.index("Flatten")] == (2 * convolution + ["MaxPooling2D"]) * 4
    dense = ["Dense", "BatchNormalization", "ReLU", "Dropout"]
    assert names[names.index("Flatten") + 1 :] == [*dense, *dense, "Dense", "Softmax"]
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.kernel_size[0] for layer in convolutions] == [kernel, kernel, 3, 3, 3, 3, 3, 3]
    assert not any(layer.use_bias for layer in convolutions)


def convolutions_of_the_cnn() -> int:
    # Pairs without bias, each with batch normalisation (four numbers a filter).
    widths = (16, 32, 64, 128)
    return sum(
        conv(3, before, width, bias=False) + conv(3, width, width, bias=False) + 2 * 4 * width
        for before, width in zip((1, *widths), widths, strict=False)
    )


def dense_of_the_cnn(outputs: int) -> int:
    features = (120 // 16) * (160 // 16) * 128
    return features * 1024 + 1024 + 4 * 1024 + 1024 * 512 + 512 + 4 * 512 + 512 * outputs + outputs


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_papers_view_classifier_has_the_papers_parameters(pooling: str) -> None:
    model = build_view_classifier(PAPER, pooling)  # type: ignore[arg-type]
    assert model.count_params() == convolutions_of_the_cnn() + dense_of_the_cnn(15) == 10_009_375
    wanted = keras.layers.MaxPooling2D if pooling == "max" else keras.layers.AveragePooling2D
    assert sum(isinstance(layer, wanted) for layer in model.layers) == 4


def test_the_papers_hypertrophy_classifier_is_the_same_cnn_with_one_unit() -> None:
    model = build_hypertrophy_classifier(PAPER)
    assert model.count_params() == convolutions_of_the_cnn() + dense_of_the_cnn(1)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
    assert [layer.units for layer in dense] == [1024, 512]
    assert [float(layer.kernel_regularizer.l2) for layer in dense] == pytest.approx([0.03, 0.03])
    assert {type(layer.kernel_initializer).__name__ for layer in dense} == {"GlorotUniform"}  # Xavier
    assert sum(isinstance(layer, keras.layers.AveragePooling2D) for layer in model.layers) == 4
    dropout = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropout == [0.4, 0.4]


def test_the_papers_view_classifier_decays_and_drops_as_the_paper() -> None:
    model = build_view_classifier(PAPER)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
    assert [float(layer.kernel_regularizer.l2) for layer in dense] == pytest.approx([0.02, 0.02])
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]


def test_the_papers_generator_goes_through_the_papers_sizes() -> None:
    model = build_generator(PAPER)
    sizes = [
        layer.output.shape[1:]
        for layer in model.layers
        if isinstance(layer, keras.layers.ReLU | keras.layers.Reshape)
    ]
    assert sizes == [
        (1, 1, 100),
        (4, 4, 1024),
        (7, 7, 512),
        (14, 14, 256),
        (28, 28, 128),
        (56, 56, 64),
        (56, 56, 64),
        (56, 56, 64),
    ]
    assert model.output_shape == (None, 110, 110, 1)


def test_the_papers_discriminator_has_9216_features_and_its_dropouts() -> None:
    model = build_discriminator(PAPER, 15)
    shapes = {name: output.shape for name, output in model.output.items()}
    assert shapes == {"features": (None, 9216), "logits": (None, 15), "real_logit": (None, 1)}
    assert model.get_layer("real_logit").kernel.shape == (15, 1)
    dropout = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropout == [0.2, 0.5, 0.5, 0.5, 0.5]
    widths = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert widths == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3 + [1024]
    # The first convolution alone has no batch normalisation.
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == 12


@pytest.mark.parametrize("preset", [PRESETS["small"], TOY_PRESET], ids=["small", "toy"])
def test_every_network_gives_probabilities_of_the_promised_shape(preset: Preset) -> None:
    frames = np.random.default_rng(0).random((2, 120, 160, 1), np.float32)
    outlines = build_unet(preset).predict_on_batch(frames)
    assert outlines.shape == (2, 120, 160, 2)
    assert np.allclose(outlines.sum(axis=-1), 1, atol=1e-5)
    views = build_view_classifier(preset).predict_on_batch(frames)
    assert views.shape == (2, 15)
    assert np.allclose(views.sum(axis=-1), 1, atol=1e-5)
    hypertrophy = build_hypertrophy_classifier(preset).predict_on_batch(frames)
    assert hypertrophy.shape == (2, 1)
    assert ((hypertrophy >= 0) & (hypertrophy <= 1)).all()
    generated = build_generator(preset).predict_on_batch(np.zeros((2, preset.noise), np.float32))
    assert generated.shape == (2, 110, 110, 1)
    assert np.abs(generated).max() <= 1
    classifier = build_discriminator_classifier(build_discriminator(preset, 2))
    assert np.allclose(classifier.predict_on_batch(generated / 2 + 0.5).sum(axis=-1), 1, atol=1e-5)


def test_an_ensemble_gives_the_mean_of_its_members() -> None:
    members = [build_view_classifier(TOY_PRESET, name=f"member_{n}") for n in range(3)]
    frames = np.random.default_rng(0).random((2, 120, 160, 1), np.float32)
    mean = np.mean([member.predict_on_batch(frames) for member in members], axis=0)
    assert np.allclose(build_ensemble(members).predict_on_batch(frames), mean, atol=1e-6)


def test_an_ensemble_of_one_or_of_namesakes_is_refused() -> None:
    member = build_view_classifier(TOY_PRESET)
    with pytest.raises(ValueError, match="at least two members with different names"):
        build_ensemble([member])
    with pytest.raises(ValueError, match="at least two members with different names"):
        build_ensemble([member, build_view_classifier(TOY_PRESET)])


def test_hypertrophy_starts_from_the_convolutions_of_the_view_classifier() -> None:
    views = build_view_classifier(TOY_PRESET)
    model = build_hypertrophy_classifier(TOY_PRESET, views=views)
    shared = convolution_layers(model)
    assert len(shared) == 8  # two pairs, a convolution and a normalisation each
    for layer in shared:
        for ours, theirs in zip(layer.get_weights(), views.get_layer(layer.name).get_weights(), strict=True):
            assert np.array_equal(ours, theirs)
