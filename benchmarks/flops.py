"""How many floating-point operations networks and their training steps are, counted from their layers.

A multiplication and its addition are two operations. Convolutions, transposed convolutions and dense layers
are counted; normalisation, activations, pooling, losses and the optimizer are not: they are few operations,
though not little time. A layer's two gradients, of its kernel and of its input, are each as many as its
output is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import keras
from keras import layers


@dataclass(frozen=True, slots=True)
class Flops:
    """Operations of a network for one frame.

    Attributes:
        forward: of its output; as many again are the gradients of all its kernels.
        first: of `forward`, those of the layer that reads the frame itself: its input's gradient is wanted
            only where something before it learns.
    """

    forward: int
    first: int

    @property
    def learning(self) -> int:
        """Output, and the gradients by which the network learns."""
        return 3 * self.forward - self.first

    @property
    def passing(self) -> int:
        """Output, and the gradient of the frame, by which something before the network learns."""
        return 2 * self.forward


def flops_of(model: keras.Model) -> Flops:
    """Count a network.

    Raises:
        ValueError: if it has no layer that is counted.
    """
    counts = [layer_flops(layer) for layer in kernel_layers(model)]
    if not counts:
        raise ValueError(f"a network to count has convolutions or dense layers; {model.name} has none")
    return Flops(sum(counts), counts[0])


def kernel_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """List the layers that are counted, the one that reads the frame first; members of an ensemble too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from kernel_layers(layer)
        elif isinstance(layer, layers.Conv2D | layers.Conv2DTranspose | layers.Dense):
            yield layer


def layer_flops(layer: keras.Layer) -> int:
    """Count one layer for one frame.

    A convolution does its kernel once for each place of its output, a transposed one for each place of its
    input.
    """
    is_transposed = isinstance(layer, layers.Conv2DTranspose)
    (_, *places, _) = _shape(layer.input if is_transposed else layer.output)
    kernel: Sequence[int] = layer.kernel.shape
    return 2 * prod(places) * prod(kernel)


def gan_step_flops(generator: keras.Model, discriminator: keras.Model) -> int:
    """Count a step of the semi-supervised GAN, for one labeled, one unlabeled and two generated frames.

    The discriminator learns from a labeled, an unlabeled and a generated frame, which the generator only
    draws. The generator learns from another one, through the discriminator, compared with the features of
    the unlabeled frame (`echo_models.gan.step`). The heads are counted in each pass, though the generator's
    loss does not look at them: fewer than one operation in a thousand.
    """
    drawn, seen = flops_of(generator), flops_of(discriminator)
    of_discriminator = drawn.forward + 3 * seen.learning
    of_generator = drawn.learning + seen.passing + seen.forward
    return of_discriminator + of_generator


def _shape(tensor: keras.KerasTensor) -> Sequence[int]:
    shape: Sequence[int] = tensor.shape
    return shape
