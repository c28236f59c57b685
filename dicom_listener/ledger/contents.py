"""Contents and their rows: those at work are in `instances`, the others in `other_contents`."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from dicom_listener.ledger.database.schema import instances, other_contents
from dicom_listener.ledger.records import Content, FileState

CONTENT_TABLES: Final = (instances, other_contents)


def content_of(row: RowMapping, *, is_at_work: bool) -> Content:
    """Make a content of its row."""
    return Content(
        study_instance_uid=row["study_instance_uid"],
        sop_instance_uid=row["sop_instance_uid"],
        is_at_work=is_at_work,
        path=row["path"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        received_at=row["received_at"],
        file_state=None if row["file_state"] is None else FileState(row["file_state"]),
        file_state_at=row["file_state_at"],
    )


def content_table(content: Content) -> sa.Table:
    """Give the table that has a content."""
    return instances if content.is_at_work else other_contents


def update_content(content: Content) -> sa.Update:
    """Begin an update of the row of a content; of none if another content took its place."""
    table = content_table(content)
    return (
        table.update()
        .where(table.c.study_instance_uid == content.study_instance_uid)
        .where(table.c.sop_instance_uid == content.sop_instance_uid)
        .where(table.c.sha256 == content.sha256)
    )
