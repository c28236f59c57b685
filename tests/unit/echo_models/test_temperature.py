import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_models.temperature import fit_temperature, in_classes, temper

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (4000, 5))
LABELS = (LOGITS + RNG.gumbel(size=LOGITS.shape)).argmax(axis=1)  # drawn from softmax(LOGITS)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_the_temperature_is_by_how_much_logits_are_too_large(times: float) -> None:
    assert fit_temperature(softmax(times * LOGITS), LABELS) == pytest.approx(times, rel=0.06)


@given(st.floats(0.1, 10), st.integers(0, 3999))
def test_tempering_is_dividing_logits_and_changes_no_order(temperature: float, row: int) -> None:
    tempered = temper(softmax(LOGITS[row : row + 1]), temperature)
    np.testing.assert_allclose(tempered, softmax(LOGITS[row : row + 1] / temperature), atol=1e-5)
    assert tempered.argmax() == LOGITS[row].argmax()


def test_one_column_is_the_second_of_two_classes() -> None:
    one = np.array([[0.9], [0.5], [0.0]], np.float32)
    two = np.concatenate([1 - one, one], axis=1)
    np.testing.assert_allclose(temper(one, 2.0)[:, 0], temper(two, 2.0)[:, 1])
    np.testing.assert_allclose(temper(one, 2.0)[:, 0], [0.75, 0.5, 0.0], atol=1e-6)
    assert in_classes(one).shape == (3, 2)
    labels = np.array([1, 0, 0])
    assert fit_temperature(one, labels) == pytest.approx(fit_temperature(two, labels))


def test_a_certain_network_stays_finite() -> None:
    certain = np.eye(3, dtype=np.float32)
    assert np.isfinite(temper(certain, 7.0)).all()
    assert np.isfinite(fit_temperature(certain, np.array([1, 2, 0])))  # wrong each time, and sure of it


def test_a_temperature_needs_frames() -> None:
    with pytest.raises(ValueError, match="labeled frames"):
        fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64))
