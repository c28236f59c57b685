"""The ledger's tables, and how its SQLite is opened."""

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

BUSY_TIMEOUT_S: Final = 30.0

metadata = sa.MetaData()

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True, index=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("patient_id", sa.String, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("first_received_at", sa.Float, nullable=False),
    sa.Column("last_received_at", sa.Float, nullable=False),
    sa.Column("receiving_since", sa.Float, nullable=False),  # start of this round
    sa.Column("completed_at", sa.Float),
    sa.Column("completed_because", sa.String),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", sa.String),
    sa.Column("last_error_at", sa.Float),
    sa.Column("claim_token", sa.String(32), unique=True),
    sa.Column("claimed_revision", sa.Integer),
    sa.Column("batch_id", sa.ForeignKey("batches.batch_id")),
    sa.Column("lease_until", sa.Float),
    sa.Column("done_at", sa.Float),
    sa.Column("done_revision", sa.Integer),
    # What the query peer said, and when; and how often it was asked since something last came.
    sa.Column("expected_instances", sa.Integer),
    sa.Column("expected_at", sa.Float),
    sa.Column("queried_at", sa.Float),
    sa.Column("query_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_studies_state", "state", "completed_at"),
)

conflicts = sa.Table(
    "conflicts",
    metadata,
    sa.Column("conflict_id", sa.Integer, primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("sop_instance_uid", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)

# Which open association brought instances of which study. A hold ends by itself if the listener dies.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("association", sa.String(64), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("hold_until", sa.Float, nullable=False),
)

# One row for each call of `claim_studies` that gave something: who took how many, when.
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("batch_id", sa.String(32), primary_key=True),
    sa.Column("worker", sa.String(255), nullable=False),
    sa.Column("claimed_at", sa.Float, nullable=False),
    sa.Column("studies", sa.Integer, nullable=False),
)

# One row for each request of storage commitment; pending until its requester has taken the report.
commitments = sa.Table(
    "commitments",
    metadata,
    sa.Column("commitment_id", sa.String(32), primary_key=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False, index=True),
    sa.Column("requester", sa.String(16), nullable=False),  # AE title
    sa.Column("references_sha256", sa.String(64), nullable=False),  # tells a repeated request from another
    sa.Column("is_duplicate", sa.Boolean, nullable=False),  # its transaction UID was in use
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("requested_at", sa.Float, nullable=False),
    sa.Column("next_attempt_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("last_error", sa.String),
    sa.Column("reported_at", sa.Float),
    sa.Index("ix_commitments_state", "state", "next_attempt_at"),
)

# What a request refers to. Once verified: committed if there is no failure reason, and then the digest
# is that of the file whose safekeeping was promised.
commitment_instances = sa.Table(
    "commitment_instances",
    metadata,
    sa.Column("commitment_id", sa.ForeignKey("commitments.commitment_id"), primary_key=True),
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True, index=True),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("verified_at", sa.Float),
    sa.Column("failure_reason", sa.Integer),
    sa.Column("sha256", sa.String(64)),
)


def open_engine(url: str, *, must_exist: bool = False) -> Engine:
    """Open a database; SQLite in WAL, durable at each commit, with explicit transactions.

    An option `echobeam_reading` on an engine or connection makes its transactions read one snapshot
    without the write lock; all others take the write lock as they begin.

    Raises:
        FileNotFoundError: if a SQLite file must exist and does not.
        OSError: if its folder cannot be made.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, hide_parameters=True)
    if parsed.database:
        if must_exist and not Path(parsed.database).exists():
            raise FileNotFoundError(parsed.database)
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(
        parsed,
        hide_parameters=True,  # they hold patients' identifiers, and errors are logged
        connect_args={"timeout": BUSY_TIMEOUT_S},
        max_overflow=-1,  # a thread that finds no connection free must not wait for one
    )
    sa.event.listen(engine, "connect", _on_sqlite_connect)
    sa.event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions of its own
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # Success rests on it: a commit outlives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _on_sqlite_begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get("echobeam_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
