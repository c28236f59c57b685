"""The demo: real clips through real associations to a query and a picture, on a folder of its own.

It does what a site would: starts `echobeam up`, sends with somebody else's client, waits until the
ledger says that the studies are done, stops the services, and asks the Parquet files. Nothing is
shortened; only the ports are any free ones and the quiet period is short.

Running it again on the same folder sends the same instances: the listener knows them, nothing is
processed twice, and the answer is the same.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

from beam_jobs.contact_sheet import Exhibit, load_models, write_contact_sheet
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.demo_clips import Clip, Skipped, describe_clips, public_clips
from beam_jobs.demo_sender import Sender
from beam_jobs.errors import BeamJobsError
from beam_jobs.phantom_studies import PhantomStudy
from beam_jobs.query import run_query
from beam_jobs.result_files import Results
from beam_jobs.settings import WorkerSettings
from dicom_listener.errors import StudyNotFoundError
from dicom_listener.ledger import Ledger, StudyRecord, StudyState
from dicom_listener.settings import ListenerSettings, load_section
from echo_models.registry import Registry

PHANTOM_SEED: Final = 777_777
"""A subject that nothing is trained on: training sets number theirs from a million times their seed."""

QUIET_PERIOD_S: Final = 2.0
READY_WITHIN_S: Final = 180.0
DONE_WITHIN_S: Final = 900.0
STOP_WITHIN_S: Final = 180.0
POLL_S: Final = 0.3

_BY_VIEW: Final = """
SELECT study_key, view, count(*) AS clips, sum(number_of_frames)::INTEGER AS frames,
       round(avg(view_confidence), 2) AS confidence, round(avg(lvh_probability), 2) AS lvh_probability
FROM clips GROUP BY study_key, view ORDER BY study_key, clips DESC, view
"""
_REJECTED: Final = "SELECT study_key, stage, reason FROM rejections ORDER BY ALL"
_CLIP_VIEWS: Final = "SELECT instance_key, view FROM clips ORDER BY ALL"


class DemoError(BeamJobsError):
    """The demo could not be carried through; the message says at what and where to look."""


class Progress(Protocol):
    """What the demo tells whoever waits for it."""

    def step(self, title: str, total: int) -> None:
        """Say that something begins that has `total` parts."""

    def advance(self, done: int) -> None:
        """Say how many of the parts are done."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of one study.

    Attributes:
        files: what was sent of it, for people.
        error: why it failed; empty where it did not.
    """

    study_key: str
    state: str
    revision: int
    files: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Report:
    """What the demo found.

    Attributes:
        client: the program that sent.
        sent: instances sent.
        already_there: how many of them the ledger had before.
        views: rows of study_key, view, clips, frames, confidence, lvh_probability.
        rejections: rows of study_key, stage, reason.
        phantom_views: of the synthetic clips, how many were named as drawn, and how many there are.
    """

    client: str
    sent: int
    already_there: int
    skipped: tuple[Skipped, ...]
    studies: tuple[StudyOutcome, ...]
    views: tuple[dict[str, Any], ...]
    rejections: tuple[dict[str, Any], ...]
    phantom_views: tuple[int, int]
    results: Results
    contact_sheet: Path
    seconds: float

    @property
    def failed(self) -> tuple[StudyOutcome, ...]:
        """The studies that were not processed."""
        return tuple(study for study in self.studies if study.state != StudyState.DONE)


def run_demo(root: Path, storescu: Path | None, progress: Progress) -> Report:
    """Send, wait, stop, ask, draw.

    Args:
        root: the demo's folder; made if absent.
        storescu: DCMTK's program to send with; None sends with pynetdicom's.
        progress: is told how far things are.

    Raises:
        DemoError: if a service does not start, ends early or does not stop, or if the studies are not
            through in time.
        SendError: if the client cannot send.
        SettingsError: if the root has a configuration that is refused.
    """
    began = monotonic()
    listener = load_section(ListenerSettings, "listener", root)
    worker = load_section(WorkerSettings, "worker", root)
    root.mkdir(parents=True, exist_ok=True)
    with _services(root) as services:
        clips, skipped = public_clips(root / "demo" / "public")
        phantom = PhantomStudy(PHANTOM_SEED)
        clips += _phantom_clips(phantom, root / "demo" / "phantom", progress)
        place = services.announced(progress)
        sender = Sender(place["host"], place["port"], place["ae_title"], storescu)
        ledger = Ledger(listener.ledger_url)
        try:
            before = _instances_known(ledger, clips)
            _send(sender, clips, progress)
            already_there = len(clips) - (_instances_known(ledger, clips) - before)
            records = _wait(ledger, clips, services, progress)
        finally:
            ledger.close()
    pseudonymizer = Pseudonymizer.from_key_file(worker.key_file)
    keys = {pseudonymizer.study_key(clip.study_instance_uid) for clip in clips}
    sheet = root / "contact_sheet.png"
    progress.step("drawing the contact sheet", 1)
    models = load_models(Registry(worker.models))
    write_contact_sheet([_exhibit(clip) for clip in clips], models, pseudonymizer, sheet)
    progress.advance(1)
    return Report(
        client=sender.client,
        sent=len(clips),
        already_there=already_there,
        skipped=tuple(skipped),
        studies=tuple(_outcome(record, clips, pseudonymizer) for record in records),
        views=_rows(worker.results, _BY_VIEW, keys),
        rejections=_rows(worker.results, _REJECTED, keys),
        phantom_views=_phantom_views(worker.results, clips, pseudonymizer, phantom),
        results=worker.results,
        contact_sheet=sheet,
        seconds=monotonic() - began,
    )


class _Services:
    """`echobeam up` as a child process."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def announced(self, progress: Progress) -> dict[str, Any]:
        """Wait for the line that says where to push."""
        progress.step("starting the listener and the worker", 1)
        if self._process.stdout is None:
            raise DemoError("echobeam up was started without a pipe to read its announcement from")
        readable, _, _ = select.select([self._process.stdout], [], [], READY_WITHIN_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise DemoError(f"echobeam up did not become ready; see {self._log}")
        progress.advance(1)
        place = json.loads(line)
        if not isinstance(place, dict):
            raise DemoError(f"echobeam up announced something else than a place: see {self._log}")
        return place

    def check(self) -> None:
        """Raise DemoError if the services have ended."""
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"echobeam up ended with code {code} before the demo was over; see {self._log}")


@contextmanager
def _services(root: Path) -> Iterator[_Services]:
    """Run `echobeam up` on free ports while the block runs; stop it and see that it drained."""
    log = root / "demo" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "ECHOBEAM_LISTENER_HOST": "127.0.0.1",
        "ECHOBEAM_LISTENER_PORT": "0",
        "ECHOBEAM_LISTENER_HTTP_PORT": "0",
        "ECHOBEAM_LISTENER_QUIET_PERIOD_S": str(QUIET_PERIOD_S),
        "ECHOBEAM_WORKER_HTTP_PORT": "0",
        "ECHOBEAM_WORKER_TUNE": "false",  # it would take as long as the demo
    }
    command = [sys.executable, "-m", "beam_jobs", "up", "--json", "--root", str(root)]
    with (
        log.open("w", encoding="utf-8") as errors,
        # In a group of its own: Ctrl-C on the terminal reaches the demo, which asks once for the drain.
        subprocess.Popen(  # noqa: S603 - this package's own verb
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, process_group=0
        ) as process,
    ):
        try:
            yield _Services(process, log)
        except BaseException:
            _end(process)
            raise
        if _end(process) != 0:
            raise DemoError(f"echobeam up did not stop cleanly (code {process.returncode}); see {log}")


def _end(process: "subprocess.Popen[str]") -> int:
    process.terminate()
    try:
        return process.wait(timeout=STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _phantom_clips(study: PhantomStudy, folder: Path, progress: Progress) -> list[Clip]:
    """Write the synthetic study once, and use it again."""
    paths = sorted(folder.glob("*.dcm"))
    if len(paths) != len(study.views):
        progress.step("drawing a synthetic study of fifteen views", len(study.views))
        paths = []
        for path in study.write(folder):
            paths.append(path)
            progress.advance(len(paths))
    clips, _ = describe_clips((path, f"synthetic {path.stem.partition('-')[2]}") for path in paths)
    return clips


def _send(sender: Sender, clips: Sequence[Clip], progress: Progress) -> None:
    progress.step(f"sending with {sender.client}", len(clips))
    sent = 0
    for group in sender.send(clips):
        sent += len(group)
        progress.advance(sent)


def _study_uids(clips: Sequence[Clip]) -> list[str]:
    return list(dict.fromkeys(clip.study_instance_uid for clip in clips))


def _instances_known(ledger: Ledger, clips: Sequence[Clip]) -> int:
    """Count the instances that the ledger has of the demo's studies."""
    known = 0
    for uid in _study_uids(clips):
        try:
            known += ledger.show_study(uid).instances
        except StudyNotFoundError:
            continue
    return known


def _wait(
    ledger: Ledger, clips: Sequence[Clip], services: _Services, progress: Progress
) -> list[StudyRecord]:
    """Wait until every study is done or failed."""
    uids = _study_uids(clips)
    progress.step("processing the studies", len(uids))
    deadline = monotonic() + DONE_WITHIN_S
    pause = threading.Event()  # never set: a wait that a signal ends, where a sleep would go on
    while True:
        services.check()
        try:
            records = [ledger.show_study(uid) for uid in uids]
        except StudyNotFoundError as error:
            raise DemoError("the client said that it sent everything, but a study is not there") from error
        ended = [record for record in records if record.state in {StudyState.DONE, StudyState.FAILED}]
        progress.advance(len(ended))
        if len(ended) == len(records):
            return records
        if monotonic() > deadline:
            raise DemoError(
                f"{len(records) - len(ended)} studies are not through after {DONE_WITHIN_S:.0f} s"
            )
        pause.wait(POLL_S)


def _outcome(record: StudyRecord, clips: Sequence[Clip], pseudonymizer: Pseudonymizer) -> StudyOutcome:
    uid = record.study_instance_uid
    files = tuple(clip.what for clip in clips if clip.study_instance_uid == uid)
    error = (record.last_error or "no reason was recorded") if record.state is StudyState.FAILED else ""
    return StudyOutcome(pseudonymizer.study_key(uid), record.state, record.revision, files, error)


def _exhibit(clip: Clip) -> Exhibit:
    real_heart = clip.what.startswith(("apical", "parasternal"))
    return Exhibit(clip.path, clip.what, frames=5 if real_heart else 1)


def _rows(results: Results, statement: str, study_keys: set[str]) -> tuple[dict[str, Any], ...]:
    """Ask the Parquet files; keep the rows of the demo's own studies."""
    rows = run_query(statement, results).to_documents()
    return tuple(row for row in rows if row["study_key"] in study_keys)


def _phantom_views(
    results: Results, clips: Sequence[Clip], pseudonymizer: Pseudonymizer, study: PhantomStudy
) -> tuple[int, int]:
    """Count the synthetic clips whose predicted view is the one that was drawn."""
    named = dict(run_query(_CLIP_VIEWS, results).rows)
    drawn = {
        pseudonymizer.instance_key(clip.sop_instance_uid): clip.path.stem.partition("-")[2]
        for clip in clips
        if clip.study_instance_uid == study.study_instance_uid
    }
    return sum(named.get(key) == view for key, view in drawn.items()), len(drawn)
