import re

import pytest

from beam_jobs.schemas import A4C_SCHEMA, PARTITION_SCHEMA, RESULT_SCHEMAS

SCHEMAS = {**RESULT_SCHEMAS, "a4c": A4C_SCHEMA, "partitions": PARTITION_SCHEMA}


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_says_what_it_is_and_in_which_unit(table: str) -> None:
    assert SCHEMAS[table].metadata[b"description"].endswith(b".")
    for field in SCHEMAS[table]:
        assert field.metadata[b"description"].endswith(b"."), field.name
        assert b"unit" in field.metadata, field.name


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_unit_that_ends_a_name_is_the_one_that_is_stated(table: str) -> None:
    units = {"_ms": "ms", "_ratio": "ratio 0 to 1", "_probability": "probability 0 to 1", "_years": "year"}
    for field in SCHEMAS[table]:
        for ending, unit in units.items():
            if field.name.endswith(ending):
                assert field.metadata[b"unit"].decode() == unit, field.name


@pytest.mark.parametrize("table", SCHEMAS)
def test_no_column_belongs_to_the_identified_zone(table: str) -> None:
    for field in SCHEMAS[table]:
        assert not re.search(r"uid|patient_(id|name)|time$|_at$|path|operator|institution", field.name), (
            field.name
        )


@pytest.mark.parametrize("table", RESULT_SCHEMAS)
def test_every_result_joins_by_study_and_subject(table: str) -> None:
    assert {"subject_key", "study_key"} <= set(RESULT_SCHEMAS[table].names)
