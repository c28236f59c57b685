"""What is compared runs in turn, and ratios are taken round by round."""

import json
from argparse import Namespace
from dataclasses import asdict
from itertools import count

import pytest

from benchmarks.one_machine import rows_in
from benchmarks.rounds import Aim, Row, Spread, in_turn, ratios, tell, values_in_turn

MEASURED = Row("speed of a", "b", Spread(1.5, 1.25, 2.0), aim=Aim(1.4), note="3 rounds")
UNMEASURED = Row("speed of c", "d", None, aim=Aim(1.7), note="not available here")


def test_ways_run_in_turn_and_in_the_other_order_every_other_round() -> None:
    ran: list[str] = []
    in_turn({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3)
    assert "".join(ran[2:]) == "abbaab"


def test_the_first_round_warms_up_and_is_not_told() -> None:
    values = count()
    assert values_in_turn({"a": lambda: next(values)}, 2) == {"a": [1, 2]}
    assert values_in_turn({"a": lambda: next(values)}, 2, warms_up=False) == {"a": [3, 4]}


def test_what_a_round_begins_with_is_not_timed() -> None:
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    times = in_turn(
        {"a": lambda: wait(2), "b": lambda: wait(3)}, 2, before=lambda: wait(100), clock=lambda: now[0]
    )
    assert times == {"a": [2, 2], "b": [3, 3]}


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine is ten times slower in the second round, which the ratio of the medians would not see.
    assert ratios([2, 20, 3], [1, 10, 1]) == Spread(2, 2, 3)


def test_a_spread_of_nothing_and_rounds_without_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Spread.of([])
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_an_aim_is_a_least_or_a_most() -> None:
    assert Aim(1.4).is_met(1.4)
    assert not Aim(1.4).is_met(1.3)
    assert Aim(25, is_least=False).is_met(24)
    assert not Aim(25, is_least=False).is_met(26)


def test_what_was_not_measured_neither_meets_its_aim_nor_misses_it() -> None:
    assert MEASURED.is_met is True
    assert UNMEASURED.is_met is None
    assert Row("a", "b", Spread(1, 1, 1)).is_met is None


def test_a_row_of_the_table_says_all_of_it() -> None:
    assert MEASURED.as_markdown() == "| speed of a | b | 1.5 | 1.25 to 2 | ≥ 1.4 | yes | 3 rounds |"
    assert UNMEASURED.as_markdown() == (
        "| speed of c | d | not measured |  | ≥ 1.7 |  | not available here |"
    )
    bytes_a_frame = Row("a", "", Spread(12_345.6, 12_000, 13_000), "B", Aim(2, is_least=False))
    assert bytes_a_frame.as_markdown() == "| a |  | 12,346 B | 12,000 to 13,000 | ≤ 2 | no |  |"


@pytest.mark.parametrize("row", [MEASURED, UNMEASURED])
def test_a_row_survives_json(row: Row) -> None:
    assert Row.from_json(json.loads(json.dumps(asdict(row)))) == row


def test_what_a_benchmark_prints_can_be_read_again_whatever_a_library_says_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print("a library [says] something")  # noqa: T201 - as libraries do
    tell([MEASURED, UNMEASURED], Namespace(json=True))
    assert rows_in(capsys.readouterr().out) == [MEASURED, UNMEASURED]


def test_without_json_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tell([MEASURED], Namespace(json=False))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == MEASURED.as_markdown()
    assert len({line.count("|") for line in lines}) == 1
