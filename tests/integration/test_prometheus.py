"""A real Prometheus, with the configuration that is shipped, finds the real programs and their series."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from beam_jobs.retrain import Outcome
from beam_jobs.retrain_metrics import RetrainMetrics
from tests.programs import get_json, need, running, running_pushgateway, wait_for
from tests.toy import write_toy_registry

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = REPOSITORY / "deploy" / "prometheus"
ALERTS = (CONFIGURATION / "alerts.yml").read_text()
JOBS = ("echobeam-listener", "echobeam-worker", "echobeam-pushgateway")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Listener, worker, Pushgateway with a night in it, and the Prometheus that watches them; its address."""
    need("prometheus", "prometheus")
    root = tmp_path_factory.mktemp("root")
    write_toy_registry(root / "models")
    with ExitStack() as programs:
        gateway = programs.enter_context(running_pushgateway())
        push_a_night(gateway)
        for verb in ("listen", "work"):
            programs.enter_context(
                running(*echobeam(verb, root), says="http_port", environment=on_free_ports())
            )
        addresses = {
            "localhost:9108": f"127.0.0.1:{http_port(root / 'run' / 'listener.json')}",
            "localhost:9109": f"127.0.0.1:{http_port(root / 'run' / 'worker.json')}",
            "localhost:9091": gateway.removeprefix("http://"),
        }
        configuration = copy_of_configuration(tmp_path_factory.mktemp("prometheus"), addresses)
        address = programs.enter_context(
            running(
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={configuration.parent / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                says=r"Listening on\" address=(127\.0\.0\.1:[1-9]\d*)",
            )
        )[1]
        wait_for("Prometheus", lambda: is_ready(f"http://{address}"))
        yield f"http://{address}"


def echobeam(verb: str, root: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "beam_jobs", verb, "--root", str(root))


def on_free_ports() -> dict[str, str]:
    ports = ("ECHOBEAM_LISTENER_PORT", "ECHOBEAM_LISTENER_HTTP_PORT", "ECHOBEAM_WORKER_HTTP_PORT")
    return {**os.environ, **dict.fromkeys(ports, "0")}


def http_port(announcement: Path) -> int:
    wait_for(f"{announcement.name}", announcement.exists)
    return int(json.loads(announcement.read_text())["http_port"])


def is_ready(prometheus: str) -> bool:
    """It listens before it is ready, and answers 503 in between."""
    try:
        with urlopen(f"{prometheus}/-/ready", timeout=60) as answer:  # noqa: S310 - started by this test
            return bool(answer.status == HTTPStatus.OK)
    except HTTPError:
        return False


def push_a_night(url: str) -> None:
    metrics = RetrainMetrics()
    metrics.built_pool(120, {"duplicate": 7})
    metrics.judged(candidate=0.75, production=0.5)
    metrics.succeeded(now=1000.0)
    metrics.ended(Outcome.KEPT_OUT, decisions=tuple(Outcome), duration_s=12.5, now=1000.0)
    metrics.push(url)


def copy_of_configuration(folder: Path, addresses: dict[str, str]) -> Path:
    """Copy what is shipped, with the addresses of this test and without its patience."""
    text = (CONFIGURATION / "prometheus.yml").read_text()
    for shipped, here in addresses.items():
        assert text.count(f'["{shipped}"]') >= 1, f"{shipped} is not a target"
        text = text.replace(f'["{shipped}"]', f'["{here}"]')
    copy = folder / "prometheus.yml"
    copy.write_text(text.replace("_interval: 15s", "_interval: 1s"))
    shutil.copy(CONFIGURATION / "alerts.yml", folder)
    return copy


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    answer = get_json(f"{prometheus}/api/v1/{path}?{urlencode(parameters)}")
    assert answer["status"] == "success"
    return answer["data"]


def all_targets_up(prometheus: str) -> list[dict[str, Any]] | None:
    targets = ask(prometheus, "targets", state="active")["activeTargets"]
    return targets if {target["health"] for target in targets} == {"up"} else None


def known_names(prometheus: str) -> set[str]:
    """Every metric that a target declares, and the series of a histogram."""
    return {entry["metric"] for entry in ask(prometheus, "targets/metadata")}


def test_every_target_is_up(prometheus: str) -> None:
    targets = wait_for("every target up", lambda: all_targets_up(prometheus))
    assert sorted(target["labels"]["job"] for target in targets) == sorted(JOBS)


@pytest.mark.parametrize("part", ["listener", "worker", "retrain"])
def test_the_series_of_each_part_are_there(prometheus: str, part: str) -> None:
    wait_for("every target up", lambda: all_targets_up(prometheus))
    found = ask(prometheus, "query", query=f'{{__name__=~"echobeam_{part}_.+"}}')["result"]
    assert len({series["metric"]["__name__"] for series in found}) >= 5


def test_a_pushed_night_keeps_its_own_job(prometheus: str) -> None:
    wait_for("every target up", lambda: all_targets_up(prometheus))
    [series] = ask(prometheus, "query", query='echobeam_retrain_decision{decision="kept_out"}')["result"]
    assert series["metric"]["job"] == "echobeam-retrain"
    assert series["value"][1] == "1"


def test_every_alert_asks_for_metrics_that_exist(prometheus: str) -> None:
    wait_for("every target up", lambda: all_targets_up(prometheus))
    expressions = re.findall(r"expr: (.*?)\n +(?:for|labels):", ALERTS, re.DOTALL)
    asked = set(re.findall(r"echobeam_\w+", " ".join(expressions)))
    assert len(asked) >= 5
    assert asked - known_names(prometheus) == set()


def test_every_rule_is_evaluated(prometheus: str) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for("every rule evaluated", evaluated)
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alert_names(), "ok")


def alert_names() -> list[str]:
    return re.findall(r"alert: (\w+)", ALERTS)


def test_every_alert_has_its_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (REPOSITORY / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == alert_names()
    assert re.findall(r"runbook: (\S+)", ALERTS) == [
        f"docs/runbook.md#{name.lower()}" for name in alert_names()
    ]


@pytest.mark.parametrize(
    "check",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_what_is_shipped(check: list[str]) -> None:
    need("promtool", "prometheus")
    done = subprocess.run(
        ["promtool", *check], cwd=CONFIGURATION, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
