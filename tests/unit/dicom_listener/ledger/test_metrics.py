from pathlib import Path

from prometheus_client import CollectorRegistry

from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.metrics import LedgerCollector
from tests.unit.dicom_listener.instances import make_received


def test_the_ledger_is_asked_at_each_scrape(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    registry = CollectorRegistry()
    registry.register(LedgerCollector(ledger, clock=lambda: 100))
    ledger.record_instance(make_received(), association="a", hold_until=0, now=0)
    assert registry.get_sample_value("echobeam_listener_studies", {"state": "receiving"}) == 1
    ledger.complete_studies(CompletionRule(60, 3600), now=60)
    assert registry.get_sample_value("echobeam_listener_studies", {"state": "receiving"}) == 0
    assert registry.get_sample_value("echobeam_listener_queue_age_seconds") == 40
    ledger.close()
