"""How a section of `echobeam.toml` becomes one frozen settings object.

One file, the environment over it, the command line over both. A faulty configuration is refused with
all its faults at once.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import pydantic_settings
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from dicom_listener.errors import SettingsError
from dicom_listener.object_store import StoreUrl

CONFIGURATION_FILE: Final = "echobeam.toml"
SECTIONS: Final = frozenset({"listener", "worker", "retrain", "deid"})


def _under_root(path: Path, info: ValidationInfo) -> Path:
    root = info.data.get("root")
    return path if root is None else root / path


RootedPath = Annotated[Path, AfterValidator(_under_root)]
"""A path; a relative one starts at the root folder."""


def _store_url(value: Any) -> Any:
    return StoreUrl.parse(value) if isinstance(value, str) and "://" in value else value


RootedPlace = Annotated[RootedPath | InstanceOf[StoreUrl], BeforeValidator(_store_url)]
"""A path, as `RootedPath`, or the URL of a place in an object store."""

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


class TableSettings(BaseModel):
    """One table of a list of tables, such as `[[listener.allow]]`: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Section = TypeVar("_Section", bound=SectionSettings)


def load_section(cls: type[_Section], section: str, root: Path, **overrides: Any) -> _Section:
    """Read one section of the configuration.

    Args:
        cls: the settings class of the section.
        section: its name in the file: "listener", "worker", "retrain" or "deid".
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
            if not fault["loc"]:  # values that do not go together, a line each
                lines = fault["msg"].removeprefix("Value error, ").splitlines()
                faults.extend(f"{CONFIGURATION_FILE} [{section}]: {line}" for line in lines)
                continue
            name = ".".join(str(part) for part in fault["loc"])
            origin = _origin(cls, str(fault["loc"][0]), section, in_environment, given)
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
