"""What every test shares: quiet numerical libraries and few threads, before anything imports them."""

import os

import pytest

from tests.postgres import emptied_ledger, empty_url, ledger_url, postgres  # noqa: F401 - fixtures

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# A worker that a test starts would first try out for half a minute what is fastest here.
os.environ.setdefault("ECHOBEAM_WORKER_TUNE", "false")

# Warnings are errors; each exception has its reason.
EXCUSED = (
    # TensorFlow's variables, as Keras saves them, do not know the `copy` argument of NumPy 2.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in EXCUSED:
        config.addinivalue_line("filterwarnings", line)
