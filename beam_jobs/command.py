"""The `echobeam` command: verbs that are loaded only when used.

Each verb is a click command owned by the package that does the work. `echobeam --help` reads the
table below and imports none of them. A package that is absent because only the listener is
installed ends in one line that says which extra brings it.
"""

import os
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from dicom_listener.exit_codes import ExitCode


class Verb(NamedTuple):
    """Where a verb's click command lives, and its line in `echobeam --help`."""

    module: str
    attribute: str
    summary: str


VERBS: Final = {
    "up": Verb("beam_jobs.verbs.up", "up", "Run the listener and the worker together."),
    "listen": Verb("dicom_listener.verbs.listen", "listen", "Receive studies over C-STORE."),
    "work": Verb("beam_jobs.verbs.work", "work", "Process complete studies into Parquet."),
    "studies": Verb("dicom_listener.verbs.studies", "studies", "Show, retry, verify and prune studies."),
    "backfill": Verb(
        "dicom_listener.verbs.backfill", "backfill", "Fetch studies that an archive has already."
    ),
    "commitments": Verb(
        "dicom_listener.verbs.commitments",
        "commitments",
        "Show requests of storage commitment; report one again.",
    ),
    "query": Verb("beam_jobs.verbs.query", "query", "Run one SQL statement over the results."),
    "compact": Verb("beam_jobs.verbs.compact", "compact", "Pack the tables into few large files."),
    "audit": Verb("beam_jobs.verbs.audit", "audit", "Show what was done to a study's headers and pixels."),
    "erase": Verb("beam_jobs.verbs.erase", "erase", "Erase a subject, and say which models saw it."),
    "reidentify": Verb(
        "beam_jobs.verbs.reidentify", "reidentify", "Find the patient behind a key, with key file and ledger."
    ),
    "retrain": Verb("beam_jobs.verbs.retrain", "retrain", "Build the pool, retrain, promote if better."),
    "models": Verb("echo_models.verbs.models", "models", "List, show, promote and roll back models."),
    "train": Verb("echo_models.verbs.train", "train", "Train one model, on the phantom or on labels."),
    "experiment": Verb(
        "echo_models.experiments.verb", "experiment", "Repeat a comparison of the paper, and report it."
    ),
    "frames": Verb("beam_jobs.verbs.frames", "frames", "Write de-identified frames of DICOM files."),
    "label": Verb("echo_models.verbs.label", "label", "Label frames by hand; compare labelers."),
    "phantom": Verb("beam_jobs.verbs.phantom", "phantom", "Write synthetic frames or DICOM studies."),
    "demo": Verb("beam_jobs.verbs.demo", "demo", "Send real clips through everything and show the result."),
    "doctor": Verb("beam_jobs.verbs.doctor", "doctor", "Check the set-up and say what to do."),
}


EXTRA_OF_MODULE: Final = {
    **dict.fromkeys(
        (
            "PIL",
            "apache_beam",
            "duckdb",
            "gdcm",
            "h5py",
            "jpeg_ls",
            "keras",
            "numpy",
            "pyarrow",
            "scipy",
            "simplejpeg",
            "tensorflow",
        ),
        "worker",
    ),
    "obstore": "object-store",
    "pg8000": "postgresql",
    "av": "video",
    **dict.fromkeys(("SimpleITK", "matplotlib"), "labeling"),
    "data_store": "demo",
    "deid_data": "demo",
}
"""Which extra installs a module that the listener alone does not need."""


class MissingExtraError(click.ClickException):
    """A verb needs an extra that is not installed. The command ends with code 2."""

    exit_code = ExitCode.REFUSED

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"this verb needs {module}, which is not installed: pip install 'echobeam[{extra}]'")


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = getattr(import_module(verb.module), verb.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{verb.module}.{verb.attribute} is not a click command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb.

        Raises:
            MissingExtraError: when a module of an extra that is not installed is imported.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRA_OF_MODULE:
                raise
            raise MissingExtraError(module, EXTRA_OF_MODULE[module]) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.command(cls=_LazyGroup, name="echobeam", epilog="\b\nExample:\n  echobeam up --root ./echobeam-data")
@click.version_option(package_name="echobeam")
def main() -> None:
    """Receive echo studies from a PACS, take the patient out, and write Parquet."""
    # TensorFlow reads this when it is imported, and would tell a newcomer about CUDA before anything else.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
