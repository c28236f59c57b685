"""The tables of the conformance statement, out of the code that does what they say.

`docs/conformance.md` has the words; between `<!-- table: NAME -->` and `<!-- /table -->` stands what is
written here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_listener.association import tls
from dicom_listener.backfill.fetch import get_contexts, move_contexts
from dicom_listener.commitment import requests
from dicom_listener.commitment.statuses import ActionStatus, FailureReason, ReportEvent
from dicom_listener.errors import ListenerError, RefusedInstanceError, RetryLaterError
from dicom_listener.peers.find import STUDY_KEYS, find_contexts
from dicom_listener.reception import contexts
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.statuses import REJECTIONS, StoreStatus, failure_answer
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.writing import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PLACE: Final = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- /table -->", re.DOTALL)


def fill(text: str) -> str:
    """Write every table into its place.

    Raises:
        KeyError: if a place names no table.
    """

    def write(place: re.Match[str]) -> str:
        return f"<!-- table: {place[1]} -->\n{TABLES[place[1]]()}<!-- /table -->"

    return _PLACE.sub(write, text)


def overview() -> str:
    """List every SOP class with our roles."""
    rows = [
        (Verification, "—", "yes"),
        *((storage_class, "—", "yes") for storage_class in contexts.STORAGE_CLASSES),
        (StorageCommitmentPushModel, "—", "yes"),
        *((one.abstract_syntax, "yes", "—") for one in _asked()),
    ]
    return _table(
        ("SOP class", "UID", "SCU", "SCP"),
        [(_name(uid), f"`{uid}`", scu, scp) for uid, scu, scp in rows],
    )


def accepted_contexts() -> str:
    """List what is accepted of a requestor."""
    proposed = [*contexts.supported_contexts(), *requests.contexts()]
    return _table(
        ("abstract syntax", "UID", "transfer syntaxes", "role", "extended negotiation"),
        [
            (_name(one.abstract_syntax), f"`{one.abstract_syntax}`", _syntaxes(one), "SCP", "none")
            for one in proposed
        ],
    )


def transfer_syntaxes() -> str:
    """List the transfer syntaxes of storage in the order in which they are preferred."""
    return _table(
        ("preference", "transfer syntax", "UID"),
        [
            (str(number), _name(syntax), f"`{syntax}`")
            for number, syntax in enumerate(contexts.TRANSFER_SYNTAXES, start=1)
        ],
    )


def initiated_contexts() -> str:
    """List what is proposed when we request an association, but for the storage classes of C-GET."""
    rows = [
        (_name(one.abstract_syntax), f"`{one.abstract_syntax}`", _syntaxes(one), "SCU", "none")
        for one in _asked()
    ]
    [report] = requests.contexts()
    rows.append(
        (
            _name(report.abstract_syntax),
            f"`{report.abstract_syntax}`",
            _syntaxes(report),
            "SCP",
            "role selection: SCP",
        )
    )
    return _table(("abstract syntax", "UID", "transfer syntaxes", "role", "extended negotiation"), rows)


def get_storage_contexts() -> str:
    """List the storage classes that a C-GET proposes, with how many contexts each has."""
    proposed = get_contexts()[1:]
    rows = []
    for storage_class in contexts.STORAGE_CLASSES:
        own = [one for one in proposed if one.abstract_syntax == storage_class]
        compressed = [_name(one.transfer_syntax[0]) for one in own[1:]]
        is_all = len(compressed) == len(contexts.TRANSFER_SYNTAXES) - 3  # the three that compress nothing
        words = "every one of storage" if is_all else ", ".join(compressed) or "—"
        rows.append((_name(storage_class), str(len(own)), words))
    return _table(("SOP class", "contexts", "compressed transfer syntaxes, each in a context"), rows)


def store_statuses() -> str:
    """List the statuses of a C-STORE response."""
    rows = [
        (_hexadecimal(StoreStatus.SUCCESS), "success", "", "The instance is durable, in spool and ledger.")
    ]
    for error in _answered():
        answer = failure_answer(error("x"))
        rows.append(
            (
                _hexadecimal(answer.status),
                answer.status.name.lower().replace("_", " "),
                answer.comment,
                _first_line(error),
            )
        )
    return _table(("status", "name", "error comment (0000,0902)", "when"), sorted(set(rows)))


def action_statuses() -> str:
    """List the statuses of an N-ACTION response."""
    return _table(
        ("status", "name", "when"),
        [(_hexadecimal(one), one.name.lower().replace("_", " "), one.meaning) for one in ActionStatus],
    )


def report_events() -> str:
    """List the events of an N-EVENT-REPORT."""
    return _table(
        ("event type ID", "name", "when"),
        [(str(int(one)), one.name.lower().replace("_", " "), one.meaning) for one in ReportEvent],
    )


def failure_reasons() -> str:
    """List the failure reasons in a report."""
    return _table(
        ("failure reason", "name", "when"),
        [(_hexadecimal(one), one.name.lower().replace("_", " "), one.meaning) for one in FailureReason],
    )


def rejections() -> str:
    """List how an association is rejected (PS3.8 Table 9-21)."""
    rows = []
    for refusal, rejection in REJECTIONS.items():
        said = A_ASSOCIATE_RJ()
        said.result, said.source, said.reason_diagnostic = rejection
        rows.append(
            (
                refusal.value.replace("_", " "),
                f"{said.result}: {said.result_str}",
                f"{said.source}: {said.source_str}",
                f"{said.reason_diagnostic}: {said.reason_str}",
            )
        )
    return _table(("because of", "result", "source", "reason"), rows)


def aborts() -> str:
    """List why a connection is ended."""
    return _table(
        ("because of", "what helps"),
        [(breach.value.replace("_", " "), breach.advice) for breach in Breach],
    )


def limits() -> str:
    """List the limits of associations, with their defaults."""
    return _settings(
        "maximum_associations",
        "maximum_associations_per_peer",
        "maximum_pdu_bytes",
        "maximum_object_bytes",
        "negotiation_timeout_s",
        "network_timeout_s",
        "object_timeout_s",
        "peer_timeout_s",
        "minimum_free_bytes",
    )


def addresses() -> str:
    """List where we listen, with the defaults."""
    return _settings("ae_title", "host", "port", "tls_port")


def commitment_settings() -> str:
    """List how long a commitment is reported and kept."""
    return _settings("commitment_retry_s", "commitment_give_up_s", "commitment_keep_days")


def security() -> str:
    """List what is set for TLS."""
    rows = [
        ("versions", "TLS 1.2 and 1.3; `tls_minimum_version` (1.2) may be raised"),
        ("cipher suites of TLS 1.2", f"`{tls.CIPHERS}` in OpenSSL's words"),
        ("cipher suites of TLS 1.3", "all of them"),
        ("client certificates", "`tls_client_certificates`: required (default), optional, none"),
        ("compression, renegotiation", "off"),
    ]
    return _table(("what", "how"), rows)


def query_keys() -> str:
    """List the keys of a C-FIND at the study level."""
    matched = {
        "StudyDate": "range, a day at a time",
        "NumberOfStudyRelatedInstances": "universal: returned",
        "StudyInstanceUID": "single value or universal",
        "StudyDescription": "wildcard or universal",
    }
    return _table(
        ("attribute", "tag", "VR", "matching asked for"),
        [
            (
                keyword,
                str(Tag(tag_for_keyword(keyword) or 0)),
                dictionary_VR(keyword),
                matched.get(keyword, "single value or universal"),
            )
            for keyword in STUDY_KEYS
        ],
    )


def identification() -> str:
    """Give the implementation's identifiers."""
    return _table(
        ("what", "value"),
        [
            ("implementation class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("implementation version name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ],
    )


TABLES: Final[dict[str, Callable[[], str]]] = {
    "overview": overview,
    "accepted-contexts": accepted_contexts,
    "transfer-syntaxes": transfer_syntaxes,
    "initiated-contexts": initiated_contexts,
    "get-storage-contexts": get_storage_contexts,
    "store-statuses": store_statuses,
    "action-statuses": action_statuses,
    "report-events": report_events,
    "failure-reasons": failure_reasons,
    "rejections": rejections,
    "aborts": aborts,
    "limits": limits,
    "addresses": addresses,
    "commitment-settings": commitment_settings,
    "security": security,
    "query-keys": query_keys,
    "identification": identification,
}


def _asked() -> list[PresentationContext]:
    return [*find_contexts(), get_contexts()[0], *move_contexts()]


def _answered() -> list[type[ListenerError]]:
    """List the errors that a sender is told of, in the order of their names."""
    kinds = [*RetryLaterError.__subclasses__(), *RefusedInstanceError.__subclasses__()]
    return sorted(kinds, key=lambda kind: kind.__name__)


def _settings(*names: str) -> str:
    fields = ListenerSettings.model_fields
    return _table(
        ("setting", "default", "what"),
        [
            (f"`{name}`", "none" if fields[name].default is None else f"{fields[name].default}", what)
            for name in names
            if (what := fields[name].description or "")
        ],
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _syntaxes(context: PresentationContext) -> str:
    syntaxes = [UID(syntax) for syntax in context.transfer_syntax or []]
    if syntaxes == list(contexts.TRANSFER_SYNTAXES):
        return "all of storage"
    return ", ".join(_name(syntax) for syntax in syntaxes)


def _name(uid: str) -> str:
    """Give the name that PS3.6 has for a UID."""
    known = {
        contexts.UltrasoundImageStorageRetired: "Ultrasound Image Storage (Retired)",
        contexts.UltrasoundMultiFrameImageStorageRetired: "Ultrasound Multi-frame Image Storage (Retired)",
        contexts.JPEGXLLossless: "JPEG XL Lossless",
        contexts.JPEGXLJPEGRecompression: "JPEG XL JPEG Recompression",
        contexts.JPEGXL: "JPEG XL",
    }
    return known.get(UID(uid)) or UID(uid).name


def _hexadecimal(code: int) -> str:
    return f"0x{code:04X}"


def _first_line(error: type[ListenerError]) -> str:
    return (error.__doc__ or "").strip().splitlines()[0]
