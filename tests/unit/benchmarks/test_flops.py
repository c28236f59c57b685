"""Operations counted from layers are those of the graph that TensorFlow builds for them."""

from collections.abc import Callable
from math import prod
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.flops import flops_of, gan_step_flops, layer_flops
from echo_models.gan.options import GAN_SCHEDULES
from echo_models.gan.step import SemiSupervisedGan
from echo_models.networks import build_view_classifier
from tests.toy import TOY_PRESET

BATCH = 2


def counted_in_graph(function: Callable[[], object]) -> int:
    """Count convolutions and matrix products of a traced function from the shapes of its tensors."""
    graph = tf.function(function).get_concrete_function().graph
    return sum(map(_node_flops, _needed(graph)))


def _needed(graph: Any) -> set[Any]:
    """Find the nodes that outputs and assignments rest on; TensorFlow runs no others."""
    waiting = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    found: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [*(tensor.op for tensor in node.inputs), *node.control_inputs]
    return found


def _node_flops(node: Any) -> int:
    def shape(tensor: Any) -> list[int]:
        return [int(size) for size in tensor.shape]

    match node.type:
        case "Conv2D":  # each place of the output, by the kernel
            return 2 * prod(shape(node.outputs[0])[:-1]) * prod(shape(node.inputs[1]))
        case "Conv2DBackpropInput":  # inputs: sizes, kernel, gradient of the output
            return 2 * prod(shape(node.inputs[2])[:-1]) * prod(shape(node.inputs[1]))
        case "Conv2DBackpropFilter":  # inputs: input, sizes, gradient of the output
            return 2 * prod(shape(node.inputs[2])[:-1]) * prod(shape(node.outputs[0]))
        case "MatMul":
            inner = shape(node.inputs[0])[0 if node.get_attr("transpose_a") else 1]
            return 2 * prod(shape(node.outputs[0])) * inner
        case _:
            return 0


def test_a_convolution_does_its_kernel_at_each_place_of_its_output() -> None:
    frames = keras.Input((12, 16, 3))
    layer = keras.layers.Conv2D(5, 3, strides=2, padding="same")
    layer(frames)
    assert layer_flops(layer) == 2 * (6 * 8) * (3 * 3 * 3 * 5)


def test_a_transposed_convolution_does_its_kernel_at_each_place_of_its_input() -> None:
    frames = keras.Input((4, 4, 3))
    layer = keras.layers.Conv2DTranspose(5, 4, strides=2)
    layer(frames)
    assert layer_flops(layer) == 2 * (4 * 4) * (4 * 4 * 3 * 5)


def test_a_dense_layer_multiplies_each_input_with_each_unit() -> None:
    layer = keras.layers.Dense(7)
    layer(keras.Input((11,)))
    assert layer_flops(layer) == 2 * 11 * 7


def test_a_network_without_kernels_is_refused() -> None:
    frames = keras.Input((4, 4, 1))
    with pytest.raises(ValueError, match="has none"):
        flops_of(keras.Model(frames, keras.layers.ReLU()(frames)))


def test_learning_of_the_view_cnn_is_as_many_operations_as_in_its_graph() -> None:
    model = build_view_classifier(TOY_PRESET, "average")
    frames = tf.constant(np.zeros((BATCH, *model.input_shape[1:]), np.float32))

    def learn() -> object:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(frames, training=True))
        return tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    assert counted_in_graph(lambda: model(frames)) == BATCH * flops_of(model).forward
    assert counted_in_graph(learn) == BATCH * flops_of(model).learning


def test_a_step_of_the_gan_is_as_many_operations_as_in_its_graph() -> None:
    gan = SemiSupervisedGan(TOY_PRESET, 2)
    gan.compile(GAN_SCHEDULES["paper"])
    size = TOY_PRESET.gan_size
    frames = tf.constant(np.zeros((BATCH, size, size, 1), np.float32))
    labels = tf.constant([0, 1])
    counted = counted_in_graph(lambda: gan.train_step(((frames, frames), labels)))
    # The heads are counted in each pass, and not run where no loss looks at them: a few operations.
    assert counted == pytest.approx(BATCH * gan_step_flops(gan.generator, gan.discriminator), rel=1e-4)
