from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from dicom_listener.errors import RefusedInstanceError, RetryLaterError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.metrics import LedgerCollector
from dicom_listener.reception.metrics import REFUSAL_REASONS, ListenerMetrics


def test_every_series_is_there_before_anything_happens() -> None:
    registry = CollectorRegistry()
    ListenerMetrics(registry)
    for name, labels in [
        ("received_instances_total", {"outcome": "duplicate"}),
        ("refused_instances_total", {"reason": "unreadable_header"}),
        ("associations_total", {"result": "rejected"}),
        ("received_bytes_total", {}),
        ("open_associations", {}),
        ("spool_bytes", {}),
        ("last_success_timestamp_seconds", {}),
    ]:
        assert registry.get_sample_value(f"echobeam_listener_{name}", labels) == 0


def test_every_gauge_says_how_those_of_several_processes_combine() -> None:
    gauges = [
        metric for metric in vars(ListenerMetrics(CollectorRegistry())).values() if isinstance(metric, Gauge)
    ]
    assert len(gauges) >= 3
    assert all(gauge._multiprocess_mode != "all" for gauge in gauges), "`all` has the process id as a label"


def test_every_refusal_has_its_reason() -> None:
    refused = {kind.reason for kind in RefusedInstanceError.__subclasses__()}
    later = {kind.reason for kind in RetryLaterError.__subclasses__()}
    assert refused | later == set(REFUSAL_REASONS)


def test_without_the_ledger_its_series_are_absent_and_the_others_there(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    registry = CollectorRegistry()
    ListenerMetrics(registry)
    registry.register(LedgerCollector(ledger))
    ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    assert registry.get_sample_value("echobeam_listener_studies", {"state": "receiving"}) is None
    assert registry.get_sample_value("echobeam_listener_open_associations") == 0
