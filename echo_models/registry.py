"""The registry: versioned bundles, an alias for the one in production, and the story of both.

    <root>/<task>/<version>/        a bundle; never changed once there
    <root>/<task>/production        the version at work; replaced atomically
    <root>/<task>/history.jsonl     one line for each event: see `Event`

A reader needs no lock. Writers of one task wait for each other. A writer that is killed, or whose disk
is full, leaves what is at work as it was, and a history that can be read and written on.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from echo_models.errors import BundleError, NotInRegistryError, RegistryError
from echo_models.manifest import MANIFEST, TASKS, read_manifest, sha256_of, verify

PRODUCTION: Final = "production"
SHIPPED: Final = Path(__file__).parent / "bundles"
"""The bundles inside this package, `<task>/<version>/`."""

_HISTORY: Final = "history.jsonl"
_LOCK: Final = ".lock"
_SHIPS: Final = "ships with echobeam"
_OLDER: Final = "older than what is kept"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a task's history.

    Attributes:
        at: seconds since the epoch.
        action: "publish", "promote", "rollback", "prune" (its files are gone), or "refuse" (it never came
            in).
        version: what was published, is in production since, or is gone.
        digest: sha256 of that version's manifest, which holds the digests of its files; empty if refused.
        reason: why, in words.
        numbers: what the decision rested on.
    """

    at: float
    action: str
    version: str
    digest: str
    reason: str
    numbers: Mapping[str, Any]


class Registry:
    """Models by task and version under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def resolve(self, task: str, alias: str = PRODUCTION) -> Path:
        """Find the bundle an alias or a version names now.

        Raises:
            NotInRegistryError: if there is none.
            BundleError: if its manifest is not the one that was published.
        """
        version = self.production(task) if alias == PRODUCTION else alias
        if version is None:
            raise NotInRegistryError(
                f"no version of {task!r} is in production under {self.root}; "
                "promote one with `echobeam models promote`"
            )
        folder = self._folder(task, version)
        published = [
            event.digest
            for event in self.history(task)
            if event.version == version and event.action == "publish"
        ]
        if published and sha256_of(folder / MANIFEST) != published[-1]:
            raise BundleError(
                f"{folder / MANIFEST} is not the one that was published; restore it or roll back"
            )
        return folder

    def production(self, task: str) -> str | None:
        """Name the version in production, or None."""
        try:
            return (self._task(task) / PRODUCTION).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def versions(self, task: str) -> list[str]:
        """List the versions of a task, oldest publication first."""
        present = {path.parent.name for path in self._task(task).glob(f"[!.]*/{MANIFEST}")}
        published = dict.fromkeys(event.version for event in self.history(task))
        return [version for version in published if version in present] + sorted(present - published.keys())

    def history(self, task: str) -> list[Event]:
        """Tell what happened to a task, oldest first."""
        try:
            text = (self._task(task) / _HISTORY).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        whole, _, _ = text.rpartition("\n")  # a line without its end was never finished
        return [Event(**json.loads(line)) for line in whole.splitlines()]

    def publish(
        self,
        folder: Path,
        *,
        reason: str = "published",
        numbers: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> Path:
        """Copy a bundle in; it is not put to work yet. Again is no change.

        Args:
            folder: a bundle, anywhere.
            reason: for the history.
            numbers: for the history.
            now: seconds since the epoch; None for the clock's.

        Returns:
            its folder in the registry.

        Raises:
            BundleError: if the bundle is not whole.
            RegistryError: if another bundle has this version.
        """
        manifest = verify(folder)
        target = self._task(manifest.task) / manifest.version
        digest = sha256_of(folder / MANIFEST)
        with self._writing(manifest.task):
            if target.exists():
                if sha256_of(target / MANIFEST) != digest:
                    raise RegistryError(
                        f"{manifest.name} is in the registry with other content; publish under a new version"
                    )
                return target
            incoming = target.with_name(f".incoming-{manifest.version}")
            shutil.rmtree(incoming, ignore_errors=True)  # left by a publisher that was killed
            try:
                shutil.copytree(folder, incoming)
                verify(incoming)
                # Recorded first: a version that is there has been published, and its digest is known.
                self._record(
                    manifest.task,
                    _event("publish", manifest.version, digest, reason=reason, numbers=numbers, now=now),
                )
                incoming.replace(target)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return target

    def refuse(
        self,
        task: str,
        version: str,
        *,
        reason: str,
        numbers: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None:
        """Record that a bundle did not come in, and why; its version is used up."""
        with self._writing(task):
            self._record(task, _event("refuse", version, "", reason=reason, numbers=numbers, now=now))

    def promote(
        self,
        task: str,
        version: str,
        *,
        reason: str,
        numbers: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None:
        """Put a version to work, after checking its digests.

        Raises:
            NotInRegistryError: if it is not there.
            BundleError: if it is not whole.
        """
        with self._writing(task):
            digest = sha256_of(self._folder(task, version) / MANIFEST)
            event = _event("promote", version, digest, reason=reason, numbers=numbers, now=now)
            self._put_to_work(task, event)

    def rollback(self, task: str, *, reason: str = "rolled back", now: float | None = None) -> str:
        """Go back to the version that was in production before; the present one may be broken.

        A version that was pruned meanwhile is passed over.

        Returns:
            the version at work now.

        Raises:
            RegistryError: if there was none before, or none is left.
            BundleError: if that one is not whole.
        """
        with self._writing(task):
            *before, current = self._line_of_production(task) or [""]
            present = self.versions(task)
            left = [version for version in before if version in present]
            if not left:
                raise RegistryError(f"{task!r} has no other version to go back to that was in production")
            digest = sha256_of(self._folder(task, left[-1]) / MANIFEST)
            numbers = {"from": current}
            event = _event("rollback", left[-1], digest, reason=reason, numbers=numbers, now=now)
            self._put_to_work(task, event)
        return left[-1]

    def prune(self, task: str, *, keep: int, now: float | None = None) -> list[str]:
        """Remove the files of old versions; the history stays.

        What stays: the version in production, the `keep` versions that rollback would go back to first,
        the `keep` that were published last, and those that ship with the package.

        Returns:
            the versions removed.
        """
        with self._writing(task):
            events = self.history(task)
            versions = self.versions(task)
            line = [version for version in self._line_of_production(task) if version in versions]
            staying = {self.production(task), *line[-keep - 1 :], *versions[-keep:]}
            staying |= {event.version for event in events if event.reason == _SHIPS}
            removed = [version for version in versions if version not in staying]
            for version in removed:
                folder = self._folder(task, version)
                digest = sha256_of(folder / MANIFEST)
                self._record(task, _event("prune", version, digest, reason=_OLDER, now=now))
                (folder / MANIFEST).unlink()  # first: a folder without it is no version
                shutil.rmtree(folder)
            return removed

    def install_shipped(self, shipped: Path = SHIPPED, *, now: float | None = None) -> list[str]:
        """Publish the bundles that ship with the package; promote them where nothing is in production.

        Returns:
            names of the bundles put to work by this call.
        """
        installed = []
        for path in sorted(shipped.glob(f"*/*/{MANIFEST}")):
            manifest = read_manifest(path.parent)
            self.publish(path.parent, reason=_SHIPS, now=now)
            if self.production(manifest.task) is None:
                self.promote(manifest.task, manifest.version, reason=_SHIPS, now=now)
                installed.append(manifest.name)
        return installed

    def _put_to_work(self, task: str, event: Event) -> None:
        verify(self._folder(task, event.version))
        # History first: what is at work is always explained. An alias that was not replaced after all
        # is seen by `_line_of_production`.
        self._record(task, event)
        _replace_text(self._task(task) / PRODUCTION, event.version + "\n")

    def _line_of_production(self, task: str) -> list[str]:
        """List the versions in production, the present one last; a rollback takes the last away."""
        line: list[str] = []
        current = self.production(task)
        events = [event for event in self.history(task) if event.action in ("promote", "rollback")]
        if events and events[-1].version != current:
            events.pop()  # its alias was never replaced: the process was killed in between
        for event in events:
            if event.action == "rollback":
                while line and line[-1] != event.version:
                    line.pop()
            elif not line or line[-1] != event.version:
                line.append(event.version)
        return line

    def _record(self, task: str, event: Event) -> None:
        line = (json.dumps(asdict(event), sort_keys=True) + "\n").encode()
        with (self._task(task) / _HISTORY).open("ab+", buffering=0) as file:
            file.seek(0)
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)  # what a killed writer, or one without space, began
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
            os.fsync(file.fileno())

    @contextmanager
    def _writing(self, task: str) -> Iterator[None]:
        folder = self._task(task)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _task(self, task: str) -> Path:
        if task not in TASKS:
            raise NotInRegistryError(f"a task is one of {', '.join(TASKS)}; received {task!r}")
        return self.root / task

    def _folder(self, task: str, version: str) -> Path:
        if version not in self.versions(task):
            known = ", ".join(self.versions(task)) or "none"
            raise NotInRegistryError(
                f"{task!r} has no version {version!r} under {self.root}; there are: {known}"
            )
        return self._task(task) / version


def _event(
    action: str,
    version: str,
    digest: str,
    *,
    reason: str,
    now: float | None,
    numbers: Mapping[str, Any] | None = None,
) -> Event:
    at = time.time() if now is None else now
    return Event(at, action, version, digest, reason, dict(numbers or {}))


def _replace_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one, whole, whatever happens."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
