from collections.abc import Iterator

import apache_beam as beam
import pytest

from beam_jobs.errors import StepError
from beam_jobs.quiet_beam import telling_no_values
from beam_jobs.worker import describe_failure
from tests.studies import MARK


@telling_no_values
class _FailFn(beam.DoFn):
    def process(self, element: str, suffix: str = "") -> Iterator[str]:
        if element == MARK:
            raise ValueError(f"cannot read {element}")
        yield element + suffix


def test_a_step_that_fails_says_where_and_not_what_it_read() -> None:
    with pytest.raises(StepError, match=r"^ValueError at .*test_quiet_beam.py:\d+$") as caught:
        list(_FailFn().process(MARK))
    assert caught.value.__suppress_context__  # an engine is sent the printed traceback
    assert MARK not in describe_failure(caught.value)
    assert "ValueError" in describe_failure(caught.value)


@telling_no_values
class _FailAtTheEndFn(beam.DoFn):
    def finish_bundle(self) -> Iterator[str]:
        yield from map(str, [int(MARK)])


def test_a_step_that_fails_at_the_end_of_a_bundle_says_no_more() -> None:
    with pytest.raises(StepError, match=r"^ValueError at .*test_quiet_beam.py:\d+$"):
        list(_FailAtTheEndFn().finish_bundle())


def test_a_step_that_does_not_fail_is_as_it_was() -> None:
    assert list(_FailFn().process("a", suffix="b")) == ["ab"]
