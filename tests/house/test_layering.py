"""The direction of imports is what the architecture says."""

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_every_import_contract_is_kept() -> None:
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS
