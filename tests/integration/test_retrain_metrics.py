"""A real Pushgateway takes the metrics of a night, and keeps those that a later night does not know."""

from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from beam_jobs.retrain_metrics import RetrainMetrics
from tests.programs import running_pushgateway

DECISIONS = ("promoted", "kept_out", "failed")


@pytest.fixture
def pushgateway() -> Iterator[str]:
    with running_pushgateway() as url:
        yield url


def shown(url: str) -> str:
    with urlopen(f"{url}/metrics", timeout=60) as answer:  # noqa: S310 - the gateway of this test
        return str(answer.read().decode())


def line(name: str, value: str, **labels: str) -> str:
    inside = ",".join(
        f'{key}="{text}"'
        for key, text in sorted({"instance": "", "job": "echobeam-retrain", "task": "lvh", **labels}.items())
    )
    return f"{name}{{{inside}}} {value}\n"


def test_a_night_that_came_to_a_decision_tells_everything(pushgateway: str) -> None:
    metrics = RetrainMetrics()
    metrics.built_pool(120, {"duplicate": 7})
    metrics.judged(candidate=0.75, production=0.5)
    metrics.succeeded(now=1000.0)
    metrics.ended("promoted", decisions=DECISIONS, duration_s=12.5, now=1001.0)
    metrics.push(pushgateway)
    text = shown(pushgateway)
    assert line("echobeam_retrain_decision", "1", decision="promoted") in text
    assert line("echobeam_retrain_decision", "0", decision="kept_out") in text
    assert line("echobeam_retrain_duration_seconds", "12.5") in text
    assert line("echobeam_retrain_last_run_timestamp_seconds", "1001") in text
    assert line("echobeam_retrain_last_success_timestamp_seconds", "1000") in text
    assert line("echobeam_retrain_pool_frames", "120") in text
    assert line("echobeam_retrain_pool_dropped_frames", "7", rule="duplicate") in text
    assert line("echobeam_retrain_accuracy_ratio", "0.75", model="candidate") in text
    assert line("echobeam_retrain_accuracy_ratio", "0.5", model="production") in text


def test_a_failed_night_leaves_the_time_of_the_last_success(pushgateway: str) -> None:
    good = RetrainMetrics()
    good.succeeded(now=1000.0)
    good.ended("kept_out", decisions=DECISIONS, duration_s=1.0, now=1000.0)
    good.push(pushgateway)
    bad = RetrainMetrics()
    bad.ended("failed", decisions=DECISIONS, duration_s=1.0, now=2000.0)
    bad.push(pushgateway)
    text = shown(pushgateway)
    assert line("echobeam_retrain_last_success_timestamp_seconds", "1000") in text
    assert line("echobeam_retrain_last_run_timestamp_seconds", "2000") in text
    assert line("echobeam_retrain_decision", "1", decision="failed") in text
    assert line("echobeam_retrain_decision", "0", decision="kept_out") in text


def test_a_gateway_that_is_not_there_is_an_error() -> None:
    metrics = RetrainMetrics()
    metrics.succeeded(now=1.0)
    with pytest.raises(OSError, match="refused"):
        metrics.push("http://127.0.0.1:9")
