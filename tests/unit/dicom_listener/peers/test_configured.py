from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_listener.errors import PeerNotFoundError, SettingsError
from dicom_listener.peers.configured import peer_named, peer_of_ae_title
from dicom_listener.settings import ListenerSettings, Peer, load_section


def peer(name: str = "pacs", ae_title: str = "PACS", **values: Any) -> Peer:
    return Peer(name=name, ae_title=ae_title, host="127.0.0.1", port=104, **values)


def test_a_peer_is_found_by_what_it_calls_itself_whatever_the_padding() -> None:
    peers = [peer(), peer("archive", "ARCHIVE")]
    assert peer_of_ae_title(peers, "ARCHIVE ") == peers[1]
    assert peer_of_ae_title(peers, "archive") is None


def test_the_only_peer_needs_no_name() -> None:
    assert peer_named([peer()], None) == peer()
    assert peer_named([peer(), peer("archive", "ARCHIVE")], "archive").ae_title == "ARCHIVE"


@pytest.mark.parametrize(
    ("peers", "name", "said"),
    [
        ([], None, "none was named; configured: none"),
        ([peer(), peer("archive", "ARCHIVE")], None, "configured: pacs, archive"),
        ([peer()], "archive", "there is no archive"),
    ],
)
def test_a_peer_that_is_not_there_is_told_with_what_to_do(
    peers: list[Peer], name: str | None, said: str
) -> None:
    with pytest.raises(PeerNotFoundError, match=said) as refused:
        peer_named(peers, name)
    assert "[[listener.peers]]" in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"ae_title": ""},
        {"ae_title": "SEVENTEEN LETTERS"},
        {"ae_title": "BACK\\SLASH"},
        {"port": 0},
        {"host": ""},
        {"name": ""},
        {"colour": "red"},
    ],
)
def test_what_is_no_peer_is_refused(values: dict[str, Any]) -> None:
    good: dict[str, Any] = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    assert Peer(**good)
    with pytest.raises(ValidationError):
        Peer(**(good | values))


def test_peers_that_cannot_be_told_apart_are_refused_with_every_fault(tmp_path: Path) -> None:
    (tmp_path / "echobeam.toml").write_text(
        '[listener]\nquery_peer = "archiv"\n'
        + '[[listener.peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "a"\nport = 104\n' * 2
    )
    with pytest.raises(SettingsError) as refused:
        load_section(ListenerSettings, "listener", tmp_path)
    said = str(refused.value)
    assert "two have the name pacs" in said
    assert "two have the AE title PACS" in said
    assert "there is no peer archiv" in said
