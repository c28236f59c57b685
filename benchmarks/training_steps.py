"""How fast training steps are, beside what their FLOPs would take at the rate of a bare matrix product.

A step is what training does: `train_on_batch` of the view CNN, and of the semi-supervised GAN, on a batch
that is ready. Its operations are counted from the layers (`benchmarks.flops`). In the same rounds a large
float32 matrix product is timed, the best the machine does, and the network's own convolutions and dense
layers alone, each with both gradients: what is left between these and the step is normalisation,
activations, pooling, losses and the optimizer.

    python -m benchmarks.training_steps [--quick] [--json] [--preset small|paper]
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.flops import flops_of, gan_step_flops, kernel_layers, layer_flops
from benchmarks.rounds import Aim, Row, Spread, in_turn, parser_of, quietly, ratios, tell
from echo_models.gan.options import GAN_SCHEDULES
from echo_models.gan.step import SemiSupervisedGan
from echo_models.networks import PRESETS, Preset, build_view_classifier, logits_of
from echo_models.training import SCHEDULES
from echo_models.views import VIEWS
from tests.toy import TOY_PRESET

GRADES: Final = 2


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        batch_size: of the view CNN and of the GAN; None for those of their schedules.
        side: rows and columns of the matrices.
    """

    batch_size: int | None
    side: int
    rounds: int


QUICK: Final = Size(batch_size=4, side=256, rounds=2)
FULL: Final = Size(batch_size=None, side=3072, rounds=9)


@dataclass(frozen=True, slots=True)
class Step:
    """A training step, ready to be repeated.

    Attributes:
        flops: of the whole step.
        own_layers: runs the kernels of its networks alone.
        own_flops: of that.
    """

    name: str
    run: Callable[[], object]
    flops: int
    own_layers: Callable[[], object]
    own_flops: int
    batch_size: int


def view_step(preset: Preset, batch_size: int) -> Step:
    """Make a step of the view CNN, as `echo_models.fitting.fit` takes it."""
    model = build_view_classifier(preset, "average")
    learner = logits_of(model)
    learner.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    frames = rng.random((batch_size, *model.input_shape[1:]), np.float32)
    labels = rng.integers(0, len(VIEWS), batch_size)
    own_layers, own_flops = layers_alone([model], batch_size)
    return Step(
        name="view CNN",
        run=lambda: learner.train_on_batch(frames, labels),
        flops=batch_size * flops_of(model).learning,
        own_layers=own_layers,
        own_flops=own_flops,
        batch_size=batch_size,
    )


def gan_step(preset: Preset, batch_size: int) -> Step:
    """Make a step of the semi-supervised GAN."""
    gan = SemiSupervisedGan(preset, GRADES)
    gan.compile(GAN_SCHEDULES["paper"])
    rng = np.random.default_rng(0)
    shape = (batch_size, preset.gan_size, preset.gan_size, 1)
    labeled, unlabeled = (rng.random(shape, np.float32) * 2 - 1 for _ in range(2))
    labels = rng.integers(0, GRADES, batch_size)
    own_layers, own_flops = layers_alone([gan.generator, gan.discriminator], batch_size)
    return Step(
        name="GAN",
        run=lambda: gan.train_on_batch((labeled, unlabeled), labels),
        flops=batch_size * gan_step_flops(gan.generator, gan.discriminator),
        own_layers=own_layers,
        own_flops=own_flops,
        batch_size=batch_size,
    )


def layers_alone(models: list[keras.Model], batch_size: int) -> tuple[Callable[[], object], int]:
    """Give what runs each kernel of some networks with both its gradients, and how many FLOPs that is."""
    chosen = [layer for model in models for layer in kernel_layers(model)]
    inputs = [tf.random.normal((batch_size, *layer.input.shape[1:])) for layer in chosen]

    @tf.function
    def run() -> list[Any]:
        results = []
        for layer, given in zip(chosen, inputs, strict=True):
            with tf.GradientTape() as tape:
                tape.watch(given)
                output = layer(given)
            # Sums, so that nothing is left out as unused, and nothing large is kept.
            gradients = tape.gradient(output, [given, layer.kernel.value])
            results += [tf.reduce_sum(gradient) for gradient in gradients]
        return results

    flops = 3 * batch_size * sum(map(layer_flops, chosen))
    return lambda: [result.numpy() for result in run()], flops


def matrix_product(side: int) -> tuple[Callable[[], object], int]:
    """Give a product of two square float32 matrices, and how many FLOPs it is."""
    left, right = (tf.random.normal((side, side)) for _ in range(2))
    return lambda: tf.reduce_sum(tf.linalg.matmul(left, right)).numpy(), 2 * side**3


def rows_of(step: Step, size: Size, preset: str) -> Iterator[Row]:
    """Run a step, its kernels alone and the matrix product in turn."""
    product, product_flops = matrix_product(size.side)
    times = in_turn({"step": step.run, "own": step.own_layers, "product": product}, size.rounds)
    rates = {
        name: [flops / run for run in times[name]]
        for name, flops in (
            ("step", step.flops),
            ("own", step.own_flops),
            ("product", product_flops),
        )
    }
    told = ", ".join(f"{name} {Spread.of(values).median / 1e9:.0f}" for name, values in rates.items())
    note = (
        f"preset {preset}, batch {step.batch_size}, {step.flops / 1e9:,.1f} GFLOP a step, "
        f"{size.rounds} rounds; GFLOP a second: {told}"
    )
    measured = f"training step of the {step.name}"
    yield Row(
        measured,
        "its FLOPs at the rate of a matrix product",
        ratios(rates["step"], rates["product"]),
        aim=Aim(0.8),
        note=note,
    )
    yield Row(
        measured,
        "its FLOPs at the rate of its own convolutions and dense layers alone",
        ratios(rates["step"], rates["own"]),
        note=note,
    )


def main() -> None:
    """Measure and tell."""
    parser = parser_of(__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small", help="widths of the networks")
    options = parser.parse_args()
    quietly()
    preset = TOY_PRESET if options.quick else PRESETS[options.preset]
    name = "toy" if options.quick else options.preset
    size = QUICK if options.quick else FULL
    # The paper's 512 frames of the view CNN would not fit into memory everywhere.
    batches = (SCHEDULES["small"]["view"].batch_size, GAN_SCHEDULES["paper"].batch_size)
    views, frames = (size.batch_size or batch for batch in batches)
    keras.utils.set_random_seed(0)
    rows = [*rows_of(view_step(preset, views), size, name), *rows_of(gan_step(preset, frames), size, name)]
    tell(rows, options)


if __name__ == "__main__":
    main()
