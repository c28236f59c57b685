from pathlib import Path

import keras
import numpy as np
import pytest

from echo_models.errors import BundleError
from echo_models.networks import build_ensemble, build_unet, build_view_classifier
from echo_models.open_set import (
    Reference,
    cross_scores,
    has_features,
    last_layers,
    read_reference,
    with_features,
)
from tests.toy import TOY_PRESET

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 4, (3, 2, 6))
LABELS = np.arange(600) % 3
# Whatever the class, the first feature varies most: it tells nothing.
WIDE = np.array([30.0, 1, 1, 1, 1, 1])
FEATURES = (CENTRES[LABELS] + WIDE * RNG.normal(size=(600, 2, 6))).astype(np.float32)


def test_the_score_is_the_distance_to_all_less_that_to_the_nearest_class() -> None:
    reference = Reference.fit(FEATURES, LABELS, 3)
    expected = np.zeros(600)
    for member in range(2):
        x = FEATURES[:, member].astype(float)
        means = np.stack([x[np.equal(LABELS, k)].mean(axis=0) for k in range(3)])

        def squared(deviations: np.ndarray, spread: np.ndarray) -> np.ndarray:
            covariance = spread.T @ spread / len(spread)
            covariance += 1e-3 * np.trace(covariance) / 6 * np.eye(6)
            return np.asarray(
                np.einsum("nd,de,ne->n", deviations, np.linalg.inv(covariance), deviations), np.float64
            )

        within, around = x - means[LABELS], x - x.mean(axis=0)
        nearest = np.min([squared(x - mean, within) for mean in means], axis=0)
        expected += squared(around, around) - nearest
    np.testing.assert_allclose(reference.score(FEATURES), expected, rtol=1e-3, atol=1e-2)


def test_what_lies_between_the_classes_is_further_than_what_lies_far_along_a_wide_feature() -> None:
    reference = Reference.fit(FEATURES, LABELS, 3)
    between = CENTRES.mean(axis=0, keepdims=True).astype(np.float32)
    wide = CENTRES[:1].astype(np.float32) + np.float32(2) * WIDE.astype(np.float32) * np.eye(6)[0]
    assert reference.score(between)[0] < reference.score(wide.astype(np.float32))[0]


def test_a_reference_is_the_same_bytes_each_time_and_read_as_it_was(tmp_path: Path) -> None:
    reference = Reference.fit(FEATURES, LABELS, 3)
    path = tmp_path / "reference.npz"
    path.write_bytes(reference.to_bytes())
    assert reference.to_bytes() == path.read_bytes()
    np.testing.assert_array_equal(read_reference(path).score(FEATURES), reference.score(FEATURES))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_reference_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        read_reference(path)


def test_a_class_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[300, 300, 0\]"):
        Reference.fit(FEATURES, np.arange(600) % 2, 3)


def test_a_subject_has_no_part_in_the_reference_that_scores_it() -> None:
    subjects = np.repeat(np.arange(20), 30)
    scores = cross_scores(FEATURES, LABELS, subjects, 3, folds=5)
    first = subjects % 5 == 0
    alone = Reference.fit(FEATURES[~first], LABELS[~first], 3).score(FEATURES[first])
    np.testing.assert_allclose(scores[first], alone)
    with pytest.raises(ValueError, match="each class"):
        cross_scores(FEATURES, LABELS, LABELS, 3, folds=3)


def test_features_come_with_the_same_probabilities_from_one_network_and_from_three() -> None:
    members = [build_view_classifier(TOY_PRESET, name=f"member_{n}") for n in range(3)]
    frames = np.random.default_rng(1).random((2, 120, 160, 1)).astype(np.float32)
    for model in (members[0], build_ensemble(members)):
        count = len(last_layers(model))
        probabilities, *features = with_features(model).predict_on_batch(frames)
        np.testing.assert_allclose(probabilities, model.predict_on_batch(frames), atol=1e-6)
        assert [part.shape for part in features] == [(2, 16)] * count
        for part, layer in zip(features, last_layers(model), strict=True):
            assert layer.units == 15
            assert np.isfinite(part @ layer.get_weights()[0]).all()
    assert has_features(build_ensemble(members))


def test_a_network_without_a_last_dense_layer_has_no_features() -> None:
    model = build_unet(TOY_PRESET)
    assert not has_features(model)
    with pytest.raises(BundleError, match="ends in a dense layer"):
        with_features(model)
    frames = keras.Input((4,))
    assert not has_features(keras.Model(frames, keras.layers.Dense(3)(keras.layers.Dense(2)(frames))[:, :2]))
