"""The listener's metrics. No UID, path or text from the wire is ever a label."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dicom_listener.errors import (
    ConflictingInstanceError,
    DiskReserveError,
    InvalidInstanceUidError,
    LedgerUnavailableError,
    MismatchedInstanceError,
    OversizedInstanceError,
    SpoolUnavailableError,
    UnreadableHeaderError,
    UnsupportedSopClassError,
)
from dicom_listener.ledger import RecordOutcome
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.statuses import AssociationRefusal

REFUSAL_REASONS: Final = (
    SpoolUnavailableError.reason,
    DiskReserveError.reason,
    LedgerUnavailableError.reason,
    UnreadableHeaderError.reason,
    MismatchedInstanceError.reason,
    InvalidInstanceUidError.reason,
    ConflictingInstanceError.reason,
    OversizedInstanceError.reason,
    UnsupportedSopClassError.reason,
)

_STORE_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ListenerMetrics:
    """Counters and gauges of one listener, in one registry. Every label value exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received_instances = Counter(
            "echobeam_listener_received_instances",
            "Instances answered with Success, by what they were to the ledger.",
            ["outcome"],
            registry=registry,
        )
        self.refused_instances = Counter(
            "echobeam_listener_refused_instances",
            "Instances answered with a failure, by reason.",
            ["reason"],
            registry=registry,
        )
        self.received_bytes = Counter(
            "echobeam_listener_received_bytes",
            "Bytes of the instances answered with Success.",
            registry=registry,
        )
        self.associations = Counter(
            "echobeam_listener_associations",
            "Associations requested, by whether they were accepted.",
            ["result"],
            registry=registry,
        )
        self.refused_associations = Counter(
            "echobeam_listener_refused_associations",
            "Associations rejected, and connections closed before they could request one, by reason.",
            ["reason"],
            registry=registry,
        )
        self.breaches = Counter(
            "echobeam_listener_ended_connections",
            "Connections and associations that the guard ended, by what the peer did.",
            ["reason"],
            registry=registry,
        )
        self.open_associations = Gauge(
            "echobeam_listener_open_associations",
            "Associations open now.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.spool_bytes = Gauge(
            "echobeam_listener_spool_bytes",
            "Bytes of the files in the spool.",
            registry=registry,
            multiprocess_mode="sum",  # each process adds what it kept to what was there
        )
        self.store_seconds = Histogram(
            "echobeam_listener_store_seconds",
            "Time to make one instance durable in spool and ledger.",
            buckets=_STORE_BUCKETS_S,
            registry=registry,
        )
        self.last_success = Gauge(
            "echobeam_listener_last_success_timestamp_seconds",
            "When an instance was last answered with Success, seconds since the epoch; 0 for never.",
            registry=registry,
            multiprocess_mode="max",
        )
        for result in ("accepted", "rejected"):
            self.associations.labels(result)
        for breach in Breach:
            self.breaches.labels(breach.value)
        for refusal in AssociationRefusal:
            self.refused_associations.labels(refusal.value)
        for outcome in RecordOutcome:
            self.received_instances.labels(outcome.value)
        for reason in REFUSAL_REASONS:
            self.refused_instances.labels(reason)
