"""The units are what systemd accepts, and what they promise: no privileges, few writable folders."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.command import VERBS

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
ROOT = "/var/lib/echobeam"
MOST_EXPOSURE = 25
"""Of `systemd-analyze security`, in tenths: 2.5 of 10, of which the network is most."""


def unit(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read_string(path.read_text())
    return parser["Service"]


def installed(tmp_path: Path) -> list[str]:
    """Copy the units with a program that exists here in the place of the installed one."""
    program = tmp_path / "echobeam"
    program.symlink_to(sys.executable)
    copies = []
    for path in [*SERVICES, *SYSTEMD.glob("*.timer")]:
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace("/opt/echobeam/bin/echobeam", str(program)))
        copies.append(str(copy))
    return copies


def test_there_is_a_unit_for_both_services_and_the_night() -> None:
    assert [path.stem for path in SERVICES] == [
        f"echobeam-{verb}" for verb in ("compact", "listen", "retrain", "work")
    ]
    assert all((SYSTEMD / f"echobeam-{verb}.timer").exists() for verb in ("compact", "retrain"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    verify = ["systemd-analyze", "verify", "--man=no", *installed(tmp_path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_is_hardly_exposed(service: Path) -> None:
    review = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(service)]
    done = subprocess.run(review, capture_output=True, text=True, check=False)
    if "Unknown option" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot review a unit offline")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_systemd_accepts_the_user(tmp_path: Path) -> None:
    snippet = SYSTEMD / "sysusers.d" / "echobeam.conf"
    dry_run = ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(snippet)]
    done = subprocess.run(dry_run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "echobeam" in done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_runs_a_real_verb_as_an_unprivileged_user(service: Path) -> None:
    settings = unit(service)
    program, verb, option, root = settings["ExecStart"].split()
    assert (program, option, root) == ("/opt/echobeam/bin/echobeam", "--root", ROOT)
    assert verb in VERBS
    assert (settings["User"], settings["NoNewPrivileges"], settings["ProtectSystem"]) == (
        "echobeam",
        "yes",
        "strict",
    )
    assert settings["CapabilityBoundingSet"] == ""


def test_every_writable_folder_is_made_at_boot() -> None:
    lines = (SYSTEMD / "tmpfiles.d" / "echobeam.conf").read_text().splitlines()
    made = {line.split()[1] for line in lines if line.startswith("d ")}
    for service in SERVICES:
        assert set(unit(service)["ReadWritePaths"].split()) <= made


@pytest.mark.parametrize("verb", ["compact", "retrain"])
def test_a_job_of_the_night_cannot_reach_the_identified_zone(verb: str) -> None:
    settings = unit(SYSTEMD / f"echobeam-{verb}.service")
    hidden = {path.removeprefix("-") for path in settings["InaccessiblePaths"].split()}
    assert {f"{ROOT}/spool", f"{ROOT}/ledger.sqlite", f"{ROOT}/secret.key"} <= hidden
    assert ROOT not in settings["ReadWritePaths"].split()


def test_the_listener_cannot_reach_the_key_of_the_pseudonyms() -> None:
    settings = unit(SYSTEMD / "echobeam-listen.service")
    assert settings["InaccessiblePaths"] == f"-{ROOT}/secret.key"


def test_a_service_is_not_started_again_where_that_changes_nothing() -> None:
    for name in ("echobeam-listen", "echobeam-work"):
        assert unit(SYSTEMD / f"{name}.service")["RestartPreventExitStatus"] == "2 4"
