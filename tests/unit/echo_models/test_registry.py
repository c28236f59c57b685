import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from echo_models import registry as registry_module
from echo_models.errors import BundleError, NotInRegistryError, RegistryError
from echo_models.manifest import CARD, MANIFEST
from echo_models.registry import PRODUCTION, Registry
from tests.toy import write_toy_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three versions of one task."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        version: write_toy_bundle(folder / version, "lvh", version=version, seed=seed)
        for seed, version in enumerate(("v1", "v2", "v3"))
    }


@pytest.fixture
def registry(tmp_path: Path, bundles: dict[str, Path]) -> Registry:
    filled = Registry(tmp_path / "models")
    for folder in bundles.values():
        filled.publish(folder, now=1.0)
    return filled


def test_a_published_version_is_not_at_work_yet(registry: Registry) -> None:
    assert registry.versions("lvh") == ["v1", "v2", "v3"]
    assert registry.production("lvh") is None
    with pytest.raises(NotInRegistryError, match="promote one"):
        registry.resolve("lvh")


def test_a_promoted_version_is_what_production_names(registry: Registry) -> None:
    registry.promote("lvh", "v2", reason="better", numbers={"accuracy": 0.9}, now=2.0)
    assert registry.resolve("lvh") == registry.root / "lvh" / "v2"
    assert registry.resolve("lvh", "v1") == registry.root / "lvh" / "v1"
    event = registry.history("lvh")[-1]
    assert (event.at, event.action, event.version, event.reason) == (2.0, "promote", "v2", "better")
    assert event.numbers == {"accuracy": 0.9}


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    for version in ("v1", "v2", "v3"):
        registry.promote("lvh", version, reason="newer")
    assert registry.rollback("lvh") == "v2"
    assert registry.rollback("lvh") == "v1"
    assert registry.production("lvh") == "v1"
    with pytest.raises(RegistryError, match="no other version"):
        registry.rollback("lvh")
    registry.promote("lvh", "v3", reason="again")
    assert registry.rollback("lvh") == "v1"


def test_rollback_works_though_the_present_version_is_broken(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    registry.promote("lvh", "v2", reason="second")
    shutil.rmtree(registry.root / "lvh" / "v2")
    assert registry.rollback("lvh") == "v1"
    assert registry.resolve("lvh").name == "v1"


def test_a_broken_version_is_not_put_to_work(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    (registry.root / "lvh" / "v2" / CARD).write_text("altered")
    with pytest.raises(BundleError, match="altered"):
        registry.promote("lvh", "v2", reason="second")
    assert registry.production("lvh") == "v1"
    assert [event.action for event in registry.history("lvh")].count("promote") == 1


def test_a_rollback_to_a_broken_version_is_refused(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    registry.promote("lvh", "v2", reason="second")
    (registry.root / "lvh" / "v1" / CARD).write_text("altered")
    with pytest.raises(BundleError, match="altered"):
        registry.rollback("lvh")
    assert registry.production("lvh") == "v2"


def test_an_unknown_version_or_task_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotInRegistryError, match="there are: v1, v2, v3"):
        registry.promote("lvh", "v9", reason="typo")
    with pytest.raises(NotInRegistryError, match="there are: v1, v2, v3"):
        registry.resolve("lvh", "v9")
    with pytest.raises(NotInRegistryError, match="a task is one of"):
        registry.versions("spleen")


def test_publishing_again_changes_nothing(registry: Registry, bundles: dict[str, Path]) -> None:
    registry.publish(bundles["v1"])
    assert [event.version for event in registry.history("lvh")] == ["v1", "v2", "v3"]


def test_other_content_under_a_known_version_is_refused(registry: Registry, tmp_path: Path) -> None:
    other = write_toy_bundle(tmp_path / "other", "lvh", version="v1", seed=9)
    with pytest.raises(RegistryError, match="other content"):
        registry.publish(other)


def test_an_altered_bundle_is_not_published(
    registry: Registry, bundles: dict[str, Path], tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(bundles["v1"], altered)
    (altered / CARD).write_text("altered")
    with pytest.raises(BundleError, match="altered"):
        registry.publish(altered)


def test_a_manifest_other_than_the_published_one_is_refused(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    path = registry.root / "lvh" / "v1" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask": "fov"}))
    with pytest.raises(BundleError, match="not the one that was published"):
        registry.resolve("lvh")


def test_a_kill_before_the_alias_is_replaced_leaves_production_as_it_was(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote("lvh", "v1", reason="first")
    registry.promote("lvh", "v2", reason="second")

    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "_replace_text", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.promote("lvh", "v3", reason="third")
    assert registry.production("lvh") == "v2"
    assert registry.rollback("lvh") == "v1"


def test_the_alias_is_replaced_never_written_in_place(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    alias = registry.root / "lvh" / PRODUCTION
    with alias.open() as reader:
        registry.promote("lvh", "v2", reason="second")
        assert reader.read() == "v1\n"  # whoever has it open reads the old one, whole
    assert alias.read_text() == "v2\n"


def test_what_a_killed_publisher_left_is_swept_up(registry: Registry, tmp_path: Path) -> None:
    left = registry.root / "lvh" / ".incoming-v4"
    left.mkdir()
    (left / MANIFEST).write_text("half")
    assert registry.versions("lvh") == ["v1", "v2", "v3"]
    registry.publish(write_toy_bundle(tmp_path / "v4", "lvh", version="v4"))
    assert registry.versions("lvh") == ["v1", "v2", "v3", "v4"]
    assert not left.exists()


def test_shipped_bundles_fill_an_empty_registry_and_leave_a_used_one_at_work(
    tmp_path: Path, bundles: dict[str, Path]
) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(bundles["v1"], shipped / "lvh" / "v1")
    registry = Registry(tmp_path / "models")
    assert registry.install_shipped(shipped) == ["lvh-v1"]
    assert registry.production("lvh") == "v1"
    assert registry.install_shipped(shipped) == []

    shutil.rmtree(shipped / "lvh" / "v1")
    shutil.copytree(bundles["v2"], shipped / "lvh" / "v2")
    assert registry.install_shipped(shipped) == []
    assert registry.versions("lvh") == ["v1", "v2"]
    assert registry.production("lvh") == "v1"


def test_a_kill_between_record_and_rename_leaves_a_version_that_can_be_published_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_toy_bundle(tmp_path / "v4", "lvh", version="v4")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.publish(bundle)
    assert registry.versions("lvh") == ["v1", "v2", "v3"]
    assert not list(registry.root.glob("lvh/.incoming-*"))
    registry.publish(bundle)
    assert registry.resolve("lvh", "v4").name == "v4"


def test_a_line_that_was_never_finished_is_passed_over_and_replaced(registry: Registry) -> None:
    registry.promote("lvh", "v1", reason="first")
    history = registry.root / "lvh" / "history.jsonl"
    whole = history.read_text()
    history.write_text(whole + '{"action": "prom')
    assert registry.resolve("lvh").name == "v1"
    registry.promote("lvh", "v2", reason="second")
    assert history.read_text().startswith(whole)
    assert [event.version for event in registry.history("lvh")][-2:] == ["v1", "v2"]


def test_a_refusal_is_recorded_and_its_version_is_no_version(registry: Registry) -> None:
    registry.refuse("lvh", "v4", reason="cannot be loaded", numbers={"n": 3}, now=5.0)
    event = registry.history("lvh")[-1]
    assert (event.at, event.action, event.version, event.digest) == (5.0, "refuse", "v4", "")
    assert (event.reason, event.numbers) == ("cannot be loaded", {"n": 3})
    assert registry.versions("lvh") == ["v1", "v2", "v3"]


@pytest.fixture
def long_line(tmp_path: Path, bundles: dict[str, Path]) -> Registry:
    """Six versions; v1, v4 and v2 have been in production, in this order."""
    filled = Registry(tmp_path / "models")
    for seed in range(3, 6):
        bundles = bundles | {
            f"v{seed + 1}": write_toy_bundle(tmp_path / str(seed), "lvh", version=f"v{seed + 1}")
        }
    for folder in bundles.values():
        filled.publish(folder)
    for version in ("v1", "v4", "v2"):
        filled.promote("lvh", version, reason="test")
    return filled


def test_old_versions_are_pruned_and_what_may_be_needed_stays(long_line: Registry) -> None:
    assert long_line.prune("lvh", keep=1) == ["v1", "v3", "v5"]
    assert long_line.versions("lvh") == ["v2", "v4", "v6"]
    assert [event.action for event in long_line.history("lvh")][-3:] == ["prune"] * 3
    assert long_line.prune("lvh", keep=1) == []
    assert long_line.rollback("lvh") == "v4"
    with pytest.raises(RegistryError, match="no other version"):
        long_line.rollback("lvh")


def test_a_rollback_passes_over_what_was_pruned(long_line: Registry) -> None:
    shutil.rmtree(long_line.root / "lvh" / "v4")
    assert long_line.rollback("lvh") == "v1"
    long_line.promote("lvh", "v6", reason="test")
    assert long_line.rollback("lvh") == "v1"


def test_what_ships_is_never_pruned(tmp_path: Path, bundles: dict[str, Path]) -> None:
    shutil.copytree(bundles["v1"], tmp_path / "shipped" / "lvh" / "v1")
    registry = Registry(tmp_path / "models")
    registry.install_shipped(tmp_path / "shipped")
    for version in ("v2", "v3"):
        registry.publish(bundles[version])
        registry.promote("lvh", version, reason="test")
    registry.prune("lvh", keep=1)
    assert registry.versions("lvh") == ["v1", "v2", "v3"]
    registry.publish(write_toy_bundle(tmp_path / "v4", "lvh", version="v4"))
    registry.promote("lvh", "v4", reason="test")
    assert registry.prune("lvh", keep=1) == ["v2"]


def test_a_disk_without_space_leaves_production_and_a_history_to_write_on(
    registry: Registry, tmp_path: Path
) -> None:
    registry.promote("lvh", "v1", reason="first")
    other = write_toy_bundle(tmp_path / "v4", "lvh", version="v4")
    arguments = map(str, (registry.root, other, tmp_path / "disk"))
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL_DISK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.returncode == 0, done.stderr


FULL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
from echo_models.registry import Registry

models, other, disk = map(Path, sys.argv[1:])
disk.mkdir()
size = sum(path.stat().st_size for path in models.rglob("*")) + 100_000
mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
if subprocess.run(mount, capture_output=True).returncode:
    sys.exit(77)
registry = Registry(shutil.copytree(models, disk / "models"))
folder = disk / "models" / "lvh"
before = (folder / "history.jsonl").read_bytes()
with (disk / "filler").open("wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
refused = 0
for change in (
    lambda: registry.promote("lvh", "v2", reason="x" * 10_000),
    lambda: registry.publish(other),
    lambda: registry.refuse("lvh", "v9", reason="x" * 10_000),
):
    try:
        change()
    except OSError:
        refused += 1
assert refused == 3, refused
assert registry.production("lvh") == "v1"
assert registry.resolve("lvh").name == "v1"
assert [event.version for event in registry.history("lvh")] == ["v1", "v2", "v3", "v1"]
assert not list(folder.glob(".incoming-*"))
(disk / "filler").unlink()
registry.promote("lvh", "v2", reason="space again")
assert (folder / "history.jsonl").read_bytes().startswith(before)
assert registry.rollback("lvh") == "v1"
"""
