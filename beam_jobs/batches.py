"""The bounded pipeline that a batch of claims goes through: built once in this process, run for each batch.

To build a pipeline and to describe it to the runner is three quarters of what a batch costs Beam, and
the next batch's would be the same. So claims are no part of it: its first step takes them from here.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import apache_beam as beam
from apache_beam.portability.api import beam_runner_api_pb2

from beam_jobs.engine import beam_flags, new_pipeline, runs_here
from beam_jobs.pipeline import ProcessStudies, report_study
from beam_jobs.records import StudyClaim
from beam_jobs.settings import DeidSettings, WorkerSettings
from echo_models.manifest import TASKS
from echo_models.registry import Registry

_numbers: Final = count()
_at_hand: Final[dict[int, Sequence[StudyClaim]]] = {}
"""Claims that a pipeline of this process is to work on, by its number: a step is pickled, these are not."""


class BatchPipeline:
    """Runs batches of claims through `ProcessStudies`, one after the other.

    In this process the pipeline is built anew only when another model is in production, since a built one
    keeps its models; anywhere else each batch is submitted as a job of its own.

    Args:
        settings: section `[worker]`.
        deid: section `[deid]`.
    """

    def __init__(self, settings: WorkerSettings, deid: DeidSettings) -> None:
        self._settings = settings
        self._deid = deid
        self._number = next(_numbers)
        self._flags = beam_flags(settings)
        self._built: beam.Pipeline | None = None
        self._models: list[Any] = []

    def run(self, claims: Sequence[StudyClaim]) -> None:
        """Process claims, and wait for the end.

        Raises:
            ModelsError: if a task has no version in production.
            Exception: whatever a step raised.
        """
        if not runs_here(self._flags):
            with new_pipeline(self._flags) as pipeline:
                self._wire(pipeline | beam.Create(claims) | beam.Reshuffle())
            return
        _at_hand[self._number] = claims
        try:
            self._pipeline_here().run().wait_until_finish()
        finally:
            del _at_hand[self._number]

    def _pipeline_here(self) -> beam.Pipeline:
        registry = Registry(self._settings.models)
        models = [registry.resolve(task) for task in TASKS]
        if self._built is None or models != self._models:
            self._built, self._models = new_pipeline(self._flags, of=_DescribedOnce), models
            self._wire(self._built | beam.Impulse() | beam.FlatMap(_claims_at_hand, self._number))
        return self._built

    def _wire(self, claims: beam.PCollection) -> None:
        _ = claims | ProcessStudies(self._settings, self._deid) | "Report" >> beam.Map(report_study)


class _DescribedOnce(beam.Pipeline):
    """A pipeline that is not changed once it has run, so that what it tells the runner stays the same."""

    _description: beam_runner_api_pb2.Pipeline | None = None

    def to_runner_api(self, *args: Any, **kwargs: Any) -> Any:
        """Give a copy, which the runner may change."""
        if self._description is None:
            self._description = super().to_runner_api(*args, **kwargs)
        copy = beam_runner_api_pb2.Pipeline()
        copy.CopyFrom(self._description)
        return copy


def _claims_at_hand(_: bytes, number: int) -> Sequence[StudyClaim]:
    return _at_hand[number]
