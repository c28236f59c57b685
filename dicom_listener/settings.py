"""Section `[listener]` of the configuration. How a section is read: `dicom_listener.configuration`."""

from ipaddress import ip_address
from typing import Annotated, Final, Literal, Self

from pydantic import Field, IPvAnyNetwork, StringConstraints, model_validator
from pydantic_settings import SettingsConfigDict

from dicom_listener.configuration import (
    CONFIGURATION_FILE,
    Port,
    RootedPath,
    RootedPlace,
    SectionSettings,
    TableSettings,
    default_ledger_url,
    load_section,
)

__all__ = [
    "ANY_AE_TITLE",
    "CONFIGURATION_FILE",
    "AeTitle",
    "AllowedPeer",
    "ListenerSettings",
    "Peer",
    "Port",
    "RootedPath",
    "RootedPlace",
    "SectionSettings",
    "TableSettings",
    "default_ledger_url",
    "load_section",
]

ANY_AE_TITLE: Final = "*"

AeTitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$"),
]
"""An application entity title: 16 printable characters at most, no backslash (PS3.5 Table 6.2-1, AE)."""


class AllowedPeer(TableSettings):
    """Who may send: an application entity title from an address."""

    ae_title: AeTitle = Field(description="Calling AE title of the sender; `*` for any.")
    address: IPvAnyNetwork = Field(
        description="Address that it sends from, or a network such as `192.0.2.0/24`."
    )


class Peer(TableSettings):
    """A remote application entity that we call: to report commitments, to ask, and to fetch."""

    name: str = Field(min_length=1, description="What settings, verbs and logs call it.")
    ae_title: AeTitle = Field(description="Its AE title.")
    host: str = Field(min_length=1, description="Where it listens: a name or an address.")
    port: int = Field(ge=1, le=65535, description="Its DICOM port.")
    tls: bool = Field(default=False, description="Whether it is called over TLS.")


class ListenerSettings(SectionSettings):
    """Section `[listener]`: how studies are received and when they are complete."""

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_LISTENER_")

    # ------------------------------------------------------------------ where it listens
    ae_title: AeTitle = Field(
        default="ECHOBEAM", description="Our AE title; an association that calls another is rejected."
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to receive on. Closed by default: name the PACS-facing address to open it.",
    )
    port: Port = Field(default=11112, description="DICOM port; 0 takes a free one.")
    http_host: str = Field(default="127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    http_port: Port = Field(default=9108, description="HTTP port; 0 takes a free one.")
    processes: int = Field(
        default=1, ge=1, le=64, description="Processes that receive, all on the same port; Linux only."
    )

    # ------------------------------------------------------------------ who may send
    allow: tuple[AllowedPeer, ...] = Field(
        default=(), description="Senders that are accepted; without any, only those of this machine are."
    )
    allow_any_peer: bool = Field(
        default=False, description="Accept every sender that can reach us. Warned about at every start."
    )

    # ------------------------------------------------------------------ TLS
    tls_certificate: RootedPath | None = Field(
        default=None, description="Our certificate with its chain, PEM. Turns TLS on, and plain DICOM off."
    )
    tls_key: RootedPath | None = Field(default=None, description="Private key of the certificate, PEM.")
    tls_ca: RootedPath | None = Field(
        default=None, description="Certificates that issue those of the senders, PEM."
    )
    tls_client_certificates: Literal["required", "optional", "none"] = Field(
        default="required", description="Whether a sender must show a certificate."
    )
    tls_minimum_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Oldest TLS to speak.")
    tls_port: Port = Field(default=2762, description="DICOM port with TLS; 0 takes a free one.")
    plain_beside_tls: bool = Field(
        default=False, description="Receive on `port` without TLS too, although TLS is on."
    )

    # ------------------------------------------------------------------ limits
    maximum_associations: int = Field(default=20, ge=1, description="Associations open at once.")
    maximum_associations_per_peer: int = Field(
        default=10, ge=1, description="Associations open at once from one address."
    )
    maximum_pdu_bytes: int = Field(
        default=131072, ge=4096, le=1048576, description="Largest PDU we ask senders to send (bytes)."
    )
    network_timeout_s: float = Field(
        default=60, gt=0, description="An association that says nothing for so long is aborted (seconds)."
    )
    negotiation_timeout_s: float = Field(
        default=10,
        gt=0,
        description="A connection that requests no association for so long is closed (seconds).",
    )
    maximum_object_bytes: int = Field(
        default=4 * 1024**3,
        ge=1,
        description="Largest dataset that is kept; a larger one is refused (bytes).",
    )
    object_timeout_s: float = Field(
        default=1800,
        gt=0,
        description="An association whose instance is still under way after so long is aborted (seconds).",
    )
    minimum_free_bytes: int = Field(
        default=2 * 1024**3,
        ge=0,
        description="Free space of the spool below which nothing is accepted (bytes); 0 for no such reserve.",
    )

    # ------------------------------------------------------------------ completion and housekeeping
    quiet_period_s: float = Field(
        default=60, ge=0, description="A study is complete when nothing came for so long (seconds)."
    )
    max_age_s: float = Field(
        default=3600, gt=0, description="A study is complete after so long whatever still comes (seconds)."
    )
    drain_s: float = Field(
        default=30, ge=0, description="How long a stopping listener lets open associations finish (seconds)."
    )
    housekeeping_s: float = Field(
        default=1.0, gt=0, description="How often holds are extended and completion is looked at (seconds)."
    )

    # ------------------------------------------------------------------ whom we call
    peers: tuple[Peer, ...] = Field(
        default=(),
        description="Remote application entities that we call: requesters of storage commitment, archives.",
    )
    query_peer: str | None = Field(
        default=None,
        description="Name of the peer that is asked by C-FIND how many instances a study has.",
    )
    query_after_s: float = Field(
        default=10, ge=0, description="The query peer is asked when nothing came for so long (seconds)."
    )
    peer_timeout_s: float = Field(
        default=30, gt=0, description="How long a peer that we call may take for an answer (seconds)."
    )
    commitment_retry_s: float = Field(
        default=30,
        gt=0,
        description="Pause before a commitment that could not be reported is tried again; doubled each time, "
        "up to an hour (seconds).",
    )
    commitment_give_up_s: float = Field(
        default=259200, gt=0, description="How long it is tried to report a commitment (seconds)."
    )

    # ------------------------------------------------------------------ where and how long it is kept
    spool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "spool", description="Folder of received instances."
    )
    ledger_url: str = Field(
        default_factory=default_ledger_url, repr=False, description="SQLAlchemy URL of the ledger."
    )
    conflict_policy: Literal["replace", "keep_first", "reject"] = Field(
        default="replace",
        description="What becomes of another content with a known SOP Instance UID: it goes to work and the "
        "first is kept beside it, the first stays at work and it is kept beside, or it is refused.",
    )
    prune_after_days: float | None = Field(
        default=None,
        ge=0,
        description="Files of a study that is done are deleted from the spool after so long (days); never "
        "where it is absent.",
    )
    prune_above_bytes: int | None = Field(
        default=None,
        ge=0,
        description="While the spool is larger, files of studies that are done are deleted, the oldest first "
        "(bytes); never where it is absent.",
    )
    retention_requires_commitment: bool = Field(
        default=False,
        description="Delete only files whose storage commitment was asked for and reported.",
    )
    commitment_keep_days: float | None = Field(
        default=None,
        ge=0,
        description="How long a file is kept after its storage commitment (days); for ever if absent.",
    )

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def has_tls(self) -> bool:
        """Whether senders are received with TLS."""
        return self.tls_certificate is not None

    @property
    def has_plain_port(self) -> bool:
        """Whether senders are received without TLS."""
        return not self.has_tls or self.plain_beside_tls

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> Self:
        faults = []
        if self.allow and self.allow_any_peer:
            faults.append("allow and allow_any_peer contradict each other: keep the one that is meant")
        if (self.tls_certificate is None) != (self.tls_key is None):
            faults.append("tls_certificate and tls_key belong together: give both, or neither for no TLS")
        if not self.has_tls and (self.tls_ca is not None or self.plain_beside_tls):
            faults.append("tls_ca and plain_beside_tls need TLS: give tls_certificate and tls_key too")
        if self.has_tls and self.tls_client_certificates != "none" and self.tls_ca is None:
            faults.append(
                "tls_client_certificates are checked against tls_ca: give it, or set them to `none`"
            )
        faults.extend(_faults_of_peers(self.peers, self.query_peer))
        if faults:
            raise ValueError("\n".join(faults))
        return self


def _faults_of_peers(peers: tuple[Peer, ...], query_peer: str | None) -> list[str]:
    faults = []
    names = [peer.name for peer in peers]
    ae_titles = [peer.ae_title for peer in peers]
    for what, values in (("name", names), ("AE title", ae_titles)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            faults.append(f"peers: two have the {what} {', '.join(twice)}: give each its own")
    if query_peer is not None and query_peer not in names:
        faults.append(
            f"query_peer: there is no peer {query_peer}; expected one of {', '.join(names) or 'none'}: "
            "add it as [[listener.peers]]"
        )
    return faults
