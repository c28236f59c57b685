"""`echobeam reidentify`: the patient behind a key, for the holder of key file and ledger.

Exit codes: 0 every key was found, 1 the ledger cannot be read or the audit line not be written, 2 usage,
configuration or key file refused, 3 a key was not found.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import getpass
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_listener.exit_codes import ExitCode, exit_codes
from dicom_listener.verbs import PIPE_COLUMNS, json_option, print_json, root_option

if TYPE_CHECKING:
    from beam_jobs.reidentify import Reidentified


@click.command(
    epilog="\b\nExample:\n  echobeam reidentify 44d437c06cb3e267de0b7043c373394f --root ./echobeam-data"
)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key file that made the keys, after a rotation.  [default: the worker's]",
)
@root_option
@json_option
def reidentify(keys: tuple[str, ...], key_file: Path | None, root: Path, *, as_json: bool) -> None:
    """Print Study Instance UID and patient ID behind keys of subjects or studies.

    Needs the key file and the ledger; neither alone tells anything. KEY is a subject_key or study_key of
    the tables, or the Study Instance UID of a de-identified DICOM object. Every use is noted in
    reidentify.jsonl in the root. What is printed names patients: it is for stdout and you alone.
    """
    with exit_codes():
        found, key_id = _find(keys, key_file, root)
    if as_json:
        print_json(
            [
                {
                    "key": one.key,
                    "kind": one.kind,
                    "study_instance_uid": one.study_instance_uid,
                    "patient_id": one.patient_id,
                }
                for one in found
            ]
        )
    elif found:
        _print_table(found)
    missing = sorted(set(keys) - {one.key for one in found})
    for key in missing:
        click.echo(f"Error: {key} is no key of this ledger's studies under key {key_id}", err=True)
    if missing:
        sys.exit(ExitCode.NOT_FOUND)


def _find(keys: tuple[str, ...], key_file: Path | None, root: Path) -> tuple[list["Reidentified"], str]:
    """Look the keys up, and note that they were asked for before anything is shown."""
    from beam_jobs.deid.keys import Pseudonymizer
    from beam_jobs.reidentify import AUDIT_FILE, KEY_FORM, write_audit_line
    from beam_jobs.reidentify import reidentify as find
    from beam_jobs.settings import SECTION, WorkerSettings
    from dicom_listener.ledger.erasure import list_identities
    from dicom_listener.settings import load_section
    from dicom_listener.verbs import existing_ledger

    odd = [key for key in keys if not KEY_FORM.fullmatch(key)]
    if odd:
        raise click.UsageError(
            f"a key must be 32 hexadecimal digits or a UID that begins with 2.25.; received {len(odd)} other"
        )
    settings = load_section(WorkerSettings, SECTION, root)
    pseudonymizer = Pseudonymizer.from_existing_key_file(key_file or settings.key_file)
    with existing_ledger(root) as ledger:
        found = list(find(keys, list_identities(ledger), pseudonymizer))
    write_audit_line(
        settings.root / AUDIT_FILE,
        keys=keys,
        found=len({one.key for one in found}),
        key_id=pseudonymizer.key_id,
        user=getpass.getuser(),
        now=time.time(),
    )
    return found, pseudonymizer.key_id


def _print_table(found: list["Reidentified"]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        *(Column(name, overflow="fold") for name in ("key", "kind", "study instance uid", "patient id"))
    )
    for one in found:
        # Text, because a patient ID may look like markup.
        table.add_row(*map(Text, (one.key, one.kind, one.study_instance_uid, one.patient_id)))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
