"""A short run of the kill test: see benchmarks/kill.py for the long one."""

from pathlib import Path

from benchmarks.kill import KillTest
from tests.prism import prism_program  # noqa: F401 - a fixture

SEED = 21
"""Kills an engine with studies at work, then a driver; worker processes are killed by a poison study in
test_prism_elsewhere.py."""


def test_what_was_at_work_when_engine_and_driver_were_killed_is_done_once(
    tmp_path: Path,
    prism_program: str,  # noqa: F811
) -> None:
    (tmp_path / "root").mkdir()
    url = f"sqlite:///{tmp_path}/root/ledger.sqlite"
    test = KillTest(tmp_path, seed=SEED, ledger_url=url, prism=prism_program, victims=("engine", "driver"))
    result = test.run(2)
    assert result["killed"]["engine"] == result["killed"]["driver"] == 1
    assert result["at_work_when_killed"]
