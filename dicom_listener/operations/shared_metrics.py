"""One `/metrics` for several processes.

prometheus_client keeps the values of each process in files of a folder that all share, and adds them
up at each scrape: a counter goes on from where a process that died left it, and each gauge says how
those of the processes combine. It decides by an environment variable when it is first imported, so
whoever starts processes calls `share_metrics` before.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def share_metrics(run_folder: Path) -> Path:
    """Let this process and those that it starts keep their metrics in a folder of their own.

    Returns:
        The folder.
    """
    folder = run_folder / f"metrics-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def forget_metrics(run_folder: Path, *, keep: Path) -> None:
    """Delete the folders of listeners that were killed; only the owner of the spool may.

    Args:
        run_folder: where they are.
        keep: the one in use.
    """
    for folder in run_folder.glob("metrics-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Registries:
    """Where this process's metrics are, and what is served.

    Attributes:
        own: metrics of this process.
        served: what `/metrics` shows.
    """

    own: "CollectorRegistry"
    served: "CollectorRegistry"

    @classmethod
    def of_one_process(cls) -> Self:
        """Make the registries of a process that works alone: one."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see the module's docstring

        registry = CollectorRegistry()
        return cls(registry, registry)

    @classmethod
    def of_several_processes(cls, folder: Path) -> Self:
        """Make the registries of the process that serves for all that share the folder."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see the module's docstring
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        served = CollectorRegistry()
        MultiProcessCollector(served, path=str(folder))  # type: ignore[no-untyped-call]
        return cls(CollectorRegistry(), served)


def process_has_ended(folder: Path, pid: int) -> None:
    """Take a dead process's share out of the gauges that are about what lives."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
