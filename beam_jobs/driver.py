"""The driver of an engine: submits the pipeline that claims without end, and submits it again if it ends.

The engine does the work and may lose any of it; what is right is in the ledger. So the driver only has
to see that one pipeline of its name runs. When one has ended, whatever it held goes back to the queue:
what had begun as a failed attempt, since it may have been the reason, the rest as if it had never been
claimed. A driver that was killed finds the pipeline it left behind by its name, and ends it first.
"""

import hashlib
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.runner import PipelineState

from beam_jobs.engine import beam_flags, cancel_jobs, forget_job_server, new_pipeline, parse_beam_options
from beam_jobs.metrics import process_metrics
from beam_jobs.pipeline import ProcessStudies, report_study
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.unbounded import BeginStudies, ClaimStudies
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.log import describe_error

PIPELINE_ENDED: Final = "the pipeline ended while the study was at work"

STALLED: Final = "STALLED"
"""What we call a pipeline that the engine says runs, and that has taken up nothing for a whole lease, or for
`SHORTEST_STALL_S` if that is longer, while studies wait."""

SHORTEST_STALL_S: Final = 180.0
"""A worker process may need minutes to start where others keep its host busy."""

_LOOKS: Final = 10
_LONGEST_PAUSE_S: Final = 60.0
_LIVED_S: Final = 300.0
"""A pipeline that ran for so long is submitted again at once; after a shorter life the pause doubles."""

_log = structlog.get_logger(__name__)


class Driver:
    """Keeps one unbounded pipeline on an engine.

    Args:
        settings: section `[worker]`.
        rule: when a study is complete; the listener's.
        deid: section `[deid]`.
        ledger: what the pipeline claims from.
        stopping: ends the pipeline and the driver when set.
        clock: gives seconds since the epoch.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        rule: CompletionRule,
        deid: DeidSettings,
        ledger: Ledger,
        *,
        stopping: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._rule = rule
        self._deid = deid
        self._ledger = ledger
        self._stopping = stopping
        self._clock = clock
        given = parse_beam_options(settings.beam_options).view_as(GoogleCloudOptions).job_name
        self._name = given or _name_of(settings.root)
        self._flags = ["--streaming", *beam_flags(settings)]
        if not given:
            self._flags.append(f"--job_name={self._name}")

    def run(self, *, once: bool = False) -> None:
        """Keep the pipeline running until told to stop.

        Args:
            once: return as soon as no study waits and none is at work.

        Raises:
            LedgerUnavailableError: with `once`, if the ledger does not answer; else it is asked again.
        """
        pause_s = self._settings.poll_s
        while not self._stopping.is_set():
            began = monotonic()
            try:
                cancel_jobs(self._flags, self._name)
                self._give_back(error=PIPELINE_ENDED)
                if self._run_pipeline(once=once):
                    return
            except LedgerUnavailableError as error:
                if once:
                    raise
                _log.warning("ledger_unavailable", error=describe_error(error))
            except Exception as error:  # noqa: BLE001 - an engine that is down raises whatever its client does
                _log.warning("engine_unavailable", error=describe_error(error))
                forget_job_server()
            pause_s = self._settings.poll_s if monotonic() - began > _LIVED_S else pause_s
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_pipeline(self, *, once: bool) -> bool:
        """Run one pipeline to its end.

        Returns:
            whether the end was wanted.
        """
        pipeline = new_pipeline(self._flags)
        _ = (
            pipeline
            | self._claim_studies()
            | beam.Reshuffle()
            | BeginStudies(
                ledger_url=self._settings.ledger_url,
                lease_s=self._settings.lease_s,
                max_attempts=self._settings.max_attempts,
            )
            | ProcessStudies(self._settings, self._deid)
            | "Report" >> beam.Map(report_study)
        )
        job = pipeline.run()
        _log.info("pipeline_submitted", name=self._name)
        try:
            state = self._watch(job, once=once)
        finally:
            with suppress(Exception):  # the engine may be gone; what Beam started here for the job ends, too
                job.cancel()
        was_wanted = state != STALLED and not PipelineState.is_terminal(state)
        process_metrics().batches.labels("done" if was_wanted else "failed").inc()
        self._give_back(error=None if was_wanted else PIPELINE_ENDED)
        _log.log(20 if was_wanted else 30, "pipeline_ended", name=self._name, state=state)
        return was_wanted

    def _claim_studies(self) -> ClaimStudies:
        settings = self._settings
        return ClaimStudies(
            name=self._name,
            rule=self._rule,
            key_file=settings.key_file,
            ledger_url=settings.ledger_url,
            poll_s=settings.poll_s,
            at_once=settings.studies_in_flight,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
        )

    def _watch(self, job: Any, *, once: bool) -> str:
        """Wait until the pipeline ends, or is to be ended; give its state."""
        looks, pause_s = _LOOKS, max(self._settings.lease_s, SHORTEST_STALL_S) / _LOOKS
        next_look = 0.0
        while True:
            state = str(job.state)
            if PipelineState.is_terminal(state) or self._stopping.is_set() or (once and self._is_idle()):
                return state
            if monotonic() >= next_look:
                looks = looks - 1 if self._is_stuck() else _LOOKS
                if not looks:
                    return STALLED
                next_look = monotonic() + pause_s
            self._stopping.wait(self._settings.poll_s)

    def _is_stuck(self) -> bool:
        """Say whether studies wait while the pipeline works at none. What has begun keeps its own lease."""
        try:
            held = self._ledger.claims_held_by(self._name)
            waits = bool(held) or self._ledger.oldest_complete_age_s(now=self._clock()) > 0
        except LedgerUnavailableError:
            return False
        return waits and not any(claim.has_begun for claim in held)

    def _is_idle(self) -> bool:
        self._ledger.complete_studies(self._rule, now=self._clock())
        counts = self._ledger.counts_by_state()
        return not counts[StudyState.COMPLETE] and not self._ledger.claims_held_by(self._name)

    def _give_back(self, *, error: str | None) -> None:
        """Give back what the pipeline held when it ended.

        Args:
            error: why what had begun failed; None if it did not.
        """
        held = self._ledger.claims_held_by(self._name)
        for has_begun in (True, False):
            tokens = [claim.claim_token for claim in held if claim.has_begun is has_begun]
            why = error if has_begun else None
            self._ledger.release_claims(
                tokens, error=why, max_attempts=self._settings.max_attempts, now=self._clock()
            )
            if why is not None and tokens:
                process_metrics().studies.labels("attempt_failed").inc(len(tokens))


def _name_of(root: Path) -> str:
    """Name the pipeline of a root on this host: the same after a restart, and not that of another root."""
    return f"echobeam-{socket.gethostname()}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
