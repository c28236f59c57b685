"""Write the reference pages out of the code, or say which are stale.

`python docs/generate.py` writes `docs/reference/*.md`, the tables of `docs/conformance.md`, and
`docs/science.md` out of the results below `docs/reports`; `--check` writes nothing, names each page that
differs from what the code says now, and exits with 1 if there is one.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin

import click
import pyarrow as pa
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import IPvAnyNetwork

from beam_jobs import schemas
from beam_jobs.command import VERBS
from beam_jobs.command import main as echobeam
from beam_jobs.deid.profile import EDITION
from beam_jobs.deid.profile.describe import describe_rows
from beam_jobs.deid.profile.table import ALLOW_LIST_FILE, PRIVATE, attribute_rules, read_table
from beam_jobs.metrics import WorkerMetrics
from beam_jobs.retrain_metrics import RetrainMetrics
from beam_jobs.settings import DeidSettings, RetrainSettings, WorkerSettings
from dicom_listener import conformance
from dicom_listener.association.tls import CertificateCollector
from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.metrics import CommitmentCollector, CommitmentMetrics
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.metrics import LedgerCollector
from dicom_listener.object_store import StoreUrl
from dicom_listener.peers.metrics import EvidenceMetrics
from dicom_listener.reception.metrics import ListenerMetrics
from dicom_listener.settings import ListenerSettings, TableSettings
from dicom_listener.spool.capacity import DiskCollector, DiskReserve
from dicom_listener.spool.metrics import KeepingMetrics, LostFilesCollector
from echo_models.experiments.science import science_page
from echo_models.registry import SHIPPED

REFERENCE: Final = Path(__file__).parent / "reference"
CONFORMANCE: Final = Path(__file__).parent / "conformance.md"
SCIENCE: Final = Path(__file__).parent / "science.md"
REPORTS: Final = Path(__file__).parent / "reports"
SECTIONS: Final[dict[str, Any]] = {
    "listener": ListenerSettings,
    "worker": WorkerSettings,
    "retrain": RetrainSettings,
    "deid": DeidSettings,
}
NOTE: Final = "<!-- Written by docs/generate.py. Change the code, then run `make docs`. -->\n\n"


def configuration_page() -> str:
    """Describe every setting of every section."""
    parts = [
        "# Configuration\n\n",
        "One file, `echobeam.toml` in the root folder; every section and every name in it is optional. ",
        "An environment variable goes over the file, an option of the command line over both. A name that ",
        "is not listed here is refused, and all faults of a start are reported at once (exit code 2). ",
        "Relative paths start at the root.\n",
    ]
    for section, settings in SECTIONS.items():
        parts.append(f"\n## [{section}]\n\n{first_line(settings.__doc__)}\n\n")
        parts.append("| name | environment variable | type | default | what |\n|---|---|---|---|---|\n")
        prefix = settings.model_config.get("env_prefix", "")
        for name, field in settings.model_fields.items():
            if name == "root":
                continue
            parts.append(
                f"| `{name}` | `{prefix}{name.upper()}` | {type_words(field.annotation)} "
                f"| {default_words(field)} | {field.description} |\n"
            )
        for name, table in tables_of(settings):
            parts.append(f"\n### [[{section}.{name}]]\n\n{first_line(table.__doc__)} ")
            parts.append("Any number of these tables; in the environment, a list in JSON.\n\n")
            parts.append("| name | type | default | what |\n|---|---|---|---|\n")
            parts.extend(
                f"| `{key}` | {type_words(field.annotation)} "
                f"| {default_words(field)} | {field.description} |\n"
                for key, field in table.model_fields.items()
            )
    return "".join(parts)


def tables_of(settings: Any) -> Iterator[tuple[str, type[TableSettings]]]:
    """Yield the settings that are lists of tables, with the class of one table."""
    for name, field in settings.model_fields.items():
        for inside in get_args(field.annotation):
            if isinstance(inside, type) and issubclass(inside, TableSettings):
                yield name, inside


def type_words(annotation: Any) -> str:
    """Name a type as a person would write it in TOML."""
    names = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        Path: "path",
        StoreUrl: "URL",
        IPvAnyNetwork: "address or network",
    }
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, TableSettings):
        return "tables, below"
    if get_origin(annotation) is Annotated:
        return type_words(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in {list, tuple}:
        return f"list of {type_words(get_args(annotation)[0])}"
    parts = [type_words(part) for part in get_args(annotation) if part is not type(None)]
    return " or ".join(parts) if parts else str(annotation)


def default_words(field: Any) -> str:
    """Show a default; a path that is made from the root is shown below `ROOT`."""
    if field.is_required():
        return "(required)"
    root = Path("ROOT")
    value = field.get_default(call_default_factory=True, validated_data={"root": root})
    if value is None:
        return "none"
    if isinstance(value, str | Path):
        return f"`{str(value).replace(str(root.absolute()), 'ROOT')}`" if str(value) else "empty"
    if isinstance(value, list | tuple):
        return f"`{list(value)}`" if value else "empty list"
    return f"`{value}`"


def tables_page() -> str:
    """Describe every column of every table."""
    parts = [
        "# Tables\n\n",
        "Parquet, zstd, one file a study until `echobeam compact` packs many into one; a study is replaced ",
        "whole when it is processed again. Partitions: ",
        "`study_year` (of the shifted date) and `bucket` (of the study's key). Keys are keyed hashes; they ",
        "join within and between the tables. `echobeam query` gives each table as a view of this name.\n",
    ]
    for name, schema in all_schemas().items():
        parts.append(f"\n## {name}\n\n")
        if schema.metadata and b"description" in schema.metadata:
            parts.append(f"{schema.metadata[b'description'].decode()}\n\n")
        parts.append("| column | type | unit | what |\n|---|---|---|---|\n")
        for field in schema:
            metadata = field.metadata or {}
            unit = metadata.get(b"unit", b"").decode()
            parts.append(
                f"| `{field.name}` | {field.type} | {unit} | {metadata.get(b'description', b'').decode()} |\n"
            )
    return "".join(parts)


def all_schemas() -> dict[str, pa.Schema]:
    """Return every Arrow schema, by table."""
    return {
        name.removesuffix("_SCHEMA").lower(): value
        for name, value in vars(schemas).items()
        if isinstance(value, pa.Schema)
    }


def metrics_page() -> str:
    """Describe every metric of every program."""
    parts = [
        "# Metrics\n\n",
        "Prometheus text format. The listener and the worker serve `/metrics`; the nightly job pushes to a ",
        "Pushgateway when `pushgateway_url` is set. No label holds a UID, a path or text from the wire.\n",
    ]
    for title, registry in registries().items():
        parts.append(f"\n## {title}\n\n| metric | type | labels | what |\n|---|---|---|---|\n")
        for metric in described(registry):
            labels = ", ".join(f"`{label}`" for label in metric["labels"])
            parts.append(f"| `{metric['name']}` | {metric['type']} | {labels} | {metric['help']} |\n")
    return "".join(parts)


def registries() -> dict[str, CollectorRegistry]:
    """Return a registry of each program, with all its metrics in it."""
    listener = CollectorRegistry()
    for metrics in (ListenerMetrics, CommitmentMetrics, EvidenceMetrics, KeepingMetrics):
        metrics(listener)
    no_ledger, no_commitments, no_disk = cast("Ledger", None), cast("CommitmentLedger", None), Path()
    for collector in (  # to be described they need nothing to ask
        LedgerCollector(no_ledger),
        LostFilesCollector(no_ledger),
        CommitmentCollector(no_commitments),
        DiskCollector(DiskReserve(no_disk, 0)),
        CertificateCollector(None),
    ):
        listener.register(collector)
    worker = CollectorRegistry()
    WorkerMetrics(worker)
    retrain = CollectorRegistry()
    for metric in vars(RetrainMetrics()).values():  # a run registers only what it comes to know
        if isinstance(metric, MetricWrapperBase):
            retrain.register(metric)
    return {"Listener": listener, "Worker": worker, "Nightly job": retrain}


def described(registry: CollectorRegistry) -> list[dict[str, Any]]:
    """Return name, type, labels and help of each metric, by name."""
    collectors = list(registry._collector_to_names)  # noqa: SLF001 - there is no other list
    found = [
        {
            "name": f"{metric.name}_total" if metric.type == "counter" else metric.name,
            "type": metric.type,
            "labels": list(getattr(metric, "_labelnames", ()) or getattr(collector, "_labelnames", ())),
            "help": metric.documentation,
        }
        for collector in collectors
        for metric in getattr(collector, "describe", collector.collect)()
    ]
    return sorted(found, key=lambda metric: metric["name"])


def deid_profile_page() -> str:
    """Say what is done with each row of Table E.1-1, and which attributes stay beside them."""
    parts = [
        "# The confidentiality profile, row by row\n\n",
        f"PS3.15 edition {EDITION}, Table E.1-1, all {len(attribute_rules())} rows, as the archive of ",
        "de-identified DICOM files and the audit apply them. The tables of results hold less: see ",
        "[tables.md](tables.md). X removed, Z emptied, D replaced by a dummy, U replaced by another UID, ",
        "K kept, C cleaned.\n\n",
        "Where the table offers several actions, the Type of the attribute in the IOD decides: the ",
        "strongest action that keeps the object valid is taken. The columns after the table's own say ",
        "which that is in an Ultrasound (Multi-frame) Image, an Enhanced US Volume, a report, and inside a ",
        "sequence, where the Type is not known. Options name what they change; where an option can make ",
        "nothing of a value, the basic action is left. What no row and no line of the allow-list below ",
        "names is removed, and so is what cannot be read. The Patient ID becomes the subject's key.\n\n",
        "| tag | attribute | table | image | volume | report | nested | under options |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for row in describe_rows():
        tag = "private" if row.rule.tag == PRIVATE else f"({row.rule.tag[:4]},{row.rule.tag[4:]})"
        options = "; ".join(f"{name} {what}" for name, what in row.options.items())
        basic = row.rule.basic.replace("*", "\\*")
        parts.append(f"| {tag} | {row.rule.attribute} | {basic} | {' | '.join(row.basic)} | {options} |\n")
    parts += [
        "\n## The allow-list\n\n",
        "Attributes that stay beside what the rows rule, at any depth, and the values that they may have; a ",
        "value that does not fit is removed (or emptied, or a dummy, where the IOD needs the attribute).\n\n",
        "| attribute | kind | values | how many |\n|---|---|---|---|\n",
    ]
    for row in read_table(ALLOW_LIST_FILE):
        values = row["detail"].replace("|", ", ")
        parts.append(f"| {row['keyword']} | {row['kind']} | {values} | {row['multiplicity']} |\n")
    return "".join(parts)


def verbs_page() -> str:
    """Show the help of every verb, as the command prints it."""
    parts = [
        "# Verbs\n\n",
        "What `echobeam VERB --help` prints. Exit codes: [exit-codes.md](exit-codes.md).\n",
    ]
    context = help_context(echobeam, "echobeam")
    for name in VERBS:
        command = echobeam.get_command(context, name)
        parts.extend(help_of(command, f"echobeam {name}", 2))
    return "".join(parts)


def help_of(command: click.Command, path: str, level: int) -> Iterator[str]:
    """Yield the help of a command and of those below it."""
    context = help_context(command, path)
    yield f"\n{'#' * level} {path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from help_of(command.get_command(context, name), f"{path} {name}", level + 1)


def help_context(command: click.Command, path: str) -> click.Context:
    """Make a context in which help is the same on every terminal."""
    return click.Context(command, info_name=path, terminal_width=100, max_content_width=100)


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring."""
    return (docstring or "").strip().splitlines()[0]


PAGES: Final[dict[str, Callable[[], str]]] = {
    "configuration.md": configuration_page,
    "tables.md": tables_page,
    "metrics.md": metrics_page,
    "verbs.md": verbs_page,
    "deid-profile.md": deid_profile_page,
}


def wanted_pages() -> dict[Path, str]:
    """Return what each page should say.

    Of the conformance statement only the tables are written here; what was measured comes from the files of
    the runs.
    """
    pages = {REFERENCE / name: NOTE + write() for name, write in PAGES.items()}
    statement = CONFORMANCE.read_text(encoding="utf-8")
    return pages | {
        CONFORMANCE: conformance.fill(statement),
        SCIENCE: NOTE + science_page(REPORTS, SHIPPED),
    }


def stale_pages() -> list[str]:
    """Name the pages that differ from what the code says."""
    return [
        page.name
        for page, text in wanted_pages().items()
        if not page.exists() or page.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    check = parser.parse_args().check
    stale = stale_pages()
    if check:
        for name in stale:
            print(f"stale: {name}; run `make docs`")
        return 1 if stale else 0
    REFERENCE.mkdir(exist_ok=True)
    for page, text in wanted_pages().items():
        if page.name in stale:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
