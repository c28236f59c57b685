"""Finding a configured peer: by the AE title that it calls itself, or by the name that it has here."""

from collections.abc import Iterable

from dicom_listener.errors import PeerNotFoundError
from dicom_listener.settings import Peer


def peer_of_ae_title(peers: Iterable[Peer], ae_title: str) -> Peer | None:
    """Give the peer that calls itself so, or None."""
    return next((peer for peer in peers if peer.ae_title == ae_title.strip()), None)


def peer_named(peers: Iterable[Peer], name: str | None) -> Peer:
    """Give the peer of a name; without a name, the only one there is.

    Raises:
        PeerNotFoundError: if there is none such, or no name and not exactly one peer.
    """
    listed = list(peers)
    if name is None and len(listed) == 1:
        return listed[0]
    found = next((peer for peer in listed if peer.name == name), None)
    if found is None:
        asked = "none was named" if name is None else f"there is no {name}"
        raise PeerNotFoundError(
            f"A peer is needed and {asked}; configured: {', '.join(peer.name for peer in listed) or 'none'}. "
            "Add it as [[listener.peers]] to echobeam.toml"
        )
    return found
