"""Backfill from archives that lose, refuse and vanish, from DCMTK's, and on after a kill."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread, examples
from pydicom.uid import UID

from beam_jobs.command import main
from dicom_listener.association.scp import on_c_store
from dicom_listener.backfill import fetch, job
from dicom_listener.backfill.fetch import GetFetcher, get_contexts, get_contexts_in_one, move_contexts
from dicom_listener.backfill.journal import Journal
from dicom_listener.backfill.receiving import receiving_beside
from dicom_listener.errors import PeerRefusedError
from dicom_listener.ledger import Ledger
from dicom_listener.peers.find import find_contexts
from dicom_listener.peers.outgoing import Caller
from dicom_listener.reception.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_listener.settings import ListenerSettings
from tests.integration.archive_peers import Archive, archive, instance
from tests.integration.listener_peers import ECHOBEAM, process
from tests.programs import DEADLINE_S, need, running, wait_for
from tests.studies import clip_dataset, encoded, uid

verb = import_module("dicom_listener.verbs.backfill")  # the package has the command by the same name


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_PAUSE_S", 0.0)


def configure(root: Path, port: int, ae_title: str = "ARCHIVE", **listener: Any) -> None:
    values = {"minimum_free_bytes": 0} | listener
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    (root / "echobeam.toml").write_text(
        f"[listener]\n{lines}"
        f'[[listener.peers]]\nname = "archive"\nae_title = "{ae_title}"\nhost = "127.0.0.1"\nport = {port}\n'
    )


def run(root: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(
        main, ["backfill", "--root", str(root), "--json", *arguments], catch_exceptions=False
    )
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout)


def everything(root: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    return run(root, "--where", "StudyInstanceUID=", *arguments)


def fill(pacs: Archive, *studies: str, instances: int = 2) -> None:
    for study in studies:
        pacs.sends[study] = [instance(study, number) for number in range(1, instances + 1)]
        pacs.counts[study] = instances


@contextmanager
def ledger_of(root: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
    try:
        yield ledger
    finally:
        ledger.close()


def test_what_is_refused_on_the_way_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        fill(pacs, "1.2.3", "1.2.4")
        del pacs.sends["1.2.3"][1].SeriesInstanceUID
        code, summary = everything(tmp_path)
    assert (code, summary["fetched"], summary["failed"], summary["instances"]) == (1, 1, 1, 3)
    assert summary["failures"] == [{"what": "1.2.3", "reason": "1 of 2 sub-operations failed"}]


def test_a_disk_at_its_reserve_takes_nothing(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port, minimum_free_bytes=2**60)
        fill(pacs, "1.2.3")
        code, summary = everything(tmp_path)
    assert (code, summary["instances"]) == (1, 0)
    reason = summary["failures"][0]["reason"]
    assert reason == "the archive answered the C-GET with status 0xA702; 2 of 2 sub-operations failed"
    assert list((tmp_path / "spool").glob("??/*.dcm")) == []


def test_the_study_is_held_while_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def watched(event: Any, reception: Any) -> Any:
        answer = on_c_store(event, reception)
        held.append(reception.ledger.show_study("1.2.3").open_associations)
        return answer

    monkeypatch.setattr(fetch, "on_c_store", watched)
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        fill(pacs, "1.2.3")
        assert everything(tmp_path)[0] == 0
    assert held == [1, 1]
    with ledger_of(tmp_path) as ledger:
        assert ledger.show_study("1.2.3").open_associations == 0


def test_an_archive_that_is_away_fails_with_what_to_do(tmp_path: Path) -> None:
    configure(tmp_path, 1)
    code, summary = everything(tmp_path)
    assert code == 1
    assert "check host, port" in summary["failures"][0]["reason"]


def test_an_archive_that_does_not_move_says_to_fetch_the_other_way(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        fill(pacs, "1.2.3")
        code, summary = everything(tmp_path, "--method", "move")
    assert code == 1
    assert "accepted none of what we proposed" in summary["failures"][0]["reason"]


def test_the_proposed_contexts_fit_an_association_and_cover_every_class() -> None:
    proposed = get_contexts()
    assert len(proposed) <= 128
    assert {one.abstract_syntax for one in proposed[1:]} == set(STORAGE_CLASSES)
    syntaxes = {UID(syntax) for one in proposed for syntax in one.transfer_syntax}
    assert syntaxes == set(TRANSFER_SYNTAXES)
    in_one = get_contexts_in_one()
    assert [one.abstract_syntax for one in in_one[1:]] == list(STORAGE_CLASSES)
    assert all(set(one.transfer_syntax) == set(TRANSFER_SYNTAXES) for one in in_one[1:])
    assert len(move_contexts()) == 1


def test_a_get_that_is_refused_is_an_error_that_names_the_status(tmp_path: Path) -> None:
    with archive() as pacs, ledger_of(tmp_path) as ledger:
        settings = ListenerSettings(root=tmp_path, minimum_free_bytes=0)
        ledger.close()
        with receiving_beside(settings) as reception:
            pacs.sends["1.2.3"] = "no instances"  # type: ignore[assignment]  # makes its handler fail
            with pytest.raises(PeerRefusedError, match="status 0x"):
                GetFetcher(Caller("ECHOBEAM", 10), pacs.peer, reception).fetch("1.2.3")


def test_a_get_that_is_not_taken_says_to_fetch_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ListenerSettings(root=tmp_path, minimum_free_bytes=0)
    with archive() as pacs, receiving_beside(settings) as reception:
        monkeypatch.setattr(fetch, "get_contexts", find_contexts)  # so that none for C-GET is open
        fetcher = GetFetcher(Caller("ECHOBEAM", 10), pacs.peer, reception)
        with pytest.raises(PeerRefusedError, match="--method"):
            fetcher.fetch("1.2.3")


# ---------------------------------------------------------------------- the verb


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "say which studies"),
        (["--to", "2024-01-01"], 2, "--to needs --from"),
        (["--from", "2024-01-02", "--to", "2024-01-01"], 2, "turn it round"),
        (["--where", "Nonsense=1"], 2, "DICOM keyword"),
        (["--where", "PatientID"], 2, "KEYWORD=VALUE"),
        (["--between", "22-6", "--patient-id", "7"], 2, "22:00"),
        (["--patient-id", "7", "--peer", "other"], 2, "there is no other"),
        (["--patient-id", "7", "--job", "../x"], 2, "cannot name a job"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    configure(tmp_path, 1)
    result = CliRunner().invoke(main, ["backfill", "--root", str(tmp_path), *arguments])
    assert result.exit_code == code, result.output
    assert said in result.output


def test_a_list_leaves_no_room_for_filters(tmp_path: Path) -> None:
    configure(tmp_path, 1)
    (tmp_path / "list.csv").write_text("accession_number\n7\n")
    arguments = ["--list", str(tmp_path / "list.csv"), "--modality", "US"]
    result = CliRunner().invoke(main, ["backfill", "--root", str(tmp_path), *arguments])
    assert (result.exit_code, "leave dates and filters out" in result.output) == (2, True)


def test_a_table_says_what_was_done_and_stderr_what_failed(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        fill(pacs, "1.2.3", "1.2.4")
        pacs.counts["1.2.4"] = 3
        arguments = ["backfill", "--root", str(tmp_path), "--where", "StudyInstanceUID="]
        dry = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
        real = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert dry.exit_code == 0
    assert "to fetch" in dry.stdout
    assert real.exit_code == 1
    assert "fetched" in real.stdout
    assert "failed: 1.2.4: 2 of the 3 instances came; the archive calls it all" in real.stderr
    assert not (tmp_path / "backfill" / "none").exists()


def test_a_job_that_runs_already_is_busy(tmp_path: Path) -> None:
    configure(tmp_path, 1)
    (tmp_path / "backfill").mkdir()
    with Journal.opened(tmp_path, "night", asks_sha256="q"):
        result = CliRunner().invoke(
            main, ["backfill", "--root", str(tmp_path), "--patient-id", "7", "--job", "night"]
        )
    assert result.exit_code == 4
    assert "running already" in result.stderr


def test_a_job_without_an_end_is_the_same_job_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        for today in (date(2024, 5, 17), date(2024, 5, 18)):
            monkeypatch.setattr(verb, "_today", lambda today=today: today)
            code, summary = run(tmp_path, "--from", "2024-05-16", "--job", "all")
            assert (code, summary["failures"]) == (0, [])
    first_night = ["20240516", "20240517"]
    assert [one.StudyDate for one in pacs.questions] == [*first_night, *first_night, "20240518"]


def test_a_killed_job_goes_on_where_it_was(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        studies = [f"1.2.{number}" for number in range(1, 9)]
        fill(pacs, *studies, instances=1)
        arguments = ("backfill", "--root", str(tmp_path), "--where", "StudyInstanceUID=", "--job", "night")
        journal = tmp_path / "backfill" / "night.jsonl"
        slowly = ("--studies-per-minute", "600")
        with process(*ECHOBEAM, *arguments, *slowly) as killed:
            wait_for("two studies", lambda: journal.exists() and journal.read_text().count("fetched") >= 2)
            os.kill(killed.pid, signal.SIGKILL)
            assert killed.wait(DEADLINE_S) == -signal.SIGKILL
        code, summary = run(tmp_path, *arguments[3:])
    assert code == 0
    assert summary["found"] == 8
    assert 2 <= summary["done_before"] < 8
    assert summary["done_before"] + summary["already_there"] + summary["fetched"] == 8
    with ledger_of(tmp_path) as ledger:
        assert sorted(study.study_instance_uid for study in ledger.list_studies()) == sorted(studies)
        assert all(study.revision == 1 for study in ledger.list_studies())


def test_no_patient_is_in_what_is_printed_and_noted(tmp_path: Path) -> None:
    with archive() as pacs:
        configure(tmp_path, pacs.port)
        fill(pacs, "1.2.3")
        ended = subprocess.run(
            [*ECHOBEAM, "backfill", "--root", str(tmp_path), "--patient-id", "SECRET7"],
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE_S,
        )
    noted = "".join(path.read_text() for path in (tmp_path / "backfill").iterdir())
    assert "1.2.3" in noted
    assert "SECRET" not in ended.stdout + ended.stderr + noted
    assert "PLANTED" not in ended.stdout + ended.stderr + noted


# ---------------------------------------------------------------------- DCMTK's archive


@contextmanager
def dcmqrscp(folder: Path) -> Iterator[int]:
    """Run DCMTK's archive for the block; give its port."""
    program = need("dcmqrscp", "dcmtk")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (folder / "storage").mkdir()
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQRSCP {folder / 'storage'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with running(program, "-d", "+xy", "-c", str(configuration), says="dcmqrscp"):
        wait_for("the archive", lambda: is_open(port))
        yield port


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except ConnectionError:
        return False
    return True


def test_studies_are_fetched_from_dcmtk_s_archive(tmp_path: Path) -> None:
    with dcmqrscp(tmp_path) as port:
        configure(tmp_path, port, "DCMQRSCP")
        sent = tmp_path / "sent"
        sent.mkdir()
        for number in (1, 2):
            (sent / f"{number}.dcm").write_bytes(encoded(clip_dataset(1, number, date="20240517")))
        store = ["storescu", "-aec", "DCMQRSCP", "127.0.0.1", str(port)]
        subprocess.run([*store, "+sd", str(sent)], check=True, timeout=DEADLINE_S)
        source = examples.get_path("ybr_color")
        subprocess.run([*store[:1], "-xy", *store[1:], str(source)], check=True, timeout=DEADLINE_S)
        code, summary = run(tmp_path, "--from", "2024-05-16", "--to", "2024-05-18")
        assert (code, summary["found"], summary["fetched"], summary["instances"]) == (0, 1, 1, 2)
        code, summary = run(tmp_path, "--where", f"StudyInstanceUID={dcmread(source).StudyInstanceUID}")
        assert (code, summary["fetched"]) == (0, 1)
    with ledger_of(tmp_path) as ledger:
        assert ledger.show_study(uid(1)).instances == 2
    files = [dcmread(path) for path in (tmp_path / "spool").glob("??/*.dcm")]
    [cine] = [ds for ds in files if ds.StudyInstanceUID == dcmread(source).StudyInstanceUID]
    assert cine.PixelData == dcmread(source).PixelData
