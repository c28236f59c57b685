"""Which engine a pipeline runs on: Beam's in-process one, unless its options name another."""

from collections.abc import Sequence
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.errors import SetupError

_IN_PROCESS_RUNNER: Final = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""Named in full: `DirectRunner` may start another engine."""

_OWN_FLAGS: Final = ("--no_pipeline_type_check",)
"""Beam would check the types of the same steps anew for each batch: a fifth of its cost."""


def new_pipeline(flags: Sequence[str]) -> beam.Pipeline:
    """Make a pipeline that runs where the options say, or in this process.

    Raises:
        SetupError: if Beam knows no such option.
    """
    options = parse_beam_options(flags)
    return beam.Pipeline(
        runner=options.view_as(StandardOptions).runner or _IN_PROCESS_RUNNER, options=options
    )


def parse_beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Parse Beam's options.

    Raises:
        SetupError: if Beam knows no such option; Beam itself would pass over it.
    """
    options = PipelineOptions([*_OWN_FLAGS, *flags])
    try:
        known = options.get_all_options().keys()
        unknown = options.get_all_options(retain_unknown_options=True).keys() - known
    except SystemExit:
        raise SetupError(
            f"Beam does not understand the options {list(flags)}; see its list of them"
        ) from None
    if unknown:
        raise SetupError(f"Beam has no option {', '.join(sorted(unknown))}; correct it or leave it out")
    return options
