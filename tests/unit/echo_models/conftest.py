from collections.abc import Iterator

import pytest


@pytest.fixture
def eager() -> Iterator[None]:
    """Run Keras' steps as they are written: for a few that is quicker than compiling them."""
    import tensorflow as tf  # noqa: PLC0415 - only the tests that ask for this wait for it

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
