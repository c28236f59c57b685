from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger.database.prepared import Prepared
from dicom_listener.ledger.database.schema import holds
from dicom_listener.ledger.database.transactions import Database

ENTER = Prepared(holds.insert())
FIND = Prepared(sa.select(holds).where(holds.c.association == sa.bindparam("of_association")))
EXTEND = Prepared(holds.update().where(holds.c.association == sa.bindparam("of_association")))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_rows_are_entered_changed_and_found(database: Database) -> None:
    with database.writing() as connection:
        ENTER.change(connection, association="a", study_instance_uid="1.2", hold_until=1.0)
        assert EXTEND.change(connection, of_association="a", hold_until=2.0) == 1
        assert EXTEND.change(connection, of_association="b", hold_until=2.0) == 0
    with database.reading() as connection:
        found = FIND.first(connection, of_association="a")
        assert found is not None
        assert dict(found) == {"association": "a", "study_instance_uid": "1.2", "hold_until": 2.0}
        assert FIND.first(connection, of_association="b") is None
    database.close()


def test_the_driver_s_error_is_the_ledger_s_without_a_value(database: Database) -> None:
    row = {"association": "PLANTED", "study_instance_uid": "1.2", "hold_until": 1.0}
    with database.writing() as connection:
        ENTER.change(connection, **row)
    with pytest.raises(LedgerUnavailableError) as caught, database.writing() as connection:
        ENTER.change(connection, **row)  # the same key
    assert "SQLITE_CONSTRAINT" in str(caught.value)
    assert "PLANTED" not in f"{caught.value} {caught.value.__cause__}"
    database.close()
