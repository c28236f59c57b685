"""What each Keras backend must be asked for in its own words; the rest of the package is neutral.

TensorFlow differentiates what runs under a tape and changes variables in place. JAX differentiates pure
functions: variables become arguments, and what was assigned to them becomes results.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import keras

from echo_models.errors import TrainingError

Losses = dict[str, Any]
"""Scalars by name."""

BACKENDS = ("tensorflow", "jax")
"""What the package is tested on."""


def require_backend() -> None:
    """Refuse to train by hand-written steps on a backend whose gradients nobody has written.

    Raises:
        TrainingError: if Keras runs on another backend than `BACKENDS`.
    """
    if keras.backend.backend() not in BACKENDS:
        raise TrainingError(
            f"a step of two networks is written for {' and '.join(BACKENDS)}; Keras runs on "
            f"{keras.backend.backend()}. Set KERAS_BACKEND to one of them"
        )


Precision = Literal["float32", "mixed"]
"""What networks compute in while they learn; weights are float32 in either."""


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Build networks that compute in float32, or in bfloat16 with float32 weights.

    bfloat16 has the range of float32, so losses need no scaling. It is faster on GPUs from 2020 on and on
    processors with AMX, and slower on others.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "mixed" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def has_gpu() -> bool:
    """Say whether the backend sees a GPU; JAX raises where TensorFlow lists none."""
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:
        return False


def differentiate(
    function: Callable[[], tuple[Any, Losses]], variables: Sequence[Any], state: Sequence[Any]
) -> tuple[Losses, list[Any]]:
    """Run a function and give the gradients of its first result.

    Args:
        function: gives the scalar to differentiate, and losses to report. What it assigns to
            variables of the state (running averages, seeds) holds afterwards.
        variables: with respect to which.
        state: every variable that the function reads or assigns.

    Returns:
        the losses to report, and the gradient of each variable.
    """
    if keras.backend.backend() == "tensorflow":
        return _with_tape(function, variables)
    return _with_jax(function, variables, state)


def _with_tape(
    function: Callable[[], tuple[Any, Losses]], variables: Sequence[Any]
) -> tuple[Losses, list[Any]]:
    import tensorflow as tf  # noqa: PLC0415 - only on this backend

    with tf.GradientTape() as tape:
        loss, losses = function()
    return losses, tape.gradient(loss, variables)


def _with_jax(
    function: Callable[[], tuple[Any, Losses]], variables: Sequence[Any], state: Sequence[Any]
) -> tuple[Losses, list[Any]]:
    import jax  # noqa: PLC0415 - only on this backend

    learned = {id(variable) for variable in variables}
    others = [variable for variable in state if id(variable) not in learned]
    held = [variable.value for variable in others]

    def pure(values: Sequence[Any]) -> tuple[Any, tuple[Losses, list[Any]]]:
        mapping = [*zip(variables, values, strict=True), *zip(others, held, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss, losses = function()
        return loss, (losses, [scope.get_current_value(variable) for variable in others])

    values = [variable.value for variable in variables]
    (_, (losses, updated)), gradients = jax.value_and_grad(pure, has_aux=True)(values)
    for variable, value in zip(others, updated, strict=True):
        variable.assign(value)
    return losses, gradients


def run_step(model: keras.Model, learn: Callable[[Any], Losses], arguments: Sequence[Any]) -> Any:
    """Run a learning step as the backend's `train_step` is called.

    Args:
        model: whose `train_step` it is.
        learn: takes a batch, changes variables by assigning, gives losses.
        arguments: of `train_step`: (data) on TensorFlow, (state, data) on JAX.

    Returns:
        losses on TensorFlow; losses and the new state on JAX.
    """
    if keras.backend.backend() == "tensorflow":
        return learn(arguments[0])
    state, data = arguments
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    mapping = [
        pair for group, values in zip(groups, state, strict=True) for pair in zip(group, values, strict=True)
    ]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        losses = learn(data)
    return losses, tuple([scope.get_current_value(variable) for variable in group] for group in groups)
