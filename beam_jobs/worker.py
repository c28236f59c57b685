"""The worker: claims complete studies and has them processed, in this process or on an engine.

In this process it claims a batch, runs a bounded pipeline over it, and claims again; on an engine one
pipeline claims without end and the worker watches over it: see `beam_jobs.driver`. Named studies are
batches on either.

Where `batches_at_once` says so, several batches are at work at once, each in a thread of its own: while one
waits for a disk, is described to Beam or has little left to do, another may have the networks.

A batch is claimed under leases that a heartbeat renews. Studies are committed one by one inside the
pipeline; if it fails, those not yet committed are given back with the error, and the ledger decides
whether there is another attempt. So the worker may be killed at any moment.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import getpid
from queue import SimpleQueue
from typing import Final, Self

import structlog

from beam_jobs.batches import BatchPipeline
from beam_jobs.claims import pseudonymize_claim
from beam_jobs.deid import Pseudonymizer
from beam_jobs.deid.ocr import OcrError, find_ocr
from beam_jobs.driver import Driver
from beam_jobs.engine import beam_flags, names_engine
from beam_jobs.errors import SetupError, StepError
from beam_jobs.heartbeat import Heartbeat
from beam_jobs.metrics import process_metrics
from beam_jobs.records import StudyClaim
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.staging import sweep_unfinished
from beam_jobs.turns import Turns
from dicom_listener.errors import LedgerUnavailableError, StoreError
from dicom_listener.ledger import ClaimedStudy, Ledger
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.log import describe_error
from dicom_listener.object_store import StoreUrl, check_store
from dicom_listener.operations.health import serve_http
from dicom_listener.operations.runfile import announced
from echo_models.errors import ModelsError
from echo_models.manifest import TASKS
from echo_models.registry import Registry

RUN_FILE: Final = "run/worker.json"
_NAMED_AT_ONCE: Final = 256
"""Study Instance UIDs that one question to the ledger names."""

UNREACHED: Final = "the pipeline ended without this study"

_log = structlog.get_logger(__name__)


class Worker:
    """A worker that may run while its `with` block does.

    Args:
        settings: section `[worker]`.
        rule: when a study is complete; the listener's.
        deid: section `[deid]`; its defaults if None.
        clock: gives seconds since the epoch.

    Attributes:
        http_port: where it answers /metrics, /healthz and /readyz.
        ledger: the ledger it claims from.

    Raises:
        SetupError: on entry, if a model has no version in production, an option is not Beam's, the program
            for reading text is required and not installed, or the object store that is to have the results
            does not answer or does not keep what we need of it (`dicom_listener.object_store.check_store`).
        KeyFileError: on entry, if the key file cannot be trusted.
        PortInUseError: on entry, if the HTTP port is taken.
        LedgerUnavailableError: on entry, if the ledger cannot be opened.
    """

    http_port: int
    ledger: Ledger

    def __init__(
        self,
        settings: WorkerSettings,
        rule: CompletionRule,
        *,
        deid: DeidSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._deid = DeidSettings(root=settings.root) if deid is None else deid
        self._rule = rule
        self._clock = clock
        self._name = f"{socket.gethostname()}-{getpid()}"
        self._stack = ExitStack()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        _log.info("working", http_port=self.http_port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._stack.close()
        _log.info("stopped")

    def stop(self) -> None:
        """Finish the batches that are under way, then claim no more. Any thread may call it."""
        self._stopping.set()

    def is_ready(self) -> bool:
        """Say whether a study that is complete now would be processed."""
        if self._stopping.is_set():
            return False
        try:
            self.ledger.check_writable()
        except LedgerUnavailableError as error:
            _log.warning("not_ready", error=describe_error(error))
            return False
        return True

    def run(self, *, once: bool = False) -> None:
        """Process studies until told to stop.

        Args:
            once: return as soon as no study can be claimed.

        Raises:
            LedgerUnavailableError: with `once`, if the ledger does not answer; else it is asked again.
        """
        if self._is_on_engine:
            Driver(
                self._settings,
                self._rule,
                self._deid,
                self.ledger,
                stopping=self._stopping,
                clock=self._clock,
            ).run(once=once)
        else:
            self._run_batches(once=once)

    def run_studies(self, study_instance_uids: Sequence[str]) -> None:
        """Process these studies as far as they are complete, in bounded pipelines, and return.

        Raises:
            LedgerUnavailableError: if the ledger does not answer.
        """
        for start in range(0, len(study_instance_uids), _NAMED_AT_ONCE):
            self._run_batches(once=True, only=study_instance_uids[start : start + _NAMED_AT_ONCE])

    def _run_batches(self, *, once: bool, only: Sequence[str] | None = None) -> None:
        with ThreadPoolExecutor(self._batches_at_once) as lanes:
            begun = [lanes.submit(self._run_lane, once=once, only=only) for _ in range(self._batches_at_once)]
            for lane in begun:
                lane.result()

    def _run_lane(self, *, once: bool, only: Sequence[str] | None) -> None:
        """Process batch after batch; what ends one lane ends the others after their batch."""
        try:
            self._process_batches(once=once, only=only)
        except BaseException:
            self._stopping.set()
            raise

    def _process_batches(self, *, once: bool, only: Sequence[str] | None) -> None:
        while not self._stopping.is_set():
            try:
                worked = self.process_next_batch(only=only)
            except LedgerUnavailableError as error:
                if once:
                    raise
                _log.warning("ledger_unavailable", error=describe_error(error))
                worked = False
            if worked:
                continue
            if not once:
                self._stopping.wait(self._settings.poll_s)
            elif self._turns.are_over(wait_s=self._settings.poll_s):
                return

    def process_next_batch(self, *, only: Sequence[str] | None = None) -> bool:
        """Claim a batch and process it.

        Args:
            only: Study Instance UIDs; None for any study.

        Returns:
            False if there was no study to claim, or none that may be at work beside what is.

        Raises:
            LedgerUnavailableError: if the ledger does not answer.
        """
        self.ledger.complete_studies(self._rule, now=self._clock())
        with self._turns.of(lambda is_idle: self._claim(only, is_idle=is_idle)) as claimed:
            if not claimed:
                return False
            self._process([pseudonymize_claim(study, self._pseudonymizer) for study in claimed])
            return True

    def _claim(self, only: Sequence[str] | None, *, is_idle: bool) -> list[ClaimedStudy]:
        settings = self._settings
        return self.ledger.claim_studies(
            worker=self._name,
            limit=self._studies_per_batch,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            now=self._clock(),
            is_idle=is_idle,
            only=only,
        )

    def _process(self, claims: Sequence[StudyClaim]) -> None:
        tokens = [claim.claim_token for claim in claims]
        metrics = process_metrics()
        began = time.monotonic()
        error: str | None = None
        with self._heartbeat(tokens), self._free_pipeline() as pipeline:
            try:
                pipeline.run(claims)
            except Exception as failure:  # noqa: BLE001 - whatever it was, the claims must go back
                error = describe_failure(failure)
        left = self.ledger.extend_claims(tokens, lease_s=self._settings.lease_s, now=self._clock())
        if left:
            metrics.studies.labels("attempt_failed").inc(len(left))
            self.ledger.release_claims(
                left, error=error or UNREACHED, max_attempts=self._settings.max_attempts, now=self._clock()
            )
        duration_s = time.monotonic() - began
        metrics.batches.labels("failed" if left else "done").inc()
        metrics.batch_duration.observe(duration_s)
        _log.log(
            30 if left else 20,
            "batch_failed" if left else "batch_done",
            studies=len(claims),
            given_back=len(left),
            duration_s=round(duration_s, 3),
            **({"error": error} if error else {}),
        )

    @contextmanager
    def _free_pipeline(self) -> Iterator[BatchPipeline]:
        """Give a pipeline that no other batch goes through while the block runs."""
        pipeline = self._pipelines.get()
        try:
            yield pipeline
        finally:
            self._pipelines.put(pipeline)

    @contextmanager
    def _heartbeat(self, tokens: Sequence[str]) -> Iterator[None]:
        """Renew the leases while the block runs."""
        heartbeat = Heartbeat(self.ledger, lease_s=self._settings.lease_s, clock=self._clock)
        heartbeat.add(tokens)
        heartbeat.start()
        try:
            yield
        finally:
            heartbeat.stop()

    def _start(self, stack: ExitStack) -> None:
        settings = self._settings
        self._is_on_engine = names_engine(beam_flags(settings))
        self._studies_per_batch = (
            settings.studies_in_flight if self._is_on_engine else settings.studies_per_batch
        )
        _prepare_models(settings)
        self._batches_at_once = 1 if self._is_on_engine else settings.batches_at_once
        self._turns = Turns()
        self._pipelines: SimpleQueue[BatchPipeline] = SimpleQueue()
        for _ in range(self._batches_at_once):
            self._pipelines.put(BatchPipeline(settings, self._deid))
        self._pseudonymizer = Pseudonymizer.from_key_file(settings.key_file)
        _check_ocr(self._deid)
        for place in (settings.results, settings.pool, self._deid.archive_folder):
            if isinstance(place, StoreUrl):
                _check_store(place)
            else:
                sweep_unfinished(place, now=self._clock())
        self.ledger = Ledger(settings.ledger_url)
        stack.callback(self.ledger.close)
        metrics = process_metrics()
        metrics.watch_queue(self.ledger, self._clock)
        server = stack.enter_context(
            serve_http(settings.http_host, settings.http_port, metrics.registry, self.is_ready)
        )
        self.http_port = server.port
        stack.enter_context(announced(settings.root / RUN_FILE, http_port=self.http_port))


def describe_failure(failure: BaseException) -> str:
    """Say what failed and in which step, without a value of a header."""
    steps = re.findall(r"\[while running '(?:ProcessStudies/)?(\w+)", str(failure))
    told = str(failure) if isinstance(failure, StepError) else describe_error(failure)
    own = re.sub(r" ?\[while running '[^']*'\]", "", told)
    return f"{own} in {steps[0]}" if steps else own


def _check_store(url: StoreUrl) -> None:
    try:
        check_store(url)
    except StoreError as error:
        raise SetupError(str(error)) from error


def _check_ocr(deid: DeidSettings) -> None:
    try:
        find_ocr(deid.ocr)
    except OcrError as error:
        raise SetupError(str(error)) from error


def _prepare_models(settings: WorkerSettings) -> None:
    registry = Registry(settings.models)
    try:
        installed = registry.install_shipped()
        for task in TASKS:
            registry.resolve(task)
    except ModelsError as error:
        raise SetupError(f"The models are not ready: {error}") from error
    if installed:
        _log.info("models_installed", models=installed)
