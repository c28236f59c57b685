"""`echobeam erase`: take one subject out of everything.

Exit codes: 0 erased, 1 it could not be done, 2 usage or configuration refused, 3 no such subject, 4 busy.
"""

# ruff: noqa: PLC0415 - what is heavy is imported when the verb runs, so that help is instant
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dicom_listener.exit_codes import exit_codes

if TYPE_CHECKING:
    from beam_jobs.erase import Erasure


@click.command(
    epilog="\b\nExamples:\n"
    "  echobeam erase 7a2a9dd7012af14e8271889e3451ae6d --dry-run\n"
    "  echobeam erase --patient-id-file patient.txt --yes --json"
)
@click.argument("subject", required=False)
@click.option(
    "--patient-id-file",
    type=click.File("r"),
    help="File with the patient ID, `-` for standard input; for who holds the key file.",
)
@click.option(
    "--study-uid",
    help="UID of any study of the subject. It stays in the history of your shell; a key tells nothing.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("echobeam-data"),
    show_default=True,
    envvar="ECHOBEAM_ROOT",
    help="Folder with configuration, ledger, spool, results and models.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def erase(
    *,
    subject: str | None,
    patient_id_file: Any,
    study_uid: str | None,
    root: Path,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase SUBJECT, a subject key: spool, ledger, tables, pool, datasets, archive and audit.

    The certificate names the models whose training pool had frames of the subject, and what no program
    can erase. It may be interrupted at any moment and run again.
    """
    if sum(given is not None for given in (subject, patient_id_file, study_uid)) != 1:
        raise click.UsageError("Name one subject: its key, --patient-id-file or --study-uid.")
    if study_uid is not None:
        click.echo("Warning: this UID is now in the history of your shell.", err=True)
    patient_id = None if patient_id_file is None else patient_id_file.read().strip()
    if patient_id == "":
        raise click.UsageError("The file of --patient-id-file is empty.")
    with exit_codes():
        from beam_jobs.deid import Pseudonymizer
        from beam_jobs.deid_settings import DEID_SECTION, DeidSettings
        from beam_jobs.erase import NoSuchSubjectError, Site, plan_erasure, subject_key_of
        from beam_jobs.erase import erase as erase_subject
        from beam_jobs.settings import SECTION, WorkerSettings
        from dicom_listener.ledger import Ledger
        from dicom_listener.settings import load_section

        settings = load_section(WorkerSettings, SECTION, root)
        archive = load_section(DeidSettings, DEID_SECTION, root).archive_folder
        site = Site(root, settings.spool, settings.results, settings.pool, archive, settings.models)
        pseudonymizer = Pseudonymizer.from_existing_key_file(settings.key_file)
        ledger = Ledger(settings.ledger_url, must_exist=True)
        try:
            key = subject or subject_key_of(pseudonymizer, ledger, patient_id=patient_id, study_uid=study_uid)
            plan = plan_erasure(key, site, ledger, pseudonymizer)
            if plan.is_nothing:
                raise NoSuchSubjectError("Nothing is known of this subject: nothing was changed")
            if dry_run or not (yes or as_json):
                click.echo(json.dumps(_document(plan), indent=2) if as_json else _text(plan))
            if dry_run:
                return
            if not yes:
                _confirm()
            path, certificate = erase_subject(plan, site, ledger, clock=time.time)
        finally:
            ledger.close()
    click.echo(json.dumps(certificate, indent=2) if as_json else f"Erased. The certificate is {path}")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here: give --yes, or --dry-run to look only.")
    click.confirm("Erase all of this? It cannot be undone", abort=True)


def _document(plan: "Erasure") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "subject_key": plan.subject_key,
        "would_erase": plan.counts(),
        "models": [asdict(exposure) for exposure in plan.exposed],
        "models_of_unknown_pools": list(plan.unknown_models),
    }


def _text(plan: "Erasure") -> str:
    lines = [f"subject {plan.subject_key}"]
    lines += [f"  {count:6} {name.replace('_', ' ')}" for name, count in plan.counts().items()]
    for exposure in plan.exposed:
        frames = "some" if exposure.frames is None else exposure.frames
        where = "in production" if exposure.in_production else "not in production"
        lines.append(f"  model {exposure.model} ({where}) had {frames} frames of it in its pool")
    lines += [f"  model {name}: no list of its pool's subjects is left" for name in plan.unknown_models]
    return "\n".join(lines)
