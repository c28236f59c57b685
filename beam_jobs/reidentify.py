"""Find the patient behind a key again, for whoever holds both the key file and the ledger.

Nothing stores which key is whose: the ledger is walked and every key is made anew. So neither the
de-identified zone nor the ledger alone is enough, and a key made with another secret is not found.
Each use leaves a line in an audit file that only the owner may read.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.errors import AuditError
from dicom_listener.ledger.erasure import StudyIdentity

AUDIT_FILE: Final = "reidentify.jsonl"
"""Name of the audit file in the root folder, one JSON object a line."""

KEY_FORM: Final = re.compile(r"[0-9a-f]{32}|2\.25\.[0-9]{1,39}")
"""A subject's or study's key, or the Study Instance UID of a de-identified object."""


@dataclass(frozen=True, slots=True)
class Reidentified:
    """A study behind a key.

    Attributes:
        key: as it was asked for.
        kind: "subject", "study", or "study UID" where the key is that of a de-identified object.
    """

    key: str
    kind: str
    study_instance_uid: str = field(repr=False)
    patient_id: str = field(repr=False)


def reidentify(
    keys: Iterable[str], identities: Iterable[StudyIdentity], pseudonymizer: Pseudonymizer
) -> Iterator[Reidentified]:
    """Give the studies behind keys, in the ledger's order; a subject may have several.

    Args:
        keys: of subjects, of studies, or Study Instance UIDs of de-identified objects.
        identities: every study of the ledger.
        pseudonymizer: with the secret that made the keys.
    """
    wanted = frozenset(keys)
    for identity in identities:
        uid, patient_id = identity.study_instance_uid, identity.patient_id
        candidates = {
            "subject": pseudonymizer.subject_key(patient_id, uid),
            "study": pseudonymizer.study_key(uid),
            "study UID": pseudonymizer.uid(uid),
        }
        for kind, key in candidates.items():
            if key in wanted:
                yield Reidentified(key, kind, uid, patient_id)


def write_audit_line(
    path: Path, *, keys: Sequence[str], found: int, key_id: str, user: str, now: float
) -> None:
    """Note durably who asked for which keys; no UID and no patient ID is in the line.

    Args:
        path: of the audit file; made with mode 0600 where there is none.
        keys: as they were asked for.
        found: how many of them were found.
        key_id: of the secret that was used.
        user: who asked, by the name of the operating system.
        now: seconds since the epoch.

    Raises:
        AuditError: if the line cannot be written; then nothing may be shown.
    """
    line = {
        "time": datetime.fromtimestamp(now, tz=UTC).isoformat(timespec="seconds"),
        "user": user,
        "key_id": key_id,
        "keys": list(keys),
        "found": found,
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(json.dumps(line).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise AuditError(
            f"Who finds a patient again must leave a line in {path}; it cannot be written "
            f"({error.strerror}), so nothing is shown. Make the file writable for its owner."
        ) from error
