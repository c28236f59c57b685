"""A real Orthanc as the PACS: it pushes, routes, asks for commitment, answers, and is fetched from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread, examples
from pydicom.dataset import Dataset

from beam_jobs.command import main
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import CommitmentState
from dicom_listener.ledger import Ledger, StudyRecord, StudyState
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings
from tests.orthanc import Orthanc, running_orthanc
from tests.programs import wait_for
from tests.studies import clip_dataset, encoded, report_dataset, uid


@dataclass(frozen=True)
class Site:
    """An archive and a listener that know each other."""

    orthanc: Orthanc
    listener: Listener
    root: Path

    @property
    def ledger(self) -> Ledger:
        return self.listener.reception.ledger

    def study(self, number: int) -> StudyRecord | None:
        return next(
            (one for one in self.ledger.list_studies() if one.study_instance_uid == uid(number)), None
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("root")
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        settings = ListenerSettings(
            root=root,
            port=0,
            http_port=0,
            minimum_free_bytes=0,
            housekeeping_s=0.05,
            quiet_period_s=3600,  # only the archive's word completes a study
            peers=(orthanc.peer,),
            query_peer="orthanc",
            query_after_s=0.1,
        )
        with Listener(settings) as listener:
            orthanc.know("echobeam", listener.dicom_port)
            orthanc.know("router", listener.dicom_port)
            (root / "echobeam.toml").write_text(
                f'[[listener.peers]]\nname = "orthanc"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\n'
                f"port = {orthanc.dicom_port}\n"
            )
            yield Site(orthanc, listener, root)


def fill(site: Site, study: int, *, clips: int = 2, date: str = "20240517") -> list[str]:
    """Store a study of some clips and a report in the archive; give its ids of them."""
    datasets: list[Dataset] = [clip_dataset(study, number, date=date) for number in range(1, clips + 1)]
    report = report_dataset(study, clips + 1)
    report.StudyDate = date
    return site.orthanc.upload(*(encoded(ds) for ds in [*datasets, report]))


def push(site: Site, study: int) -> None:
    """Have the archive send a study."""
    done = site.orthanc.call(
        "POST",
        "/modalities/echobeam/store",
        {"Resources": [site.orthanc.study_of(uid(study))], "Synchronous": True},
    )
    assert done["FailedInstancesCount"] == 0


def commit(site: Site, instances: list[tuple[str, str]]) -> Any:
    """Have the archive ask for storage commitment, and wait for the report."""
    items = [{"SOPClassUID": sop_class, "SOPInstanceUID": instance} for sop_class, instance in instances]
    asked = site.orthanc.call("POST", "/modalities/echobeam/storage-commitment", {"DicomInstances": items})

    def reported() -> Any:
        answer = site.orthanc.call("GET", asked["Path"])
        return answer if answer["Status"] != "Pending" else None

    return wait_for("the report", reported)


def kept(site: Site, study: int) -> list[tuple[str, str]]:
    """List class and UID of what the archive has of a study."""
    orthanc_id = site.orthanc.study_of(uid(study))
    found = site.orthanc.call("GET", f"/studies/{orthanc_id}/instances-tags?simplify")
    return [(tags["SOPClassUID"], tags["SOPInstanceUID"]) for tags in found.values()]


# ---------------------------------------------------------------------- pushed


def test_a_pushed_study_is_complete_once_the_archive_has_no_more_of_it(site: Site) -> None:
    fill(site, 1)
    push(site, 1)
    study = wait_for(
        "completion",
        lambda: (found := site.study(1)) and found.state is StudyState.COMPLETE and found,
    )
    assert isinstance(study, StudyRecord)
    assert study.completed_because == "the archive has 3 instances of it, and all of them are here"
    assert (study.instances, study.expected_instances) == (3, 3)


def test_a_study_of_which_the_archive_has_more_is_waited_for(site: Site) -> None:
    first, *_ = fill(site, 2)
    done = site.orthanc.call(
        "POST", "/modalities/echobeam/store", {"Resources": [first], "Synchronous": True}
    )
    assert done["FailedInstancesCount"] == 0
    wait_for("the archive's word", lambda: (found := site.study(2)) and found.expected_instances == 3)
    waiting = site.study(2)
    assert waiting is not None
    assert (waiting.state, waiting.instances) == (StudyState.RECEIVING, 1)
    push(site, 2)
    wait_for("completion", lambda: (found := site.study(2)) and found.state is StudyState.COMPLETE)


def test_what_is_stored_in_the_archive_is_routed_to_us(site: Site) -> None:
    ds = clip_dataset(3, 1)
    ds.StationName = "ROUTE"
    site.orthanc.upload(encoded(ds))
    wait_for("the routed study", lambda: (found := site.study(3)) and found.instances == 1)


def test_a_real_cine_comes_with_its_pixels_untouched(site: Site) -> None:
    source = Path(examples.get_path("ybr_color"))
    [instance] = site.orthanc.upload(source.read_bytes())
    site.orthanc.call("POST", "/modalities/echobeam/store", {"Resources": [instance], "Synchronous": True})
    sent = dcmread(source)
    record = next(
        one for one in site.ledger.list_studies() if one.study_instance_uid == sent.StudyInstanceUID
    )
    assert record.instances == 1
    files = (dcmread(path) for path in (site.root / "spool").glob("??/*.dcm"))
    [here] = [ds for ds in files if ds.SOPInstanceUID == sent.SOPInstanceUID]
    assert here.PixelData == sent.PixelData
    assert here.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


# ---------------------------------------------------------------------- committed


def test_the_archive_is_told_that_its_study_is_safe(site: Site) -> None:
    fill(site, 4)
    push(site, 4)
    report = commit(site, kept(site, 4))
    assert report["Status"] == "Success"
    assert report["RemoteAET"] == "ECHOBEAM"
    assert len(report["Success"]) == 3
    assert report["Failures"] == []
    commitments = CommitmentLedger(site.ledger)
    wait_for(
        "the end",
        lambda: any(
            one.committed == 3 and one.state is CommitmentState.REPORTED for one in commitments.list()
        ),
    )


def test_the_archive_is_told_what_is_not_safe_and_why(site: Site) -> None:
    fill(site, 5)
    push(site, 5)
    here = kept(site, 5)
    wrong_class = ("1.2.840.10008.5.1.4.1.1.7", here[0][1])
    report = commit(site, [wrong_class, here[1], (here[0][0], uid(5, 1, 99))])
    assert report["Status"] == "Failure", report
    assert [one["SOPInstanceUID"] for one in report["Success"]] == [here[1][1]]
    assert {one["SOPInstanceUID"]: one["FailureReason"] for one in report["Failures"]} == {
        here[0][1]: 0x0119,
        uid(5, 1, 99): 0x0112,
    }


# ---------------------------------------------------------------------- fetched from


def backfill(site: Site, *arguments: str, root: Path | None = None) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(
        main,
        ["backfill", "--root", str(root or site.root), "--json", *arguments],
        catch_exceptions=False,
    )
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def other_root(site: Site, tmp_path: Path) -> Path:
    """A root of its own, without a listener, that knows the archive."""
    text = (site.root / "echobeam.toml").read_text()
    (tmp_path / "echobeam.toml").write_text(f"[listener]\nminimum_free_bytes = 0\n{text}")
    return tmp_path


def test_a_range_of_days_is_fetched_and_a_second_run_fetches_nothing(site: Site, other_root: Path) -> None:
    for number, day in ((11, "20230101"), (12, "20230102"), (13, "20230104"), (14, "20230105")):
        fill(site, number, date=day)
    days = ("--from", "2023-01-01", "--to", "2023-01-04")
    code, dry = backfill(site, *days, "--dry-run", root=other_root)
    assert (code, dry["found"], dry["to_fetch"]) == (0, 3, 3)
    code, first = backfill(site, *days, "--modality", "US", root=other_root)
    assert (code, first["found"], first["fetched"], first["instances"]) == (0, 3, 3, 9)
    code, second = backfill(site, *days, "--modality", "US", root=other_root)
    assert (code, second["fetched"], second["done_before"]) == (0, 0, 3)
    code, other_job = backfill(site, *days, "--job", "other", root=other_root)
    assert (code, other_job["fetched"], other_job["already_there"]) == (0, 0, 3)
    ledger = Ledger(f"sqlite:///{other_root}/ledger.sqlite")
    studies = {study.study_instance_uid: study for study in ledger.list_studies()}
    ledger.close()
    assert set(studies) == {uid(11), uid(12), uid(13)}
    assert all((study.instances, study.open_associations) == (3, 0) for study in studies.values())


def test_filters_and_lists_name_the_studies(site: Site, other_root: Path) -> None:
    fill(site, 21, date="20220101")
    ds = clip_dataset(22, 1, date="20220101")
    ds.StudyDescription, ds.AccessionNumber, ds.PatientID = "ECHO Stress", "ACC22", "P22"
    site.orthanc.upload(encoded(ds))
    day = ("--from", "2022-01-01", "--to", "2022-01-01", "--dry-run")
    assert backfill(site, *day, root=other_root)[1]["found"] == 2
    assert backfill(site, *day, "--description", "ECHO*", root=other_root)[1]["found"] == 1
    assert backfill(site, *day, "--modality", "CT", root=other_root)[1]["found"] == 0
    assert backfill(site, "--patient-id", "P22", "--dry-run", root=other_root)[1]["found"] == 1
    assert backfill(site, *day, "--where", "AccessionNumber=ACC22", root=other_root)[1]["found"] == 1
    (other_root / "list.csv").write_text(f"study_instance_uid\n{uid(21)}\n{uid(22)}\n{uid(99)}\n")
    code, summary = backfill(site, "--list", str(other_root / "list.csv"), root=other_root)
    assert (code, summary["fetched"], summary["instances"]) == (1, 2, 4)
    assert summary["failures"] == [{"what": "line 4 of the list", "reason": "the archive has no such study"}]
    (other_root / "accession.csv").write_text("accession_number\nACC22\n")
    code, summary = backfill(site, "--list", str(other_root / "accession.csv"), root=other_root)
    assert (code, summary["already_there"]) == (0, 1)


def test_a_compressed_study_is_fetched_as_it_is(site: Site, other_root: Path) -> None:
    source = Path(examples.get_path("ybr_color"))
    site.orthanc.upload(source.read_bytes())
    study = dcmread(source).StudyInstanceUID
    code, summary = backfill(site, "--where", f"StudyInstanceUID={study}", root=other_root)
    assert (code, summary["fetched"]) == (0, 1)
    [here] = (other_root / "spool").glob("??/*.dcm")
    assert dcmread(here).PixelData == dcmread(source).PixelData


def test_a_study_is_fetched_by_move_to_the_running_listener(site: Site) -> None:
    fill(site, 31, date="20210101")
    code, summary = backfill(site, "--from", "2021-01-01", "--to", "2021-01-01", "--method", "move")
    assert (code, summary["fetched"], summary["instances"]) == (0, 1, 3)
    wait_for("completion", lambda: (found := site.study(31)) and found.state is StudyState.COMPLETE)


def test_a_study_is_fetched_by_get_beside_the_running_listener(site: Site) -> None:
    fill(site, 32, date="20210102")
    code, summary = backfill(site, "--from", "2021-01-02", "--to", "2021-01-02")
    assert (code, summary["fetched"], summary["instances"]) == (0, 1, 3)
    study = wait_for(
        "completion", lambda: (found := site.study(32)) and found.state is StudyState.COMPLETE and found
    )
    assert isinstance(study, StudyRecord)
    assert "all of them are here" in str(study.completed_because)
