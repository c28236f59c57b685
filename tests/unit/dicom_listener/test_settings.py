from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_listener.errors import SettingsError
from dicom_listener.settings import ListenerSettings, load_section


def load(root: Path, **overrides: object) -> ListenerSettings:
    return load_section(ListenerSettings, "listener", root, **overrides)


def test_everything_has_a_default_below_the_root(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.spool == tmp_path / "spool"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/ledger.sqlite"
    assert settings.host == "127.0.0.1"


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("data")).spool == tmp_path / "data" / "spool"


def test_a_relative_path_in_the_file_starts_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text('[listener]\nspool = "elsewhere"\n')
    assert load(tmp_path).spool == tmp_path / "elsewhere"


def test_environment_is_over_the_file_and_the_command_line_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echobeam.toml").write_text('[listener]\nport = 1\nae_title = "FILE"\nhttp_port = 1\n')
    monkeypatch.setenv("ECHOBEAM_LISTENER_PORT", "2")
    monkeypatch.setenv("ECHOBEAM_LISTENER_HTTP_PORT", "2")
    settings = load(tmp_path, http_port=3, host=None)
    assert (settings.ae_title, settings.port, settings.http_port) == ("FILE", 2, 3)


def test_all_faults_are_reported_at_once_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echobeam.toml").write_text('[listener]\nprot = 104\nport = "x"\nroot = "/"\n[listner]\n')
    monkeypatch.setenv("ECHOBEAM_LISTENER_QUIET_PERIOD_S", "-1")
    monkeypatch.setenv("ECHOBEAM_LISTENER_QUITE", "1")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, ae_title="A TITLE THAT IS TOO LONG")
    faults = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 7
    assert "echobeam.toml [listener]: prot" in faults
    assert "echobeam.toml [listener]: port" in faults
    assert "root is given by --root" in faults
    assert "unknown section [listner]" in faults
    assert "environment ECHOBEAM_LISTENER_QUIET_PERIOD_S: quiet_period_s" in faults
    assert "unknown name ECHOBEAM_LISTENER_QUITE" in faults
    assert "command line: ae_title" in faults
    assert all(fault in str(caught.value) for fault in caught.value.faults)


@pytest.mark.parametrize("text", ["[listener", "listener = 1", b"\xff"])
def test_a_file_that_is_not_such_toml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "echobeam.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=r"echobeam\.toml"):
        load(tmp_path)


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_a_root_in_the_environment_of_the_section_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOBEAM_LISTENER_ROOT", "/elsewhere")
    with pytest.raises(SettingsError, match="unknown name ECHOBEAM_LISTENER_ROOT"):
        load(tmp_path)


def test_a_ledger_url_with_a_password_is_not_shown(tmp_path: Path) -> None:
    assert "s3cret" not in repr(load(tmp_path, ledger_url="postgresql://u:s3cret@host/db"))


# ---------------------------------------------------------------------- who may send, and TLS


def test_senders_are_read_from_tables_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echobeam.toml").write_text(
        '[[listener.allow]]\nae_title = "PACS "\naddress = "192.0.2.7"\n'
        '[[listener.allow]]\nae_title = "*"\naddress = "2001:db8::/32"\n'
    )
    allowed = [(peer.ae_title, str(peer.address)) for peer in load(tmp_path).allow]
    assert allowed == [("PACS", "192.0.2.7/32"), ("*", "2001:db8::/32")]
    monkeypatch.setenv("ECHOBEAM_LISTENER_ALLOW", '[{"ae_title": "SONO", "address": "10.0.0.0/8"}]')
    assert [peer.ae_title for peer in load(tmp_path).allow] == ["SONO"]


def test_faults_of_a_sender_say_which_one_it_is(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text(
        '[[listener.allow]]\nae_title = "PACS"\naddress = "192.0.2.7"\n'
        '[[listener.allow]]\nae_title = "A\\\\B"\naddress = "192.0.2.7/24"\nport = 104\n'
    )
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    names = [fault.split(": ")[1] for fault in caught.value.faults]
    assert sorted(names) == ["allow.1.address", "allow.1.ae_title", "allow.1.port"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('allow_any_peer = true\nallow = [{ae_title = "A", address = "10.0.0.1"}]', "contradict"),
        ('tls_certificate = "a.pem"\ntls_ca = "ca.pem"', "belong together"),
        ('tls_key = "a.key"', "belong together"),
        ('tls_ca = "ca.pem"', "need TLS"),
        ("plain_beside_tls = true", "need TLS"),
        ('tls_certificate = "a.pem"\ntls_key = "a.key"', "checked against tls_ca"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "echobeam.toml").write_text(f"[listener]\n{lines}\n")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert [words in fault for fault in caught.value.faults] == [True]


def test_several_things_that_do_not_go_together_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text('[listener]\ntls_key = "a.key"\nplain_beside_tls = true\n')
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("tls", "beside", "has_tls", "has_plain_port"),
    [(False, False, False, True), (True, False, True, False), (True, True, True, True)],
)
def test_plain_dicom_is_off_when_tls_is_on_unless_asked_for(
    tmp_path: Path, *, tls: bool, beside: bool, has_tls: bool, has_plain_port: bool
) -> None:
    files = {"tls_certificate": "a.pem", "tls_key": "a.key", "tls_ca": "ca.pem"} if tls else {}
    settings = load(tmp_path, **files, plain_beside_tls=beside or None)
    assert (settings.has_tls, settings.has_plain_port) == (has_tls, has_plain_port)
    assert settings.tls_certificate == (tmp_path / "a.pem" if tls else None)


@pytest.mark.parametrize(
    ("host", "is_local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False)]
)
def test_a_loopback_host_is_local(tmp_path: Path, host: str, *, is_local: bool) -> None:
    assert load(tmp_path, host=host).is_local is is_local


def test_settings_can_be_handed_down_to_a_process(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        port=5,
        allow=[{"ae_title": "PACS", "address": "10.0.0.0/8"}],
        ledger_url="postgresql://u:s3cret@host/db",
    )
    assert ListenerSettings.model_validate_json(settings.model_dump_json()) == settings
