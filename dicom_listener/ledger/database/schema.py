"""The ledger's tables in their latest version.

A change here needs a new version and a step to it in `dicom_listener.ledger.database.migrations`.
"""

import sqlalchemy as sa

metadata = sa.MetaData()


def folder_of_path(table: sa.Table) -> sa.Function[str]:
    """Give the spool's folder of a file; indexed, so that the spool is compared folder by folder."""
    return sa.func.substr(table.c.path, sa.literal_column("1"), sa.literal_column("2"))


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
    sa.Column("file_state", sa.String(16)),  # what is wrong with the file; null: it is there
    sa.Column("file_state_at", sa.Float),
    sa.Index("ix_instances_file_state", "file_state"),
)

sa.Index("ix_instances_folder", folder_of_path(instances))

# Contents of an instance that were received and are not at work: replaced by another, or set aside.
other_contents = sa.Table(
    "other_contents",
    metadata,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.String(255), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("file_state", sa.String(16)),
    sa.Column("file_state_at", sa.Float),
    sa.Index("ix_other_contents_file_state", "file_state"),
)

sa.Index("ix_other_contents_folder", folder_of_path(other_contents))

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
    sa.Column("begun_at", sa.Float),  # when the claim's work began on an engine; a claim begins once
    sa.Column("done_at", sa.Float),
    sa.Column("done_revision", sa.Integer),
    sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),  # times that nothing new came
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
    sa.Column("sha256", sa.String(64)),  # of the content that came; it and the next two: changed contents
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("resolution", sa.String(16)),
    sa.Column("times", sa.Integer, nullable=False, server_default="1"),
)

# Which open association brought instances of which study. A hold ends by itself if the listener dies.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("association", sa.String(64), primary_key=True),
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("hold_until", sa.Float, nullable=False),
)

# Which version of these tables this is; one row.
ledger_version = sa.Table(
    "ledger_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("since", sa.Float, nullable=False),
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
