import re
from pathlib import Path

import pytest

from dicom_listener.backfill.fetch import get_contexts
from dicom_listener.commitment import requests
from dicom_listener.conformance import TABLES, fill
from dicom_listener.reception import contexts
from dicom_listener.reception.statuses import REJECTIONS, StoreStatus
from dicom_listener.settings import ListenerSettings

STATEMENT = Path(__file__).parents[3] / "docs" / "conformance.md"


def rows(name: str) -> list[list[str]]:
    lines = TABLES[name]().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_statement_says_what_the_code_does() -> None:
    text = STATEMENT.read_text()
    assert fill(text) == text


def test_every_table_has_its_place() -> None:
    assert sorted(re.findall(r"<!-- table: (\S+) -->", STATEMENT.read_text())) == sorted(TABLES)


def test_a_place_for_no_table_is_refused() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        fill("<!-- table: nonsense -->\n<!-- /table -->")


def test_a_table_replaces_what_stood_in_its_place() -> None:
    old = "before\n<!-- table: addresses -->\nold\n<!-- /table -->\nafter\n"
    new = fill(old)
    assert "old" not in new
    assert "11112" in new
    assert new.startswith("before\n<!-- table: addresses -->\n| setting |")
    assert new.endswith("|\n<!-- /table -->\nafter\n")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_as_many_cells_as_the_header(name: str) -> None:
    lines = TABLES[name]().splitlines()
    assert len(lines) > 2
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert not any(re.search(r"\|\s*\|(?!$)", line) for line in lines if name != "store-statuses")


def test_what_is_accepted_is_in_the_table() -> None:
    accepted = [*contexts.supported_contexts(), *requests.contexts()]
    assert [row[1].strip("`") for row in rows("accepted-contexts")] == [
        one.abstract_syntax for one in accepted
    ]
    assert [row[2].strip("`") for row in rows("transfer-syntaxes")] == list(contexts.TRANSFER_SYNTAXES)


def test_no_name_in_a_table_is_a_bare_uid() -> None:
    names = [row[0] for row in rows("overview")] + [row[1] for row in rows("transfer-syntaxes")]
    assert not [name for name in names if re.fullmatch(r"[\d.]+", name)]


def test_every_status_and_every_refusal_is_in_a_table() -> None:
    assert {int(row[0], 16) for row in rows("store-statuses")} == set(map(int, StoreStatus))
    assert len(rows("rejections")) == len(REJECTIONS)


def test_the_contexts_of_a_get_add_up() -> None:
    assert sum(int(row[1]) for row in rows("get-storage-contexts")) == len(get_contexts()) - 1


def test_the_limits_are_the_settings_defaults() -> None:
    for name, default, _what in rows("limits"):
        assert str(ListenerSettings.model_fields[name.strip("`")].default) == default
