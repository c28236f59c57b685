from collections.abc import Iterator

import keras
import pytest


@pytest.fixture
def eager() -> Iterator[None]:
    """Run Keras' steps as they are written: for a few that is quicker than compiling them.

    On TensorFlow alone: a JAX step that is not compiled is slower than compiling it.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf  # noqa: PLC0415 - only the tests that ask for this wait for it

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
