"""Settings, columns and metrics are documented where they are defined, and named by one pattern."""

import re
from typing import Any

import pyarrow as pa
import pytest
from pydantic.fields import FieldInfo

from tests.house.reference import generate

METRIC = re.compile(
    r"echobeam_(listener|worker|retrain|ledger|spool)_[a-z0-9_]+?"
    r"(_seconds|_bytes|_ratio|_timestamp_seconds|_info|_total|[a-z0-9])$"
)
IDENTIFYING = re.compile(r"(^|_)(uid|patient|path|file|message|error|address)(_|$)")


def settings() -> list[tuple[str, str, FieldInfo]]:
    return [
        (section, name, field)
        for section, cls in generate.SECTIONS.items()
        for name, field in cls.model_fields.items()
        if name != "root"
    ]


@pytest.mark.parametrize(("section", "name", "field"), settings(), ids=lambda value: str(value)[:30])
def test_a_setting_has_a_description_and_a_default(section: str, name: str, field: FieldInfo) -> None:
    assert field.description, f"[{section}] {name}"
    assert field.description.endswith("."), f"[{section}] {name}"
    assert not field.is_required(), f"[{section}] {name}: everything must start without a file"


@pytest.mark.parametrize("section", generate.SECTIONS)
def test_settings_are_frozen_and_refuse_unknown_names(section: str) -> None:
    configuration = generate.SECTIONS[section].model_config
    assert configuration["frozen"] is True
    assert configuration["extra"] == "forbid"
    assert configuration["env_prefix"] == f"ECHOBEAM_{section.upper()}_"


def columns() -> list[tuple[str, pa.Field]]:
    return [(table, field) for table, schema in generate.all_schemas().items() for field in schema]


def test_the_four_tables_are_there() -> None:
    assert {"frames", "clips", "studies", "rejections"} <= set(generate.all_schemas())


@pytest.mark.parametrize(("table", "field"), columns(), ids=lambda value: str(getattr(value, "name", value)))
def test_a_column_has_a_description_and_a_unit(table: str, field: Any) -> None:
    metadata = field.metadata or {}
    assert len(metadata.get(b"description", b"")) > 5, f"{table}.{field.name}"
    assert b"unit" in metadata, f"{table}.{field.name}: say the unit; empty or 1 where there is none"


@pytest.mark.parametrize(("table", "field"), columns(), ids=lambda value: str(getattr(value, "name", value)))
def test_no_column_has_a_name_of_the_identified_zone(table: str, field: Any) -> None:
    assert not re.search(r"(^|_)(uid|patient_id|patient_name|name|path)$", field.name), (
        f"{table}.{field.name}"
    )


def metrics() -> list[dict[str, Any]]:
    return [metric for registry in generate.registries().values() for metric in generate.described(registry)]


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric["name"])
def test_a_metric_is_named_by_the_pattern_and_says_what_it_is(metric: dict[str, Any]) -> None:
    assert METRIC.fullmatch(metric["name"])
    assert (metric["type"] == "counter") == metric["name"].endswith("_total")
    assert len(metric["help"]) > 10
    assert "millisecond" not in metric["name"], "base units only"


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric["name"])
def test_no_label_can_hold_a_patient(metric: dict[str, Any]) -> None:
    assert not [label for label in metric["labels"] if IDENTIFYING.search(label)]
