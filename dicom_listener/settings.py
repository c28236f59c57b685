"""Typed settings: one file, the environment over it, the command line over both.

`load_section` serves every package: a section of `echobeam.toml` becomes one frozen settings object,
and a faulty configuration is refused with all its faults at once.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import pydantic_settings
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from dicom_listener.errors import SettingsError

CONFIGURATION_FILE: Final = "echobeam.toml"
SECTIONS: Final = frozenset({"listener", "worker", "retrain"})


def _under_root(path: Path, info: ValidationInfo) -> Path:
    root = info.data.get("root")
    return path if root is None else root / path


RootedPath = Annotated[Path, AfterValidator(_under_root)]
"""A path; a relative one starts at the root folder."""

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose."""


def default_ledger_url(data: Mapping[str, Any]) -> str:
    """Give the URL of the ledger inside `data["root"]`; a default factory of settings fields."""
    return f"sqlite:///{Path(data['root']) / 'ledger.sqlite'}"


class SectionSettings(BaseSettings):
    """What all sections share: frozen, unknown names refused, everything below one root.

    A subclass sets `env_prefix` and may use `root` in the default factories of later fields.

    Attributes:
        root: the folder everything lives in; given by the caller, never by the file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    root: Path


class ListenerSettings(SectionSettings):
    """Section `[listener]`: how studies are received and when they are complete."""

    model_config = SettingsConfigDict(env_prefix="ECHOBEAM_LISTENER_")

    ae_title: str = Field(default="ECHOBEAM", min_length=1, max_length=16, description="Our AE title.")
    host: str = Field(
        default="127.0.0.1",
        description="Address to receive on. Closed by default: name the PACS-facing address to open it.",
    )
    port: Port = Field(default=11112, description="DICOM port; 0 takes a free one.")
    http_host: str = Field(default="127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    http_port: Port = Field(default=9108, description="HTTP port; 0 takes a free one.")
    quiet_period_s: float = Field(
        default=60, ge=0, description="A study is complete when nothing came for so long (seconds)."
    )
    max_age_s: float = Field(
        default=3600, gt=0, description="A study is complete after so long whatever still comes (seconds)."
    )
    maximum_associations: int = Field(default=10, ge=1, description="Associations open at once.")
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
    drain_s: float = Field(
        default=30, ge=0, description="How long a stopping listener lets open associations finish (seconds)."
    )
    housekeeping_s: float = Field(
        default=1.0, gt=0, description="How often holds are extended and completion is looked at (seconds)."
    )
    spool: RootedPath = Field(
        default_factory=lambda data: data["root"] / "spool", description="Folder of received instances."
    )
    ledger_url: str = Field(
        default_factory=default_ledger_url, repr=False, description="SQLAlchemy URL of the ledger."
    )


_Section = TypeVar("_Section", bound=SectionSettings)


def load_section(cls: type[_Section], section: str, root: Path, **overrides: Any) -> _Section:
    """Read one section of the configuration.

    Args:
        cls: the settings class of the section.
        section: its name in the file: "listener", "worker" or "retrain".
        root: the folder that holds `echobeam.toml`, which may be absent.
        overrides: values of the command line; None means not given.

    Returns:
        The settings, with `root` made absolute.

    Raises:
        SettingsError: with every fault: an unreadable file, an unknown section, an unknown name, or
            a value that does not fit, each with where it came from.
    """
    root = root.absolute()
    faults: list[str] = []
    in_file = _read_file(root / CONFIGURATION_FILE, section, faults)
    in_environment = _read_environment(cls, faults)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = cls(**{**in_file, **in_environment, **given, "root": root})
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            if fault["type"] == "default_factory_not_called":
                continue  # follows from another fault
            name = ".".join(str(part) for part in fault["loc"])
            origin = _origin(
                cls, str(fault["loc"][0]) if fault["loc"] else "", section, in_environment, given
            )
            faults.append(f"{origin}: {name}: {fault['msg']}")
        raise SettingsError(faults) from None
    if faults:
        raise SettingsError(faults)
    return settings


def _read_file(path: Path, section: str, faults: list[str]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{path}: cannot be read as TOML: {error}")
        return {}
    faults.extend(
        f"{path}: unknown section [{name}]; expected one of {', '.join(sorted(SECTIONS))}"
        for name in sorted(document.keys() - SECTIONS)
    )
    values = document.get(section, {})
    if not isinstance(values, dict):
        faults.append(f"{path}: {section} must be a section, [{section}]")
        return {}
    if "root" in values:
        faults.append(f"{path} [{section}]: root is given by --root or ECHOBEAM_ROOT, not in the file")
    return {name: value for name, value in values.items() if name != "root"}


def _read_environment(cls: type[SectionSettings], faults: list[str]) -> dict[str, Any]:
    prefix = cls.model_config.get("env_prefix", "")
    fields = cls.model_fields.keys() - {"root"}
    names = [name for name in os.environ if prefix and name.upper().startswith(prefix)]
    faults.extend(
        f"environment: unknown name {name}; expected {prefix} and one of {', '.join(sorted(fields))}"
        for name in sorted(names)
        if name.upper().removeprefix(prefix).lower() not in fields
    )
    try:
        values = EnvSettingsSource(cls)()
    except pydantic_settings.SettingsError as error:
        faults.append(f"environment: {error}")
        return {}
    return {name: value for name, value in values.items() if name != "root"}


def _origin(
    cls: type[SectionSettings],
    name: str,
    section: str,
    in_environment: Mapping[str, Any],
    given: Mapping[str, Any],
) -> str:
    if name in given:
        return "command line"
    if name in in_environment:
        return f"environment {cls.model_config.get('env_prefix', '')}{name.upper()}"
    return f"{CONFIGURATION_FILE} [{section}]"
