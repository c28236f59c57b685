"""The command finds its verbs late and says what is missing."""

from importlib import metadata
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from beam_jobs import command
from beam_jobs.command import EXTRA_OF_MODULE, VERBS, main


def importer_that_lacks(name: str) -> object:
    def import_module(_: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return import_module


@pytest.mark.parametrize(("module", "extra"), [("apache_beam.io", "worker"), ("data_store", "demo")])
def test_a_missing_extra_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setattr(command, "import_module", importer_that_lacks(module))
    result = CliRunner().invoke(main, ["work", "--once"])
    assert result.exit_code == 2
    package = module.partition(".")[0]
    assert result.output == (
        f"Error: this verb needs {package}, which is not installed: pip install 'echobeam[{extra}]'\n"
    )


def test_a_module_that_no_extra_brings_is_a_bug_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "import_module", importer_that_lacks("beam_jobs.typo"))
    result = CliRunner().invoke(main, ["work"])
    assert isinstance(result.exception, ModuleNotFoundError)


def test_an_unknown_verb_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["wrok"])
    assert result.exit_code == 2
    assert "wrok" in result.output


def test_a_verb_that_is_no_command_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.VERBS, "up", command.Verb("json", "dumps", "Not a verb."))
    with pytest.raises(TypeError, match=r"json\.dumps is not a click command"):
        main.get_command(click.Context(main), "up")


def test_the_help_lists_every_verb() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, verb in VERBS.items():
        assert name in result.output
        assert verb.summary.split()[0] in result.output


@pytest.mark.parametrize("extra", ["worker", "demo"])
def test_every_package_of_an_extra_is_known_by_the_name_it_is_imported_by(extra: str) -> None:
    modules_of = metadata.packages_distributions()
    wanted = {
        requirement.split(";")[0]
        for requirement in metadata.requires("echobeam") or []
        if f'extra == "{extra}"' in requirement or f"extra == '{extra}'" in requirement
    }
    distributions = {
        "".join(letter for letter in name.split("[")[0] if letter.isalnum() or letter in "-_")
        for name in (text.split("=")[0].split(">")[0].split("<")[0].strip() for text in wanted)
    } - {"echobeam"}
    known = {
        distribution.lower().replace("_", "-")
        for module in EXTRA_OF_MODULE
        for distribution in modules_of.get(module, [])
    }
    assert distributions
    assert {name.lower() for name in distributions} - known == set()
