"""The doctor finds what is wrong, says what to do, and changes nothing."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_jobs import doctor as module
from beam_jobs.command import main
from beam_jobs.doctor import Configuration, Finding, Outcome, check_configuration, examine
from dicom_listener import object_store
from dicom_listener.errors import StoreError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.database.migrations import LATEST
from dicom_listener.ledger.database.schema import ledger_version
from dicom_listener.object_store import StoreUrl, list_objects
from tests.certificates import Authority
from tests.object_stores import memory_url  # noqa: F401 - a fixture

QUIET_PORTS = """
[listener]
port = 0
http_port = 0
[worker]
http_port = 0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "echobeam.toml").write_text(QUIET_PORTS)
    return tmp_path


def finding(findings: list[Finding] | Iterator[Finding], check: str) -> Finding:
    return next(found for found in findings if found.check == check)


def test_a_new_root_has_no_fault_of_its_own(root: Path) -> None:
    before = sorted(root.rglob("*"))
    findings = examine(root)
    faults = [found for found in findings if found.outcome is Outcome.FAIL and "model" not in found.check]
    assert faults == []
    assert sorted(root.rglob("*")) == before, "a check leaves nothing behind"


def test_every_fault_and_warning_says_what_to_do(root: Path) -> None:
    for found in examine(root / "deep" / "below"):
        assert found.outcome is Outcome.OK or found.advice, found


def test_a_refused_configuration_is_a_fault_with_its_reason(root: Path) -> None:
    (root / "echobeam.toml").write_text("[listener]\nprot = 104\n")
    configuration, findings = check_configuration(root)
    fault = finding(findings, "configuration [listener]")
    assert fault.outcome is Outcome.FAIL
    assert "prot" in fault.found
    assert configuration.listener is None
    assert configuration.worker is not None


def test_a_key_that_others_can_read_is_a_fault(root: Path) -> None:
    key = root / "secret.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)
    configuration, _ = check_configuration(root)
    fault = finding(module.check_key(configuration, root), "key file")
    assert fault.outcome is Outcome.FAIL
    assert fault.advice == f"chmod 600 {key}"
    key.chmod(0o600)
    assert finding(module.check_key(configuration, root), "key file").outcome is Outcome.OK


def test_a_store_for_the_results_is_tried_and_left_as_it_was(
    root: Path,
    memory_url: StoreUrl,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(module.check_results(check_configuration(root)[0])) == []
    (root / "echobeam.toml").write_text('[worker]\nresults = "s3://memory"\n')
    configuration, _ = check_configuration(root)
    assert finding(module.check_results(configuration), "results").outcome is Outcome.OK
    assert list_objects(memory_url) == []

    def down(_: StoreUrl) -> None:
        raise StoreError("the store did not list")

    monkeypatch.setattr(object_store, "_client", down)
    fault = finding(module.check_results(configuration), "results")
    assert (fault.outcome, fault.found) == (Outcome.FAIL, "the store did not list")
    monkeypatch.setattr(module, "is_installed", lambda name: name != "obstore")
    fault = finding(module.check_results(configuration), "results")
    assert (fault.outcome, fault.advice) == (Outcome.FAIL, "pip install 'echobeam[object-store]'")


def test_a_port_that_another_program_has_is_a_fault(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (root / "echobeam.toml").write_text(QUIET_PORTS.replace("port = 0", f"port = {port}", 1))
        configuration, _ = check_configuration(root)
        assert finding(module.check_ports(configuration, root), "DICOM port").outcome is Outcome.FAIL
        (root / "run").mkdir()
        (root / "run" / "listener.json").write_text(json.dumps({"pid": 1, "dicom_port": port}))
        assert finding(module.check_ports(configuration, root), "DICOM port").outcome is Outcome.OK


ONE_SENDER = '[[listener.allow]]\nae_title = "PACS"\naddress = "192.0.2.7"'


def listener_of(root: Path, lines: str) -> Configuration:
    """Configure a listener; the other sections do not matter."""
    (root / "echobeam.toml").write_text(f"[listener]\nport = 0\nhttp_port = 0\ntls_port = 0\n{lines}\n")
    configuration, findings = check_configuration(root)
    assert finding(findings, "configuration [listener]").outcome is Outcome.OK
    return configuration


@pytest.mark.parametrize(
    ("lines", "outcome", "words"),
    [
        ("", Outcome.OK, "only programs of this machine"),
        ('host = "192.0.2.1"', Outcome.WARN, "only programs of this machine are accepted"),
        ("allow_any_peer = true", Outcome.WARN, "every sender"),
        (
            '[[listener.allow]]\nae_title = "PACS"\naddress = "192.0.2.7"',
            Outcome.OK,
            "only PACS at 192.0.2.7",
        ),
    ],
)
def test_who_may_send_is_said(root: Path, lines: str, outcome: Outcome, words: str) -> None:
    found = finding(module.check_senders(listener_of(root, lines)), "senders")
    assert found.outcome is outcome
    assert words in found.found
    assert (found.advice == "") == (outcome is Outcome.OK)


def test_patients_in_the_clear_are_a_warning_where_others_could_listen(root: Path) -> None:
    assert list(module.check_tls(listener_of(root, ""))) == []
    found = finding(module.check_tls(listener_of(root, 'host = "192.0.2.1"')), "TLS")
    assert found.outcome is Outcome.WARN


def test_certificates_are_checked_as_the_listener_would(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Authority(tmp_path_factory.mktemp("certificates")).issue("ours")
    tls = f'tls_certificate = "{ours.certificate}"\ntls_key = "{ours.key}"\ntls_client_certificates = "none"'
    found = finding(module.check_tls(listener_of(root, tls)), "TLS")
    assert found.outcome is Outcome.OK
    assert "good for 30 days" in found.found
    beside = listener_of(root, f'{tls}\nplain_beside_tls = true\nhost = "192.0.2.1"')
    assert finding(module.check_tls(beside), "TLS").outcome is Outcome.WARN
    monkeypatch.setattr(module, "FEW_DAYS", 31)
    assert finding(module.check_tls(listener_of(root, tls)), "TLS").outcome is Outcome.WARN
    ours.key.unlink()
    found = finding(module.check_tls(listener_of(root, tls)), "TLS")
    assert found.outcome is Outcome.FAIL
    assert "tls_key" in found.found


@pytest.mark.parametrize(
    ("free_gib", "outcome"), [(1.0, Outcome.FAIL), (5.0, Outcome.WARN), (500.0, Outcome.OK)]
)
def test_the_reserve_is_compared_with_what_is_free(
    root: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, outcome: Outcome
) -> None:
    usage = type("Usage", (), {"free": int(free_gib * module.GIB)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    configuration = listener_of(root, "minimum_free_bytes = 2147483648")
    found = finding(module.check_reserve(configuration), "disk reserve")
    assert found.outcome is outcome
    assert (found.advice == "") == (outcome is Outcome.OK)


def test_a_root_that_cannot_be_written_is_a_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_durably", no_space)
    fault = finding(module.check_root(root), "root")
    assert fault.outcome is Outcome.FAIL
    assert "No space left on device" in fault.found


@pytest.mark.parametrize(
    ("free_gib", "outcome"), [(0.5, Outcome.FAIL), (5.0, Outcome.WARN), (500.0, Outcome.OK)]
)
def test_little_disk_is_a_warning_and_none_is_a_fault(
    root: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, outcome: Outcome
) -> None:
    usage = type("Usage", (), {"free": int(free_gib * module.GIB)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert finding(module.check_root(root), "disk").outcome is outcome


def test_a_file_that_is_no_ledger_is_a_fault(root: Path) -> None:
    (root / "ledger.sqlite").write_text("this is no database, whatever its name says")
    configuration, _ = check_configuration(root)
    assert finding(module.check_ledger(configuration), "ledger").outcome is Outcome.FAIL


def test_a_ledger_of_a_newer_release_is_a_fault_that_says_so(root: Path) -> None:
    ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
    with ledger.writing() as connection:
        connection.execute(ledger_version.update().values(version=LATEST + 1))
    ledger.close()
    configuration, _ = check_configuration(root)
    found = finding(module.check_ledger(configuration), "ledger")
    assert found.outcome is Outcome.FAIL
    assert f"version {LATEST + 1}" in found.found


def test_a_task_without_any_model_is_a_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_models.registry.SHIPPED", root / "none")
    configuration, _ = check_configuration(root)
    assert [found.outcome for found in module.check_models(configuration)] == [Outcome.FAIL] * 4


def test_what_cannot_be_configured_is_not_examined(root: Path) -> None:
    nothing = Configuration(listener=None, worker=None)
    assert list(module.check_ports(nothing, root)) == []
    assert list(module.check_senders(nothing)) == []
    assert list(module.check_tls(nothing)) == []
    assert list(module.check_reserve(nothing)) == []
    assert list(module.check_ledger(nothing)) == []
    assert list(module.check_models(nothing)) == []


def test_a_fault_ends_the_verb_with_1_and_json_lists_it(root: Path) -> None:
    (root / "echobeam.toml").write_text("[nonsense]\n")
    result = CliRunner().invoke(main, ["doctor", "--root", str(root), "--json"])
    assert result.exit_code == 1
    assert {found["outcome"] for found in json.loads(result.stdout)} >= {"fail", "ok"}
    readable = CliRunner().invoke(main, ["doctor", "--root", str(root)])
    assert "nonsense" in readable.stdout
