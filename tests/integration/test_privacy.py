"""A study in which a patient is left is kept back, and let go once it is clean; a subject is erased."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from beam_jobs import release, transforms
from beam_jobs.audits import read_audit, summarize_audits
from beam_jobs.command import main
from beam_jobs.deid import Pseudonymizer
from beam_jobs.deid.ocr import PROGRAM, OcrError
from beam_jobs.erase import EraseBusyError, EraseError, Site, erase, plan_erasure
from beam_jobs.errors import SetupError
from beam_jobs.metrics import process_metrics
from beam_jobs.pool import build_pool
from beam_jobs.records import CollectedStudy
from beam_jobs.result_files import Results
from beam_jobs.selection import SelectionRules
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.staging import files_of_study
from beam_jobs.tables import StudyTables, build_tables
from beam_jobs.worker import Worker
from dicom_listener.errors import StudyBusyError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.erasure import forget_studies
from echo_models.registry import Registry
from tests.bright import BRIGHT, publish_bright, write_bright_registry
from tests.programs import need
from tests.studies import AT_ONCE, MARK, Sent, clip, receive, report, uid


class Place:
    """A root that a worker works at."""

    def __init__(self, root: Path, models: Path | None = None) -> None:
        self.root = root
        if models is not None:
            shutil.copytree(models, root / "models")
        (root / "secret.key").write_bytes(bytes(range(32)))
        (root / "secret.key").chmod(0o600)
        self.ledger = Ledger(f"sqlite:///{root / 'ledger.sqlite'}")
        self.keys = Pseudonymizer.from_key_file(root / "secret.key")

    def receive(self, *instances: Sent) -> None:
        receive(self.ledger, self.root / "spool", instances, now=time.time() - 10)

    def work(self, **deid: Any) -> None:
        options = DeidSettings(root=self.root, **{"ocr": "off", **deid})
        with Worker(WorkerSettings(root=self.root, http_port=0), AT_ONCE, deid=options) as worker:
            worker.run(once=True)

    def files(self) -> set[str]:
        """List what a reader finds, by table or output."""
        return {
            path.relative_to(self.root).parts[1 if "deid_archive" not in path.parts else 0]
            for folder in ("results", "pool", "deid_archive")
            for path in (self.root / folder).rglob("*")
            if path.is_file() and not {".unfinished", ".locks"} & set(path.parts)
        }

    @property
    def site(self) -> Site:
        at = self.root
        return Site(at, at / "spool", at / "results", at / "pool", at / "deid_archive", at / "models")

    def audit(self, study: int) -> list[dict[str, Any]]:
        return read_audit(self.root / "results", self.keys.study_key(uid(study)))

    def subject(self, study: int) -> str:
        return self.keys.subject_key(f"{MARK}-{study}", uid(study))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_registry(tmp_path_factory.mktemp("registry") / "models").root


@pytest.fixture
def place(tmp_path: Path, models: Path) -> Iterator[Place]:
    made = Place(tmp_path, models)
    yield made
    made.ledger.close()


def leaking(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Let the tables hold what they must not."""
    sound = build_tables

    def build(study: CollectedStudy, **options: Any) -> StudyTables:
        chunks = tuple(replace(c, header=replace(c.header, manufacturer=value)) for c in study.chunks)
        return sound(replace(study, chunks=chunks), **options)

    monkeypatch.setattr(transforms, "build_tables", build)


def quarantined(reason: str) -> float:
    value = process_metrics().registry.get_sample_value(
        "echobeam_worker_quarantines_total", {"reason": reason}
    )
    assert value is not None
    return value


def test_a_clean_study_is_released_with_an_audit_of_every_instance(place: Place) -> None:
    place.receive(clip(1, 1), report(1, 2))
    place.work(archive=True)
    assert place.files() == {"frames", "clips", "studies", "rejections", "audit", "deid_archive"}
    audit = place.audit(1)
    assert {row["outcome"] for row in audit} == {"released"}
    assert {row["key_id"] for row in audit} == {place.keys.key_id}
    cine, document = sorted(audit, key=lambda row: -row["number_of_frames"])
    done = {(row["output"], row["element"]): row["action"] for row in cine["actions"]}
    assert done["tables", "PatientName"] == "removed"
    assert done["tables", "PatientID"] == done["tables", "StudyInstanceUID"] == "keyed"
    assert done["tables", "StudyDate"] == "shifted"
    assert done["tables", "PixelData"] == "cleaned"
    assert done["tables", "private"] == "removed"
    assert done["deid_archive", "StudyInstanceUID"] == "U"
    rules = {row["element"]: row["rule"] for row in cine["actions"] if row["output"] == "deid_archive"}
    assert rules["PatientName"] == "E.1-1 (0010,0010)"
    assert (cine["number_of_frames"], cine["ocr"], cine["is_reencoded"]) == (3, "off", False)
    assert (document["number_of_frames"], document["reason"]) == (0, None)
    assert MARK not in json.dumps(audit)


@pytest.mark.parametrize(("value", "reason"), [(MARK, "original_found"), ("Philips 7", "unexpected_value")])
def test_a_study_with_a_leak_is_kept_back_whole_and_says_why(
    place: Place, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    before = quarantined(reason)
    leaking(monkeypatch, value)
    place.receive(clip(1, 1, grey=BRIGHT), clip(1, 2))
    place.work(archive=True)
    assert place.files() == {"audit"}
    record = place.ledger.show_study(uid(1))
    assert record.state == "failed"
    assert record.attempts == 1
    assert record.last_error is not None
    assert record.last_error.startswith(f"quarantined: {reason}: ")
    assert "clips.manufacturer" in record.last_error
    assert MARK not in record.last_error
    audit = place.audit(1)
    assert {(row["outcome"], row["reason"]) for row in audit} == {("quarantined", reason)}
    assert "clips.manufacturer" in {finding["place"] for finding in audit[0]["findings"]}
    assert MARK not in json.dumps(audit)
    assert quarantined(reason) == before + 1


def test_a_quarantine_withdraws_what_an_older_revision_released(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.receive(clip(1, 1, grey=BRIGHT), clip(2, 1))
    place.work(archive=True)
    assert {"frames", "a4c", "deid_archive"} < place.files()
    place.receive(clip(1, 1, grey=BRIGHT, frames=4))
    with monkeypatch.context() as patched:
        leaking(patched, MARK)
        place.work(archive=True)
    key = place.keys.study_key(uid(1))
    left = files_of_study(key, place.site.results, place.site.pool, place.site.archive)
    assert set(left) == {"audit"}
    assert len(files_of_study(place.keys.study_key(uid(2)), *place_of(place))) > 3
    place.ledger.retry_study(uid(1), now=time.time())
    place.work(archive=True)
    assert place.ledger.show_study(uid(1)).state == "done"
    assert {"frames", "a4c", "deid_archive"} < set(files_of_study(key, *place_of(place)))
    assert {row["outcome"] for row in place.audit(1)} == {"released"}


def place_of(place: Place) -> tuple[Results, Path, Path]:
    return place.site.results, place.site.pool, place.site.archive


def test_a_verifier_that_fails_keeps_the_study_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError(f"a message that names {MARK}")

    monkeypatch.setattr(release, "verify_table", failing)
    place.receive(clip(1, 1))
    place.work()
    assert place.files() == {"audit"}
    record = place.ledger.show_study(uid(1))
    assert record.state == "failed"
    assert str(record.last_error).startswith("quarantined: verifier_failed: RuntimeError at ")
    assert MARK not in str(record.last_error)


def test_a_header_that_is_gone_when_it_is_to_be_verified_keeps_the_study_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = release.ReleaseCheck.examine

    def examine(check: release.ReleaseCheck, *arguments: Any) -> release.Verdict:
        for path in (place.root / "spool").rglob("*.dcm"):
            path.unlink()
        return sound(check, *arguments)

    monkeypatch.setattr(release.ReleaseCheck, "examine", examine)
    place.receive(clip(1, 1))
    place.work()
    assert place.files() == {"audit"}
    assert "verifier_failed" in str(place.ledger.show_study(uid(1)).last_error)


def test_a_word_in_a_stored_frame_keeps_the_study_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    need(PROGRAM, "tesseract-ocr")
    sound = build_tables

    def build(study: CollectedStudy, **options: Any) -> StudyTables:
        from tests.made_files import burn_in  # noqa: PLC0415

        for chunk in study.chunks:
            for frame in chunk.pool_frames:
                frame[:] = 0
                burn_in(frame, "ZABRISKIE", 10, 40, 24)
        return sound(study, **options)

    monkeypatch.setattr(transforms, "build_tables", build)
    place.receive(clip(1, 1, grey=BRIGHT))
    place.work(ocr="require")
    assert place.files() == {"audit"}
    assert {row["reason"] for row in place.audit(1)} == {"text_in_pixels"}


def test_a_clip_to_look_at_is_marked_or_its_study_kept_back(place: Place) -> None:
    from tests.studies import clip_dataset, encoded  # noqa: PLC0415

    ds = clip_dataset(1, 1)
    del ds.SequenceOfUltrasoundRegions
    place.receive(Sent(1, 1, encoded(ds)))
    place.work()
    (path,) = (place.root / "results" / "clips").rglob("*.parquet")
    assert pq.read_table(path)["needs_review"].to_pylist() == [True]
    assert summarize_audits(place.root / "results")[0]["needs_review"] == 1
    ds.NumberOfFrames = 2
    ds.PixelData = ds.PixelData[: len(ds.PixelData) * 2 // 3]
    place.receive(Sent(1, 1, encoded(ds)))
    place.work(review="quarantine")
    assert place.files() == {"audit"}
    assert {row["reason"] for row in place.audit(1)} == {"needs_review"}


def test_a_worker_that_must_read_text_does_not_start_without_the_program(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise OcrError("there is no program")

    monkeypatch.setattr("beam_jobs.worker.find_ocr", absent)
    with pytest.raises(SetupError, match="no program"):
        place.work(ocr="require")


def test_no_file_or_folder_tells_when_it_was_written(place: Place) -> None:
    place.receive(clip(1, 1, grey=BRIGHT), report(1, 2))
    place.work(archive=True)
    for folder in ("results", "pool", "deid_archive"):
        for path in ((place.root / folder), *(place.root / folder).rglob("*")):
            assert path.stat().st_mtime < 946_684_900, path


def test_the_verb_shows_an_audit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.receive(clip(1, 1))
    place.work()
    runner = CliRunner()
    at = ["--root", str(place.root)]
    key = place.keys.study_key(uid(1))
    shown = runner.invoke(main, ["audit", key, "--json", *at])
    assert shown.exit_code == 0
    assert json.loads(shown.output) == place.audit(1)
    text = runner.invoke(main, ["audit", key, *at])
    assert "PatientName" in text.output
    assert "removed" in text.output
    assert key in runner.invoke(main, ["audit", *at]).output
    assert runner.invoke(main, ["audit", "0" * 32, *at]).exit_code == 3
    assert runner.invoke(main, ["audit", "../x", *at]).exit_code == 3
    leaking(monkeypatch, MARK)
    place.receive(clip(2, 1))
    place.work()
    kept_back = runner.invoke(main, ["audit", place.keys.study_key(uid(2)), *at])
    assert kept_back.exit_code == 1
    assert re.search(r"found: (name|identifier) in clips\.manufacturer", kept_back.output)


# ---------------------------------------------------------------------- erasing


@pytest.fixture(scope="module")
def trained_root(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a root with two subjects, a pool of both, and a model that was trained on it."""
    root = tmp_path_factory.mktemp("trained") / "root"
    root.mkdir()
    place = Place(root, models)
    place.receive(clip(1, 1, grey=BRIGHT), report(1, 2), clip(2, 1, grey=BRIGHT))
    place.work(archive=True)
    rules = SelectionRules(min_view_confidence=0.0, min_fov_area_ratio=0.0)
    dataset = build_pool(place.site.pool, place.site.results, rules)
    assert len(dataset.manifest.subject_keys) == 2
    training = {"pool": {"fingerprint": dataset.manifest.fingerprint}}
    publish_bright(Registry(place.site.models), "lvh", "night", root.parent / "bundles", training=training)
    place.ledger.close()
    return root


@pytest.fixture
def trained(trained_root: Path, tmp_path: Path) -> Iterator[Place]:
    place = Place(shutil.copytree(trained_root, tmp_path / "root", symlinks=True))
    yield place
    place.ledger.close()


def counts(place: Place) -> dict[str, int]:
    return {state: count for state, count in place.ledger.counts_by_state().items() if count}


def erased(place: Place, study: int) -> dict[str, Any]:
    plan = plan_erasure(place.subject(study), place.site, place.ledger, place.keys)
    return erase(plan, place.site, place.ledger, clock=time.time)[1]


def everything_of(place: Place, study: int) -> list[str]:
    """List every file that names a study or subject by its keys, or holds its UID."""
    keys = [place.keys.study_key(uid(study)), place.subject(study)]
    found = []
    for path in place.root.rglob("*"):
        if not path.is_file() or path.name == "secret.key" or "erasures" in path.parts:
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path, partitioning=None).to_pylist()).encode()
        wanted = [key.encode() for key in keys]
        if path.suffix == ".dcm" and "spool" in path.parts:
            wanted.append(f"{MARK}-{study}".encode())
        if any(key in content or key.decode() in str(path) for key in wanted):
            found.append(str(path.relative_to(place.root)))
    return found


def test_nothing_of_an_erased_subject_is_left_and_the_other_is_whole(trained: Place) -> None:
    before = everything_of(trained, 2)
    assert everything_of(trained, 1)
    certificate = erased(trained, 1)
    assert everything_of(trained, 1) == []
    left = [path for path in before if "pool/datasets" not in path and "manifests" not in path]
    assert set(left) <= set(everything_of(trained, 2))
    assert counts(trained) == {"done": 1}
    assert certificate["complete"] is True
    assert certificate["erased"]["studies"] == 1
    assert certificate["erased"]["spooled_instances"] == 2
    assert certificate["erased"]["ledger_rows_of_instances"] == 2
    assert certificate["erased"]["pool_datasets"] == 1
    assert certificate["erased"]["files_of_deid_archive"] == 1
    (model,) = certificate["models"]
    assert (model["model"], model["in_production"], model["frames"]) == ("lvh-night", True, 3)
    assert MARK not in json.dumps(certificate)
    assert uid(1) not in json.dumps(certificate)


def test_a_pruned_pool_still_says_whose_frames_it_had(trained: Place) -> None:
    shutil.rmtree(trained.site.pool / "datasets")
    (model,) = erased(trained, 1)["models"]
    assert (model["model"], model["frames"]) == ("lvh-night", None)
    plan = plan_erasure(trained.subject(2), trained.site, trained.ledger, trained.keys)
    assert [exposure.model for exposure in plan.exposed] == ["lvh-night"]


def test_a_model_of_a_pool_without_a_list_is_named_as_unknown(trained: Place) -> None:
    shutil.rmtree(trained.site.pool / "datasets")
    shutil.rmtree(trained.site.pool / "manifests")
    certificate = erased(trained, 1)
    assert certificate["models"] == []
    assert certificate["models_of_unknown_pools"] == ["lvh-night"]


STEPS = (
    "stop_studies",
    "remove_released",
    "forget_studies",
    "_strike_from_manifests",
)


@pytest.mark.parametrize("step", STEPS)
def test_an_erasure_that_was_killed_is_finished_by_another(
    trained: Place, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def killing(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(f"beam_jobs.erase.{step}", killing)
        with pytest.raises(Killed):
            erased(trained, 1)
    certificate = erased(trained, 1)
    assert everything_of(trained, 1) == []
    assert certificate["complete"] is True
    assert [model["model"] for model in certificate["models"]] == ["lvh-night"]
    assert certificate["erased"]["spooled_instances"] == 2
    assert len(list((trained.root / "erasures").iterdir())) == 1
    assert plan_erasure(trained.subject(1), trained.site, trained.ledger, trained.keys).is_nothing


def test_a_study_that_somebody_has_is_not_erased(trained: Place) -> None:
    now = time.time()
    trained.receive(clip(1, 3))
    (claimed,) = trained.ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=now)
    with pytest.raises(StudyBusyError):
        erased(trained, 1)
    assert everything_of(trained, 1)
    trained.ledger.release_claims([claimed.claim_token], error=None, max_attempts=3, now=now)
    erased(trained, 1)
    assert everything_of(trained, 1) == []


def test_a_study_that_is_being_received_is_not_erased(trained: Place) -> None:
    now = time.time()
    receive(trained.ledger, trained.root / "spool", [clip(1, 3)], now=now - 10)
    trained.ledger.record_instance(received_again(), association="open", hold_until=now + 60, now=now)
    with pytest.raises(StudyBusyError):
        erased(trained, 1)


def received_again() -> Any:
    from dicom_listener.ledger import ReceivedInstance, SpooledInstance  # noqa: PLC0415

    spooled = SpooledInstance(uid(1, 1, 9), uid(1, 1), "1.2", "1.2", "00/x.dcm", "0" * 64, 1)
    return ReceivedInstance(uid(1), f"{MARK}-1", spooled)


def test_what_comes_while_a_study_is_erased_is_not_forgotten(
    trained: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = forget_studies

    def late(ledger: Ledger, uids: Sequence[str], *, now: float) -> dict[str, int]:
        trained.receive(clip(1, 4))
        return sound(ledger, uids, now=now)

    monkeypatch.setattr("beam_jobs.erase.forget_studies", late)
    with pytest.raises(StudyBusyError, match="again"):
        erased(trained, 1)
    monkeypatch.undo()
    erased(trained, 1)
    assert everything_of(trained, 1) == []


def test_the_nightly_job_and_an_erasure_wait_for_each_other(trained: Place) -> None:
    import fcntl  # noqa: PLC0415

    lock = trained.root / "run" / "retrain.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EraseBusyError, match="retrain"):
            erased(trained, 1)
    erased(trained, 1)


def test_results_that_the_ledger_has_forgotten_are_erased_too(trained: Place) -> None:
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (trained.root / name).unlink(missing_ok=True)
    trained.ledger = Ledger(f"sqlite:///{trained.root / 'ledger.sqlite'}")
    certificate = erased(trained, 1)
    assert certificate["erased"]["files_of_frames"] == 1
    assert not files_of_study(trained.keys.study_key(uid(1)), *place_of(trained))


def test_what_is_no_key_is_refused_without_being_repeated(trained: Place) -> None:
    with pytest.raises(EraseError, match="32 hexadecimal digits") as raised:
        plan_erasure(f"{MARK}-1", trained.site, trained.ledger, trained.keys)
    assert MARK not in str(raised.value)


def test_the_verb_erases_by_key_by_file_and_by_uid(trained: Place, tmp_path: Path) -> None:
    runner = CliRunner()
    at = ["--root", str(trained.root)]
    trained.ledger.close()
    looked = runner.invoke(main, ["erase", trained.subject(1), "--dry-run", "--json", *at])
    assert looked.exit_code == 0
    assert json.loads(looked.output)["would_erase"]["studies"] == 1
    assert everything_of(trained, 1)
    assert runner.invoke(main, ["erase", trained.subject(1), *at]).exit_code == 2  # nobody to ask
    (tmp_path / "patient.txt").write_text(f"{MARK}-1\n")
    by_file = ["erase", "--patient-id-file", str(tmp_path / "patient.txt"), "--yes", "--json", *at]
    done = runner.invoke(main, by_file)
    assert done.exit_code == 0
    assert json.loads(done.output)["complete"] is True
    assert everything_of(trained, 1) == []
    assert runner.invoke(main, by_file).exit_code == 3
    by_uid = runner.invoke(main, ["erase", "--study-uid", uid(2), "--dry-run", *at])
    assert by_uid.exit_code == 0
    assert "history of your shell" in by_uid.output
    assert "lvh-night" in by_uid.output
    assert runner.invoke(main, ["erase", "--study-uid", uid(9), "--yes", *at]).exit_code == 3
    assert runner.invoke(main, ["erase", f"{MARK}-2", "--yes", *at]).exit_code == 2
    assert runner.invoke(main, ["erase", "--yes", *at]).exit_code == 2


def test_a_file_that_is_gone_already_does_not_stop_an_erasure(trained: Place) -> None:
    plan = plan_erasure(trained.subject(1), trained.site, trained.ledger, trained.keys)
    (trained.site.spool / plan.spooled[0]).unlink()
    erase(plan, trained.site, trained.ledger, clock=time.time)
    assert everything_of(trained, 1) == []
