"""Each dependency is justified, locked and pinned by hash, and no index is named."""

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
LOCK = (HERE / "requirements.lock").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies() -> Iterator[str]:
    for requirement in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        name = normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0])  # type: ignore[index]
        if name != "echobeam":
            yield name


def locked() -> dict[str, list[str]]:
    """Return the hashes of each requirement line of the lock, by name and version."""
    requirements: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", LOCK):
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", entry):
            requirements[f"{normal(match[1])}=={match[2]}"] = re.findall(
                r"--hash=sha256:([0-9a-f]{64})", entry
            )
    return requirements


@pytest.mark.parametrize("name", sorted(set(direct_dependencies())))
def test_a_direct_dependency_is_justified_in_contributing(name: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", (HERE / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    reasons = {normal(package): reason for package, reason in rows}
    assert len(reasons.get(name, "")) >= 5


def test_contributing_justifies_nothing_that_is_no_dependency() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (HERE / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {normal(package) for package in rows} == set(direct_dependencies())


@pytest.mark.parametrize("name", sorted(set(direct_dependencies())))
def test_a_direct_dependency_is_in_the_lock(name: str) -> None:
    assert any(entry.split("==")[0] == name for entry in locked())


def test_every_locked_requirement_has_a_hash() -> None:
    requirements = locked()
    assert len(requirements) > 50
    assert [name for name, hashes in requirements.items() if not hashes] == []


def test_every_line_of_the_lock_is_a_pin_or_a_hash() -> None:
    for line in LOCK.splitlines():
        assert re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==\S+|    --hash=sha256:[0-9a-f]{64}|\s*#|$", line), line


def test_the_lock_names_no_index() -> None:
    assert not re.search(r"index-url|find-links|trusted-host|://| @ ", LOCK)
