"""The documents are fresh, their links lead somewhere, and their commands exist."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from beam_jobs.command import main
from tests.house.reference import generate

HERE = Path(__file__).parents[2]
DOCUMENTS = sorted([*HERE.glob("*.md"), *(HERE / "docs").rglob("*.md"), *(HERE / "deploy").rglob("*.md")])


def test_the_reference_pages_are_fresh() -> None:
    assert generate.stale_pages() == []


def test_a_stale_page_is_named_and_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {"a.md": lambda: "new", "b.md": lambda: "same"})
    (tmp_path / "a.md").write_text(generate.NOTE + "old")
    (tmp_path / "b.md").write_text(generate.NOTE + "same")
    assert generate.stale_pages() == ["a.md"]
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert generate.main() == 0
    assert generate.stale_pages() == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE)))
def test_a_document_s_relative_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in link and not link.startswith(("#", "mailto:")):
            assert (document.parent / link.partition("#")[0]).exists(), link


def commands_in(document: Path) -> Iterator[str]:
    """Yield the echobeam command lines in a document's examples."""
    for block in re.findall(r"```(?:console|bash|sh)\n(.*?)```", document.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:\$ )?((?:\w+=\S+ )*(?:\.venv/bin/)?echobeam .*)$", line):
                yield match[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE)))
def test_the_commands_of_a_document_are_accepted_by_the_parser(document: Path) -> None:
    for line in commands_in(document):
        words = [word for word in shlex.split(line, comments=True) if "=" not in word or word.startswith("-")]
        command: click.Command = main
        context = click.Context(main, info_name="echobeam")
        arguments = words[1:]
        while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
            found = command.get_command(context, arguments.pop(0))
            assert found is not None, line
            command = found
            context = click.Context(command)
        if "--help" not in arguments and not isinstance(command, click.Group):
            command.make_context(command.name, arguments, resilient_parsing=False)


def test_the_readme_says_what_it_is_and_is_not() -> None:
    readme = (HERE / "README.md").read_text().lower()
    for words in ("research use", "not a medical device", "synthetic"):
        assert words in readme


def test_make_alone_lists_its_verbs() -> None:
    done = subprocess.run(["make"], capture_output=True, text=True, check=True, cwd=HERE)
    for verb in ("demo", "test", "check", "bench", "docs"):
        assert re.search(rf"^{verb}\b", done.stdout, re.MULTILINE)


def test_the_readme_shows_output_for_what_it_promises() -> None:
    blocks = re.findall(
        r"<!-- (\w+) -->\n```text\n(.*?)```\n<!-- /\1 -->", (HERE / "README.md").read_text(), re.DOTALL
    )
    assert {name for name, _ in blocks} == {"demo", "up", "query", "help"}
    for name, text in blocks:
        assert text.strip(), f"the README's output of {name} is empty"


@pytest.mark.parametrize("package", ["dicom_listener", "beam_jobs"])
def test_the_map_names_every_folder_and_module_of_a_package(package: str) -> None:
    text = (HERE / "docs" / "architecture.md").read_text()
    rows = text.partition(f"Inside `{package}`")[2].split("\nInside `")[0].split("\n## ")[0]
    named = [name.rstrip("/") for name in re.findall(r"`([\w/…]+)`", rows)]
    there = {
        path.stem
        for path in (HERE / package).iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    missing = {
        name
        for name in there
        if name not in named
        and not any(other.endswith("…") and name.startswith(other[:-1]) for other in named)
    }
    assert missing == set()
    paths = [HERE / package / name for name in named if "/" in name]
    assert [path for path in paths if not (path.is_dir() or path.with_suffix(".py").exists())] == []
