"""`echobeam query`: one SQL statement over the results.

Exit codes: 0 fine, 1 the statement was refused or did not run, 2 usage or configuration refused.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import json
import sys
from pathlib import Path

import click

from dicom_listener.exit_codes import exit_codes


@click.command(
    epilog="\b\nExample:\n"
    '  echobeam query "SELECT view, count(*) AS frames FROM frames GROUP BY view ORDER BY frames DESC"'
)
@click.argument("sql")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration and results.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, one object for each row.")
def query(sql: str, root: Path, *, as_json: bool) -> None:
    """Run one SQL statement (DuckDB) over the views frames, clips, studies and rejections.

    Reads the results as they are now, and nothing else; writes nothing.
    """
    from beam_jobs.query import run_query
    from beam_jobs.settings import SECTION, WorkerSettings
    from dicom_listener.settings import load_section

    with exit_codes():
        settings = load_section(WorkerSettings, SECTION, root)
        answer = run_query(sql, settings.results)
    if as_json:
        click.echo(json.dumps(answer.to_documents(), indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(Text(name)) for name in answer.columns))
    for row in answer.rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return "[" + ", ".join(_shown(item) for item in value) + "]"
        case dict():
            return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
        case _:
            return str(value)
