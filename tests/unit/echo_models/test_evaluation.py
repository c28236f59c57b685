import numpy as np
import pytest

from echo_models.evaluation import (
    accuracy_of,
    balanced_accuracy_of,
    bootstrap,
    calibration_error_of,
    confusion_matrix,
    constant_mask,
    dice_by_frame,
    draw_subjects,
    f1_of,
    measure_certainty,
    measure_classes,
    measure_outlines,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 0])
PREDICTED = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1, 0])


def test_a_confusion_matrix_counts_truth_by_row_and_prediction_by_column() -> None:
    assert confusion_matrix(LABELS, PREDICTED, 2).tolist() == [[6, 1], [1, 2]]


def test_measures_agree_with_counting_by_hand() -> None:
    confusion = confusion_matrix(LABELS, PREDICTED, 2)
    assert accuracy_of(confusion) == pytest.approx(0.8)
    assert balanced_accuracy_of(confusion) == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert f1_of(confusion) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_f1_of_many_classes_is_the_mean_over_those_present() -> None:
    labels = np.array([0, 0, 1, 1])
    confusion = confusion_matrix(labels, np.array([0, 0, 1, 0]), 3)
    assert f1_of(confusion) == pytest.approx((2 * 2 / (2 * 2 + 1) + 2 / 3) / 2)


def test_weights_count_as_copies() -> None:
    weights = np.array([2, 0, 1, 1, 3, 1, 0, 1, 1, 1])
    copies = np.repeat(np.arange(10), weights)
    weighted = confusion_matrix(LABELS, PREDICTED, 2, weights.astype(float))
    assert weighted.tolist() == confusion_matrix(LABELS[copies], PREDICTED[copies], 2).tolist()


def test_a_constant_guess_has_half_of_the_balanced_accuracy() -> None:
    metrics = measure_classes(LABELS, np.zeros(10, np.int64), np.arange(10), ("normal", "lvh"))
    assert metrics["accuracy"].value == pytest.approx(0.7)
    assert metrics["balanced_accuracy"].value == pytest.approx(0.5)
    assert metrics["sensitivity"].value == 0
    assert metrics["specificity"].value == 1
    assert metrics["sensitivity"].n == 3


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = bootstrap(lambda weights: float(np.average(values, weights=weights)), np.arange(400), seed=1)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert interval.n == 400


def test_subjects_are_drawn_whole_so_that_alike_frames_widen_the_interval() -> None:
    subjects = np.repeat(np.arange(20), 20)
    draws = draw_subjects(subjects, seed=0, resamples=5)
    for draw in draws:
        assert all(len(set(draw[subjects == subject])) == 1 for subject in range(20))
        assert draw[::20].sum() == 20
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 20), 20)

    def mean(weights: np.ndarray) -> float:
        return float(np.average(values, weights=weights))

    clustered, single = bootstrap(mean, subjects), bootstrap(mean, np.arange(400))
    assert clustered.high - clustered.low > 3 * (single.high - single.low)


def test_nothing_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="no frames"):
        bootstrap(lambda weights: 0.0, np.array([], np.int64))  # noqa: ARG005


def test_views_are_measured_one_by_one() -> None:
    labels = np.array([0, 1, 1, 2])
    metrics = measure_classes(labels, np.array([0, 1, 0, 2]), np.arange(4), ("a", "b", "c", "d"))
    assert metrics["recall_b"].value == 0.5
    assert metrics["recall_c"].value == 1
    assert "recall_d" not in metrics  # there is no frame of it


def test_the_calibration_error_is_how_far_confidence_and_share_right_lie_apart() -> None:
    confidences = np.repeat([0.9, 0.6, 1.0], [10, 10, 5])
    right = np.concatenate([np.arange(10) < 9, np.arange(10) < 2, np.ones(5)]).astype(bool)
    # 0.9 of the first are right, 0.2 instead of 0.6 of the second, all of the third: 10 of 25 are off by 0.4.
    assert calibration_error_of(confidences, right, np.ones(25)) == pytest.approx(0.16)
    twice = np.repeat([1.0, 2.0, 0.0], [10, 10, 5])
    assert calibration_error_of(confidences, right, twice) == pytest.approx(20 * 0.4 / 30)


def test_certainty_is_told_before_and_after_and_of_what_is_kept() -> None:
    labels = np.array([0, 1, 1, 0])
    before = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    known = np.array([True, True, False, True])
    metrics = measure_certainty(before, np.full((4, 2), 0.5), known, labels, np.arange(4))
    expected = -np.log([0.9, 0.8, 0.3, 0.6]).mean()
    assert metrics["cross_entropy_uncalibrated"].value == pytest.approx(expected)
    assert metrics["cross_entropy"].value == pytest.approx(np.log(2))
    assert metrics["coverage"].value == 0.75
    assert metrics["accuracy_of_known"].n == 3
    assert "coverage" not in measure_certainty(before, before, None, labels, np.arange(4))
    none = measure_certainty(before, before, np.zeros(4, bool), labels, np.arange(4))
    assert none["coverage"].value == 0
    assert "accuracy_of_known" not in none


def test_dice_is_twice_the_common_part_over_both() -> None:
    outlines, predicted = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    outlines[0, :2] = True  # 8 pixels
    predicted[0, 1:] = True  # 12, of which 4 are common
    outlines[1, 0] = True
    assert dice_by_frame(outlines, predicted).tolist() == [2 * 4 / 20, 0, 1]


def test_dice_stands_beside_what_a_constant_mask_scores() -> None:
    outlines = np.zeros((6, 4, 4), bool)
    outlines[:, 1:3] = True
    outlines[0, 3] = True
    control = constant_mask(outlines)
    assert control.shape == (1, 4, 4)
    assert control[0].sum() == 8
    metrics = measure_outlines(outlines, outlines.astype(np.float32), np.arange(6), control)
    assert metrics["dice"].value == 1
    assert metrics["dice"].control == pytest.approx((5 + 2 * 8 / 20) / 6)
    assert metrics["pixel_cross_entropy"].value == pytest.approx(0, abs=1e-6)


def test_pixel_cross_entropy_is_that_of_keras() -> None:
    outlines = np.random.default_rng(0).random((3, 4, 4)) > 0.5
    metrics = measure_outlines(
        outlines, np.full((3, 4, 4), 0.25, np.float32), np.arange(3), constant_mask(outlines)
    )
    expected = np.where(outlines, -np.log(0.25), -np.log(0.75)).mean()
    assert metrics["pixel_cross_entropy"].value == pytest.approx(expected)
