"""Erase a subject: spool, ledger, tables, pool, datasets, archive, audit; and say which models saw it.

The order makes it safe to kill and run again. The certificate is written first, incomplete, with the
models and what was found; then the studies are stopped, so that no worker claims them; then files go;
the ledger forgets last. A second run finds what the first left and ends with the same certificate.

Nothing here knows or writes a patient's identifier: subjects and studies go by their keys.
"""

import fcntl
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.deid import Pseudonymizer
from beam_jobs.errors import BeamJobsError
from beam_jobs.pool_dataset import MANIFEST_FILE, PAST_MANIFESTS, PoolManifest
from beam_jobs.result_files import ResultFile, Results, list_files, source_of
from beam_jobs.staging import files_of_study, remove_released
from dicom_listener.exit_codes import ExitCode
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.erasure import forget_studies, list_identities, spooled_paths, stop_studies
from echo_models.errors import ModelsError
from echo_models.manifest import TASKS, read_manifest
from echo_models.registry import Registry

FORMAT: Final = 1
CERTIFICATES: Final = "erasures"
_SUBJECT_KEY: Final = re.compile(r"[0-9a-f]{32}")


class EraseError(BeamJobsError):
    """A subject cannot be erased as asked."""

    exit_code = ExitCode.REFUSED


class NoSuchSubjectError(EraseError):
    """Nothing is known of the subject."""

    exit_code = ExitCode.NOT_FOUND


class EraseBusyError(EraseError):
    """Something works on what is to be erased."""

    exit_code = ExitCode.BUSY


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything of a root is."""

    root: Path
    spool: Path
    results: Results
    pool: Path
    archive: Path
    models: Path


@dataclass(frozen=True, slots=True)
class Exposure:
    """A model whose training pool had frames of the subject.

    Attributes:
        model: name of the bundle, as the tables have it.
        frames: how many of the pool were the subject's; None where the pool's frames are gone.
    """

    model: str
    in_production: bool
    pool: str
    frames: int | None


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased of one subject.

    Attributes:
        study_uids: of the studies that the ledger knows, for the ledger alone.
        study_keys: of these and of any that only the results know.
        released: files and folders in place, by table or output.
        datasets: folders of pool datasets with frames of the subject.
        exposed: models that may have learned from it.
        unknown_models: bundles trained on a pool of which no list of subjects is left.
        was_interrupted: whether an earlier erasure of the subject did not come to its end.
    """

    subject_key: str
    study_uids: tuple[str, ...] = field(repr=False)
    study_keys: tuple[str, ...]
    spooled: tuple[str, ...]
    released: Mapping[str, tuple[ResultFile, ...]]
    datasets: tuple[Path, ...]
    exposed: tuple[Exposure, ...]
    unknown_models: tuple[str, ...]
    was_interrupted: bool

    @property
    def is_nothing(self) -> bool:
        """Whether nothing of the subject is there."""
        return not (self.study_keys or self.datasets or self.exposed or self.was_interrupted)

    def counts(self) -> dict[str, int]:
        """Count what is to be erased, by kind."""
        files = {name: len(paths) for name, paths in self.released.items()}
        return {
            "studies": len(self.study_keys),
            "spooled_instances": len(self.spooled),
            **{f"files_of_{name}": count for name, count in sorted(files.items())},
            "pool_datasets": len(self.datasets),
        }


def subject_key_of(
    pseudonymizer: Pseudonymizer,
    ledger: Ledger,
    *,
    patient_id: str | None = None,
    study_uid: str | None = None,
) -> str:
    """Find the key of a subject by an identifier of the identified zone.

    Raises:
        NoSuchSubjectError: if the ledger has no study of this UID.
    """
    if patient_id is not None:
        return pseudonymizer.subject_key(patient_id, "")
    for identity in list_identities(ledger):
        if identity.study_instance_uid == study_uid:
            return pseudonymizer.subject_key(identity.patient_id, identity.study_instance_uid)
    raise NoSuchSubjectError("The ledger has no study of this UID: see `echobeam studies list`")


def plan_erasure(subject_key: str, site: Site, ledger: Ledger, pseudonymizer: Pseudonymizer) -> Erasure:
    """Look for everything of a subject; changes nothing.

    Raises:
        EraseError: if this is not the form of a subject key.
    """
    if not _SUBJECT_KEY.fullmatch(subject_key):
        raise EraseError(
            "A subject key has 32 hexadecimal digits, as in the column `subject_key`; received something "
            "else. If it is a patient ID, put it into a file and give --patient-id-file"
        )
    uids = [
        identity.study_instance_uid
        for identity in list_identities(ledger)
        if pseudonymizer.subject_key(identity.patient_id, identity.study_instance_uid) == subject_key
    ]
    keys = {pseudonymizer.study_key(uid) for uid in uids} | set(_studies_in_results(site, subject_key))
    released: dict[str, tuple[ResultFile, ...]] = {}
    for key in sorted(keys):
        for name, paths in files_of_study(key, site.results, site.pool, site.archive).items():
            released[name] = (*released.get(name, ()), *paths)
    manifests = dict(_manifests(site.pool))
    datasets = tuple(
        folder for folder in _dataset_folders(site.pool) if _frames_in_dataset(folder, subject_key)
    )
    exposed, unknown = _exposures(site, subject_key, manifests)
    return Erasure(
        subject_key=subject_key,
        study_uids=tuple(uids),
        study_keys=tuple(sorted(keys)),
        spooled=tuple(spooled_paths(ledger, uids)),
        released=released,
        datasets=datasets,
        exposed=exposed,
        unknown_models=unknown,
        was_interrupted=_interrupted(site, subject_key) is not None,
    )


def erase(
    plan: Erasure, site: Site, ledger: Ledger, *, clock: Callable[[], float]
) -> tuple[Path, dict[str, Any]]:
    """Erase what a plan lists, and certify it.

    Args:
        plan: as `plan_erasure` made it just before.
        site: where everything is.
        ledger: the ledger.
        clock: gives seconds since the epoch.

    Returns:
        the certificate's file, and what is in it.

    Raises:
        EraseBusyError: if the nightly job runs.
        dicom_listener.errors.StudyBusyError: if a study is being received or processed.
    """
    with no_night(site.root / "run" / "retrain.lock"):
        stop_studies(ledger, plan.study_uids, now=clock())
        path, certificate = _open_certificate(plan, site, now=clock())
        for name in plan.spooled:
            (site.spool / name).unlink(missing_ok=True)
        for key in plan.study_keys:  # not by the plan's paths: studies may have been packed since
            remove_released(key, site.results, site.pool, site.archive)
        for folder in plan.datasets:
            shutil.rmtree(folder)
        shutil.rmtree(site.root / "run" / "retrain", ignore_errors=True)
        rows = forget_studies(ledger, plan.study_uids, now=clock())
        _strike_from_manifests(site.pool, plan.subject_key)
        found = Counter(certificate["erased"])
        found.update({f"ledger_rows_of_{table}": count for table, count in rows.items()})
        certificate |= {"erased": dict(sorted(found.items())), "complete": True, "completed_at": clock()}
        _write_json(path, certificate)
    return path, certificate


def _studies_in_results(site: Site, subject_key: str) -> Iterator[str]:
    """Find the studies of a subject among all files; the ledger may have forgotten them."""
    files: list[ResultFile] = [*(site.pool / "a4c").rglob("*.parquet")]
    for table in ("studies", "audit"):
        files += list_files(site.results, table)
    for file in files:
        columns = pq.read_table(source_of(file), columns=["subject_key", "study_key"], partitioning=None)
        mine = columns.filter(pc.equal(columns["subject_key"], subject_key))
        yield from set(mine["study_key"].to_pylist())


def _dataset_folders(pool: Path) -> list[Path]:
    return sorted(path for path in pool.glob("datasets/*") if path.is_dir())


def _frames_in_dataset(folder: Path, subject_key: str) -> int:
    count = 0
    for shard in folder.glob("*.parquet*"):
        try:
            keys = pq.read_table(shard, columns=["subject_key"], partitioning=None)["subject_key"]
        except (OSError, pa.ArrowException):
            continue  # unfinished: whoever writes it, or the next night, removes it
        count += pc.sum(pc.equal(keys, subject_key)).as_py() or 0
    return count


def _manifests(pool: Path) -> Iterator[tuple[str, tuple[Path, PoolManifest]]]:
    """Yield what is known of each dataset there ever was, by fingerprint."""
    for path in (*pool.glob(f"datasets/*/{MANIFEST_FILE}"), *pool.glob(f"{PAST_MANIFESTS}/*.json")):
        manifest = PoolManifest.from_json(path.read_text())
        yield manifest.fingerprint, (path, manifest)


def _exposures(
    site: Site, subject_key: str, manifests: Mapping[str, tuple[Path, PoolManifest]]
) -> tuple[tuple[Exposure, ...], tuple[str, ...]]:
    exposed, unknown = [], []
    registry = Registry(site.models)
    for task in TASKS:
        production = registry.production(task)
        for number in registry.versions(task):
            try:
                bundle = read_manifest(site.models / task / number)
            except ModelsError:
                continue
            fingerprint = bundle.training.get("pool", {}).get("fingerprint")
            if fingerprint is None:
                continue
            _, manifest = manifests.get(fingerprint, (None, None))
            folder = site.pool / "datasets" / manifest.name if manifest else None
            frames = _frames_in_dataset(folder, subject_key) if folder and folder.exists() else None
            if frames or (manifest and subject_key in manifest.subject_keys):
                exposed.append(Exposure(bundle.name, number == production, fingerprint, frames))
            elif manifest is None or not (manifest.subject_keys or frames is not None):
                unknown.append(bundle.name)
    return tuple(exposed), tuple(unknown)


def _open_certificate(plan: Erasure, site: Site, *, now: float) -> tuple[Path, dict[str, Any]]:
    """Write the certificate before anything is removed, or go on with that of an interrupted run."""
    folder = site.root / CERTIFICATES
    folder.mkdir(mode=0o700, exist_ok=True)
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "code_version": version("echobeam"),
        "subject_key": plan.subject_key,
        "complete": False,
        "began_at": now,
        "completed_at": None,
        "erased": plan.counts(),
        "models": [asdict(exposure) for exposure in plan.exposed],
        "models_of_unknown_pools": list(plan.unknown_models),
        "not_covered": [
            "the archive that sent the studies",
            "backups, and copies that were handed on",
            "logs of the listener, which hold UIDs, and the record of `echobeam reidentify`",
            "weights of the models that are listed: retire them",
        ],
    }
    path = folder / f"{plan.subject_key}-{int(now)}.json"
    earlier = _interrupted(site, plan.subject_key)
    if earlier is not None:
        path, begun = earlier, json.loads(earlier.read_text())
        counts = {name: max(count, plan.counts().get(name, 0)) for name, count in begun["erased"].items()}
        models = {model["model"]: model for model in (*certificate["models"], *begun["models"])}
        certificate = begun | {"erased": {**plan.counts(), **counts}, "models": list(models.values())}
    _write_json(path, certificate)
    return path, certificate


def _interrupted(site: Site, subject_key: str) -> Path | None:
    for path in sorted((site.root / CERTIFICATES).glob(f"{subject_key}-*.json")):
        if not json.loads(path.read_text())["complete"]:
            return path
    return None


def _strike_from_manifests(pool: Path, subject_key: str) -> None:
    """Take the subject out of the lists of those whose frames were in a pool: the certificate has it."""
    for path in pool.glob(f"{PAST_MANIFESTS}/*.json"):
        fields = json.loads(path.read_text())
        if subject_key in fields.get("subject_keys", ()):
            fields["subject_keys"].remove(subject_key)
            _write_json(path, fields)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    unfinished.replace(path)


@contextmanager
def no_night(lock: Path) -> Iterator[None]:
    """Keep the nightly job from starting for the block.

    Raises:
        EraseBusyError: if it runs.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EraseBusyError(
                "`echobeam retrain` runs, and reads pool and tables: try again when it has ended"
            ) from error
        yield
