"""A spool whose instances may be received as any number of studies, for what measures the worker.

The files are made once; each study refers to the same ones, and is decoded, predicted and written anew.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundMultiFrameImageStorage,
)

from beam_jobs.deid import Pseudonymizer, deidentify_instance, read_instance
from beam_jobs.frames import flatten_frames
from beam_jobs.phantom_studies import SCREEN_COLUMNS, SCREEN_ROWS, PhantomStudy
from beam_jobs.records import Chunk, Placement
from beam_jobs.settings import WorkerSettings
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance
from dicom_listener.ledger.completion import CompletionRule
from echo_models.phantom import render_clip
from echo_models.registry import Registry
from tests.bright import BRIGHT, DARK, write_bright_registry
from tests.studies import clip

VIEWS_SHOWN: Final = ("plax", "psax_mid", "a2c", "a4c", "a4c", "cw")
"""Clips of one study: about the mix of an archive, in which four-chamber clips are common."""

AT_ONCE: Final = CompletionRule(quiet_period_s=0, max_age_s=3600)
"""A study is complete as soon as no association holds it."""

_HELD_S: Final = 3600.0


class Archive:
    """A spool, and a ledger in which its instances may be received again and again.

    Args:
        settings: of the worker that will process them.
        instances: what each study has.

    Attributes:
        received: studies so far.
    """

    def __init__(self, settings: WorkerSettings, instances: Sequence[SpooledInstance]) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.ledger_url)
        self.received = 0
        self._instances = instances

    def receive(self, studies: int) -> None:
        """Receive some more studies; all are complete in the same moment, that of the return."""
        now = time.time() - 2
        for _ in range(studies):
            self.received += 1
            for instance in self._instances:
                received = ReceivedInstance(f"1.2.3.{self.received}", "phantom", instance)
                self.ledger.record_instance(received, association="a", hold_until=now + _HELD_S, now=now)
        self.ledger.release_holds("a")
        self.ledger.complete_studies(AT_ONCE, now=now + 1)

    def done(self) -> int:
        """Count the studies that are done."""
        return self.ledger.counts_by_state()["done"]

    def require_all_done(self) -> None:
        """Check that every study that was received is done.

        Raises:
            RuntimeError: if one is not.
        """
        counts = {state: count for state, count in self.ledger.counts_by_state().items() if count}
        if counts != {"done": self.received}:
            raise RuntimeError(
                f"every study must be done for the times to mean anything; of {self.received}: {counts}"
            )

    def chunks(self, studies: int = 1) -> list[Chunk]:
        """Decode and clean the frames of some studies."""
        pseudonymizer = Pseudonymizer.from_key_file(self.settings.key_file)
        placement = Placement("", "s", pseudonymizer.subject_key("phantom", ""), 1, 1, "", "")
        decoded = [
            chunk
            for instance in self._instances
            for chunk in flatten_frames(
                deidentify_instance(
                    read_instance(self.settings.spool / instance.path), placement, pseudonymizer
                )
            )
        ]
        return decoded * studies


@contextmanager
def shipped_archive(
    *, frames_per_clip: int, views: Sequence[str] = VIEWS_SHOWN, models: Path | None = None, **settings: Any
) -> Iterator[Archive]:
    """Make an archive of a phantom's study as a machine sends it, with the bundles that ship.

    Args:
        frames_per_clip: of each instance.
        views: an instance for each.
        models: another registry.
        settings: of the worker.
    """
    if models is not None:
        settings["models"] = models.absolute()

    def fill(made: WorkerSettings) -> Iterator[SpooledInstance]:
        Registry(made.models).install_shipped()
        for path in PhantomStudy(seed=7, frames_per_clip=frames_per_clip, views=views).write(made.spool):
            yield spooled(path, JPEGBaseline8Bit)

    with _archive(settings, fill) as archive:
        yield archive


@contextmanager
def looped_archive(
    *, clips: int, frames_per_clip: int, drawn: int = 24, **settings: Any
) -> Iterator[Archive]:
    """Make an archive like `shipped_archive`, of four-chamber clips that repeat a few drawn frames."""

    def fill(made: WorkerSettings) -> Iterator[SpooledInstance]:
        Registry(made.models).install_shipped()
        study = PhantomStudy(seed=7)
        shown = render_clip(
            study.subject, "a4c", seed=7, number_of_frames=drawn, rows=SCREEN_ROWS, columns=SCREEN_COLUMNS
        )
        looped = replace(shown, frames=shown.frames[np.arange(frames_per_clip) % drawn])
        for number in range(1, clips + 1):
            path = made.spool / f"{number}.dcm"
            study.instance(looped, number).save_as(path, enforce_file_format=True)
            yield spooled(path, JPEGBaseline8Bit)

    with _archive(settings, fill) as archive:
        yield archive


@contextmanager
def toy_archive(*, clips: int, frames_per_clip: int, **settings: Any) -> Iterator[Archive]:
    """Make an archive of tiny clips, hardly any work to decode, and of models that cost next to nothing.

    Every other clip shows four chambers, so that each of the models is asked.
    """

    def fill(made: WorkerSettings) -> Iterator[SpooledInstance]:
        write_bright_registry(made.models)
        for number in range(1, clips + 1):
            path = made.spool / f"{number}.dcm"
            path.write_bytes(
                clip(1, number, frames=frames_per_clip, grey=BRIGHT if number % 2 else DARK).content
            )
            yield spooled(path, ExplicitVRLittleEndian)

    with _archive(settings, fill) as archive:
        yield archive


def spooled(path: Path, transfer_syntax: UID) -> SpooledInstance:
    """Say of a file in the spool what the listener would."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return SpooledInstance(
        sop_instance_uid=f"1.2.{int(hashlib.sha256(path.name.encode()).hexdigest()[:12], 16)}",
        series_instance_uid="1.2",
        sop_class_uid=UltrasoundMultiFrameImageStorage,
        transfer_syntax_uid=transfer_syntax,
        path=path.name,
        sha256=digest,
        size_bytes=len(content),
    )


@contextmanager
def _archive(
    settings: dict[str, Any], fill: Callable[[WorkerSettings], Iterable[SpooledInstance]]
) -> Iterator[Archive]:
    with TemporaryDirectory(prefix="echobeam-archive-") as root:
        made = WorkerSettings(**{"root": Path(root), "http_port": 0, **settings})
        made.spool.mkdir(parents=True)
        archive = Archive(made, list(fill(made)))
        try:
            yield archive
        finally:
            archive.ledger.close()
