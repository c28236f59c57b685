import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_jobs.engine import new_pipeline, parse_beam_options
from beam_jobs.errors import SetupError


def test_an_unknown_beam_option_is_refused() -> None:
    with pytest.raises(SetupError, match="no option bogus"):
        parse_beam_options(["--bogus=1"])
    assert parse_beam_options(["--direct_num_workers=3"]).get_all_options()["direct_num_workers"] == 3


def test_an_option_beam_cannot_parse_is_refused() -> None:
    with pytest.raises(SetupError, match="does not understand"):
        parse_beam_options(["--direct_num_workers=many"])


def test_a_pipeline_runs_in_this_process_unless_told_otherwise() -> None:
    assert isinstance(new_pipeline([]).runner, FnApiRunner)
    assert not isinstance(new_pipeline(["--runner=PrismRunner"]).runner, FnApiRunner)
