"""Which engine a pipeline runs on: Beam's in-process one, unless its options name another.

The in-process one takes bounded batches only; an engine, once started, takes claims without end.
"""

from collections.abc import Sequence
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.job_server import ExternalJobServer
from apache_beam.runners.portability.portable_runner import TERMINAL_STATES
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.utils.shared import Shared

from beam_jobs.errors import SetupError
from beam_jobs.settings import WorkerSettings

_IN_PROCESS_RUNNER: Final = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""Named in full: `DirectRunner` may start another engine."""

_IN_PROCESS_NAMES: Final = frozenset(
    {"DirectRunner", "BundleBasedDirectRunner", "FnApiRunner", _IN_PROCESS_RUNNER}
)
"""What people call runners that end when their input does, so that they can only work in batches."""

_JOB_NAME: Final = "beam:option:job_name:v1"

_OWN_FLAGS: Final = ("--no_pipeline_type_check", "--experiments=prism_disable_sdf_split")
"""Beam would check the types of the same steps anew for each batch: a fifth of its cost.

Where Prism 2.77 splits a bundle of a step with state between two elements of one key, it runs both parts at
once, and what the first one writes is lost: a study would never be complete. Other engines do not know
the experiment."""


def new_pipeline(flags: Sequence[str], *, of: type[beam.Pipeline] = beam.Pipeline) -> beam.Pipeline:
    """Make a pipeline that runs where the options say, or in this process.

    Args:
        flags: Beam's options.
        of: the class to make one of.

    Raises:
        SetupError: if Beam knows no such option.
    """
    options = parse_beam_options(flags)
    return of(runner=options.view_as(StandardOptions).runner or _IN_PROCESS_RUNNER, options=options)


def beam_flags(settings: WorkerSettings) -> list[str]:
    """Give the options for Beam, with the runner among them if one is set."""
    return [*([f"--runner={settings.runner}"] if settings.runner else []), *settings.beam_options]


def names_engine(flags: Sequence[str]) -> bool:
    """Say whether options name an engine outside this process.

    Raises:
        SetupError: if Beam knows no such option.
    """
    runner = parse_beam_options(flags).view_as(StandardOptions).runner
    return runner is not None and runner not in _IN_PROCESS_NAMES


def runs_here(flags: Sequence[str]) -> bool:
    """Say whether every step runs in this process, one after the other.

    Raises:
        SetupError: if Beam knows no such option.
    """
    mode = parse_beam_options(flags).view_as(DirectOptions).direct_running_mode
    return not names_engine(flags) and mode in {None, "in_memory"}


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


def cancel_jobs(flags: Sequence[str], name: str) -> int:
    """Cancel what runs under a name on the engine's job server, and wait until it has ended.

    Only a job server with an address can be asked; one that a runner starts for itself ends with it.

    Returns:
        how many jobs were cancelled.

    Raises:
        grpc.RpcError: if the job server does not answer.
        grpc.FutureTimeoutError: if there is none at its address.
    """
    options = parse_beam_options(flags).view_as(PortableOptions)
    if not options.job_endpoint or options.job_endpoint == "embed":
        return 0
    service = ExternalJobServer(options.job_endpoint, options.job_server_timeout).start()
    jobs = service.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=options.job_server_timeout)
    left = [
        job.job_id
        for job in jobs.job_info
        if job.state not in TERMINAL_STATES and dict(job.pipeline_options).get(_JOB_NAME) == name
    ]
    for job_id in left:
        service.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=job_id))
        states = service.GetStateStream(
            beam_job_api_pb2.GetJobStateRequest(job_id=job_id), timeout=options.job_server_timeout
        )
        next(state for state in states if state.state in TERMINAL_STATES)
    return len(left)


def forget_job_server() -> None:
    """Let the next pipeline start a new Prism: the one that this process started may be dead."""
    PrismRunner.shared_handle = Shared()
