"""Workers that run beside the benchmark as programs, and how long they take for studies that come."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.archive import Archive, shipped_archive, toy_archive
from benchmarks.services import service, wait_until, write_configuration

POLL_S: Final = 0.1


@contextmanager
def live_archive(*, is_toy: bool, frames_per_clip: int, settings: Sequence[str] = ()) -> Iterator[Archive]:
    """Make an archive whose folder has the configuration for programs that work on it.

    Args:
        is_toy: tiny clips and nearly free models; else a phantom's study and the bundles that ship.
        frames_per_clip: of each clip.
        settings: lines of section `[worker]`.
    """
    with ExitStack() as stack:
        if is_toy:
            archive = stack.enter_context(toy_archive(clips=2, frames_per_clip=frames_per_clip))
        else:
            archive = stack.enter_context(shipped_archive(frames_per_clip=frames_per_clip))
        write_configuration(archive.settings.root, {"worker": [f"poll_s = {POLL_S}", *settings]})
        yield archive


@contextmanager
def working(archive: Archive, *options: str, core: int | None = None, name: str = "work") -> Iterator[None]:
    """Run `echobeam work` on an archive for the block."""
    with service("work", archive.settings.root, *options, core=core, name=name):
        yield


def seconds_for(archive: Archive, studies: int) -> float:
    """Let so many studies be complete at once; give how long until the last was done, by the ledger's clock.

    Raises:
        RuntimeError: if they are not done by the deadline.
    """
    wanted = archive.received + studies
    archive.receive(studies)
    begun = time.time()
    root = archive.settings.root
    wait_until(lambda: archive.done() == wanted, f"{studies} studies", logs=root, look_s=POLL_S)
    records = archive.ledger.list_studies(limit=wanted)
    return max(record.done_at or 0.0 for record in records) - begun
