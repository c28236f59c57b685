from collections.abc import Callable

import numpy as np
import pytest

from beam_jobs.pooling.rules import (
    RANK_RANGES,
    FrameFacts,
    PoolRules,
    Rule,
    count_ranges,
    keep_within,
    ranges_by_machine,
    satisfy,
    set_limits,
    share_out,
)
from beam_jobs.selection import SelectionRules
from tests.pool_archive import StoredFrame
from tests.unit.beam_jobs.test_pool_references import references_of


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoolRules(min_view_confidence=1.5), "min_view_confidence must be from 0 to 1"),
        (lambda: PoolRules(min_lv_area_ratio=-0.1), "min_lv_area_ratio must be from 0 to 1"),
        (lambda: PoolRules(max_frames_per_study=0), "max_frames_per_study must be at least 1"),
        (lambda: PoolRules(max_frames_per_machine=0), "max_frames_per_machine must be at least 1"),
        (lambda: PoolRules(max_frames=0), "max_frames must be at least 1"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(make: Callable[[], PoolRules], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rules_that_say_less_are_extended_by_defaults() -> None:
    assert PoolRules.extend(SelectionRules(max_frames_per_study=8)) == PoolRules(max_frames_per_study=8)
    own = PoolRules(max_frames=5)
    assert PoolRules.extend(own) is own


def facts(**columns: list[float]) -> FrameFacts:
    good = {
        "in_results": True,
        "held_out": False,
        "known": True,
        "view_confidence": 0.9,
        "fov_area_ratio": 0.4,
        "lv_area_ratio": 0.1,
    }
    length = len(next(iter(columns.values())))
    return FrameFacts(**{name: np.array(columns.get(name, [value] * length)) for name, value in good.items()})


def test_an_unknown_frame_is_dropped_unless_unknown_ones_are_wanted() -> None:
    passing, dropped = satisfy(facts(known=[True, False]), PoolRules())
    assert passing.tolist() == [True, False]
    assert dropped[Rule.UNKNOWN_VIEW] == 1
    assert satisfy(facts(known=[True, False]), PoolRules(known_only=False))[0].all()


def test_a_ventricle_must_be_visible_only_if_that_is_asked_for() -> None:
    frames = facts(lv_area_ratio=[float(np.float32(0.05)), 0.0, float("nan")])
    assert satisfy(frames, PoolRules())[0].all()
    assert satisfy(frames, PoolRules(min_lv_area_ratio=0.05))[0].tolist() == [True, False, False]


def test_a_frame_on_a_threshold_of_single_precision_passes() -> None:
    frames = facts(view_confidence=[float(np.float32(0.6))], fov_area_ratio=[float(np.float32(0.05))])
    assert satisfy(frames, PoolRules(min_view_confidence=0.6, min_fov_area_ratio=0.05))[0].all()


def test_a_frame_counts_under_the_first_rule_that_drops_it() -> None:
    _, dropped = satisfy(facts(held_out=[True], view_confidence=[0.0]), PoolRules())
    assert {rule for rule, count in dropped.items() if count} == {Rule.HELD_OUT_SUBJECT}


@pytest.mark.parametrize(
    ("available", "most", "shares"),
    [
        ({"a": 90, "b": 10}, 40, {"a": 30, "b": 10}),
        ({"a": 90, "b": 30, "c": 30}, 60, {"a": 20, "b": 20, "c": 20}),
        ({"a": 5, "b": 5}, 3, {"a": 1, "b": 2}),
        ({"a": 5, "b": 5}, 1, {"a": 0, "b": 1}),
        ({"a": 5, "b": 5}, 100, {"a": 5, "b": 5}),
        ({"a": 5}, None, {"a": 5}),
        ({}, 10, {}),
    ],
)
def test_the_pool_is_shared_out_evenly(
    available: dict[str, int], most: int | None, shares: dict[str, int]
) -> None:
    assert share_out(available, PoolRules(max_frames=most)) == shares


def test_only_whole_ranges_of_rank_stay_and_never_more_than_the_cap() -> None:
    counts = np.zeros(RANK_RANGES, np.int64)
    counts[[3, 7, 9]] = [2, 3, 5]
    limits = [set_limits({"a": counts}, PoolRules(max_frames_per_machine=cap)).frames for cap in range(1, 12)]
    assert limits == [0, 2, 2, 2, 5, 5, 5, 5, 5, 10, 10]


def test_what_a_machine_has_too_much_of_is_dropped_and_counted_apart() -> None:
    frames = references_of(
        *(
            StoredFrame("s", "t", maker, index, index, manufacturer=maker)
            for maker, length in (("Philips", 80), ("GE", 10))
            for index in range(length)
        )
    )
    counts = {machine: count_ranges([ranges]) for machine, ranges in ranges_by_machine(frames).items()}
    rules = PoolRules(max_frames_per_machine=60, max_frames=40)
    limits = set_limits(counts, rules)
    kept, dropped = keep_within(frames, limits)
    machines = kept.rows["machine"].tolist()
    assert len(kept) == limits.frames
    assert (machines.count(b"Philips"), machines.count(b"GE")) == (30, 10)
    assert dropped == {Rule.OVER_MACHINE_CAP: 20, Rule.OVER_BALANCED_SHARE: 30}
