import numpy as np
import pytest

from echo_models.gate import GateRule, decide, refuse

LABELS = np.tile([0, 0, 0, 0, 1], 60)


def right(share: float, seed: int) -> np.ndarray:
    """Probabilities of class 1 that are on the right side for about this share of the frames."""
    correct = np.random.default_rng(seed).random(len(LABELS)) < share
    return np.where(correct == (LABELS == 1), 0.9, 0.1).astype(np.float32)


def test_a_better_model_goes_in() -> None:
    decision = decide(LABELS, right(0.95, 1), right(0.7, 2))
    assert decision.promote
    assert decision.numbers["candidate"] > decision.numbers["production"]
    assert "against" in decision.reason


def test_a_worse_model_stays_out_and_the_reason_has_the_numbers() -> None:
    decision = decide(LABELS, right(0.7, 1), right(0.95, 2))
    assert not decision.promote
    assert (
        f"{decision.numbers['candidate']:.3f} against {decision.numbers['production']:.3f}" in decision.reason
    )
    assert decision.numbers["difference_low"] < -0.02


def test_the_same_model_again_is_not_worse() -> None:
    decision = decide(LABELS, right(0.8, 1), right(0.8, 1))
    assert decision.promote
    assert decision.numbers["difference_low"] == decision.numbers["difference_high"] == 0


def test_a_model_that_might_be_worse_stays_out() -> None:
    few = slice(0, 30)
    decision = decide(LABELS[few], right(0.85, 1)[few], right(0.85, 2)[few])
    assert not decision.promote
    assert decision.numbers["difference_low"] < -0.02 < decision.numbers["difference_high"]


def test_always_normal_stays_out_though_its_accuracy_is_four_fifths() -> None:
    decision = decide(LABELS, np.zeros(len(LABELS), np.float32), None)
    assert not decision.promote
    assert "0.500 is below the floor of 0.600" in decision.reason
    assert "0.000 of class 1" in decision.reason


def test_a_model_over_the_floor_goes_in_where_nothing_is_at_work() -> None:
    assert decide(LABELS, right(0.8, 1), None).promote
    broken = np.full(len(LABELS), np.nan, np.float32)
    assert decide(LABELS, right(0.8, 1), broken).promote


def test_nan_stays_out() -> None:
    candidate = right(0.99, 1)
    candidate[3] = np.nan
    decision = decide(LABELS, candidate, None)
    assert not decision.promote
    assert "finite" in decision.reason


def test_two_columns_say_the_same_as_one() -> None:
    one = right(0.9, 1)
    two = np.stack([1 - one, one], axis=1)
    assert decide(LABELS, two, right(0.8, 2)) == decide(LABELS, one, right(0.8, 2))


def test_many_classes_are_compared_as_two_are() -> None:
    labels = np.arange(90) % 3
    sure = np.eye(3, dtype=np.float32)[labels]
    assert decide(labels, sure, np.roll(sure, 1, axis=0)).promote


def test_frames_of_one_subject_count_together() -> None:
    subjects = np.arange(len(LABELS)) // 50
    candidate, production = right(0.9, 1), right(0.85, 2)
    alone = decide(LABELS, candidate, production).numbers
    together = decide(LABELS, candidate, production, subjects=subjects).numbers
    assert together["difference_low"] != alone["difference_low"]


def test_the_rule_is_what_decides() -> None:
    candidate, production = right(0.8, 1), right(0.85, 2)
    assert not decide(LABELS, candidate, production).promote
    assert decide(LABELS, candidate, production, rule=GateRule(margin=0.3)).promote
    assert not decide(LABELS, candidate, production, rule=GateRule(margin=0.3, floor=0.95)).promote


def test_the_gate_refuses_nothing_and_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="needs labeled frames"):
        decide(LABELS[:0], right(0.9, 1)[:0], None)
    with pytest.raises(ValueError, match="needs labeled frames"):
        decide(LABELS, right(0.9, 1), right(0.9, 1)[:5])


def test_a_class_that_is_not_found_keeps_a_good_model_out_and_is_named() -> None:
    labels = np.arange(300) % 3
    named = np.where(labels == 2, np.arange(300) // 3 % 2, labels)
    blind = 0.1 + 0.7 * np.eye(3, dtype=np.float32)[named]
    decision = decide(labels, blind, None, classes=("plax", "a4c", "a5c"))
    assert [check.name for check in decision.checks if not check.passed] == ["class_floor"]
    assert "0.000 of a5c" in decision.reason
    assert decision.numbers["lowest_class"] == 0
    assert decide(labels, blind, None, rule=GateRule(class_floor=0)).promote


def test_a_model_that_is_sure_of_what_is_wrong_stays_out_for_its_calibration() -> None:
    sure = np.where(right(0.65, 1) > 0.5, 1.0, 0.0).astype(np.float32)
    decision = decide(LABELS, sure, None)
    assert [check.name for check in decision.checks if not check.passed] == ["calibration"]
    assert decision.numbers["calibration_error"] == pytest.approx(1 - (sure == LABELS).mean(), abs=0.01)
    modest = np.where(sure > 0.5, 0.65, 0.35).astype(np.float32)
    assert decide(LABELS, modest, None).promote


def test_every_check_is_made_and_every_failure_told() -> None:
    decision = decide(LABELS, 1 - right(0.95, 1), right(0.95, 2))
    assert [check.name for check in decision.checks] == ["floor", "class_floor", "calibration", "production"]
    assert not any(check.passed for check in decision.checks)
    assert decision.reason.count(";") >= 3


def test_a_bundle_that_cannot_be_used_is_refused() -> None:
    decision = refuse("cannot be loaded")
    assert (decision.promote, decision.reason, decision.numbers) == (False, "cannot be loaded", {})
