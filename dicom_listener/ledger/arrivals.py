"""What arrives at the ledger, and the files that it is about."""

from dataclasses import dataclass
from pathlib import Path

from dicom_listener.ledger.records import ReceivedInstance


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance that is in the spool and wants to be in the ledger.

    Attributes:
        association: names the open association that brought it.
        hold_until: its study is not complete before, unless the hold is released.
        now: seconds since the epoch.
    """

    instance: ReceivedInstance
    association: str
    hold_until: float
    now: float

    @property
    def key(self) -> dict[str, str]:
        """The key of its row."""
        return {
            "study_instance_uid": self.instance.study_instance_uid,
            "sop_instance_uid": self.instance.spooled.sop_instance_uid,
        }

    @property
    def parameters(self) -> dict[str, str]:
        """The key of its row, as statements that are built once name it."""
        return {
            "of_study": self.instance.study_instance_uid,
            "of_instance": self.instance.spooled.sop_instance_uid,
        }

    @property
    def patient_id(self) -> str:
        """As sent, but for zero bytes, which PostgreSQL does not take."""
        return self.instance.patient_id.replace("\0", "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True)
class SpoolFiles:
    """The files of the spool as far as the ledger must see them.

    Attributes:
        root: folder of the spool; None for a ledger that is not asked to look at files.
    """

    root: Path | None

    def have(self, path: str) -> bool:
        """Say whether the file of a path is there, as far as can be seen."""
        return self.root is None or (self.root / path).exists()

    def delete(self, path: str) -> None:
        """Delete a file, if it can be seen."""
        if self.root is not None:
            (self.root / path).unlink(missing_ok=True)
