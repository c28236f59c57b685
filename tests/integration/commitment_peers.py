"""A requester of storage commitment, made of pynetdicom, for tests."""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_listener.commitment.records import Reference
from dicom_listener.settings import Peer
from tests.integration.serving import serving
from tests.programs import DEADLINE_S

REQUESTER = "PACS"


@dataclass
class Report:
    """A report that came in."""

    event_type: int
    information: Dataset
    calling_ae_title: str
    roles: tuple[bool, bool]


@dataclass
class Requester:
    """Takes reports; `answers` are the statuses of the first ones, Success afterwards."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    reports: "queue.Queue[Report]" = field(default_factory=queue.Queue)

    @property
    def peer(self) -> Peer:
        """How the listener is to know it."""
        return Peer(name="pacs", ae_title=REQUESTER, host="127.0.0.1", port=self.port)

    def next_report(self) -> Report:
        """Wait for a report."""
        return self.reports.get(timeout=DEADLINE_S)

    def on_report(self, event: Event) -> tuple[int, None]:
        """Take a report."""
        status = self.answers.pop(0) if self.answers else 0x0000
        [context] = [
            one for one in event.assoc.accepted_contexts if one.abstract_syntax == StorageCommitmentPushModel
        ]
        self.reports.put(
            Report(
                event.event_type,
                event.event_information,
                str(event.assoc.requestor.ae_title).strip(),
                (context.as_scu, context.as_scp),
            )
        )
        return status, None


@contextmanager
def requester(port: int = 0, answers: Sequence[int] = ()) -> Iterator[Requester]:
    """Run a requester that takes reports in the role of SCU, as it must (PS3.4 J.3.3.1.3)."""
    taking = Requester(answers=list(answers))
    ae = AE(ae_title=REQUESTER)
    ae.require_called_aet = True
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    with serving(ae, [(evt.EVT_N_EVENT_REPORT, taking.on_report)], port=port) as taking.port:
        yield taking


def ask(
    port: int,
    references: Sequence[Reference],
    *,
    transaction: str = "1.9",
    action: int = 1,
    instance: str = StorageCommitmentPushModelInstance,
    ae_title: str = REQUESTER,
    information: Dataset | None = None,
) -> int:
    """Request storage commitment and give the status of the answer."""
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(StorageCommitmentPushModel, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="ECHOBEAM")
    assert assoc.is_established
    try:
        status, _ = assoc.send_n_action(
            request_dataset(references, transaction) if information is None else information,
            action,
            StorageCommitmentPushModel,
            instance,
        )
        return int(status.Status)
    finally:
        assoc.release()


def request_dataset(references: Sequence[Reference], transaction: str = "1.9") -> Dataset:
    """Build the action information of a request (PS3.4 Table J.3-1)."""
    items = []
    for reference in references:
        item = Dataset()
        item.add(_uid("ReferencedSOPClassUID", reference.sop_class_uid))
        item.add(_uid("ReferencedSOPInstanceUID", reference.sop_instance_uid))
        items.append(item)
    information = Dataset()
    information.add(_uid("TransactionUID", transaction))
    information.ReferencedSOPSequence = DicomSequence(items)
    return information


def _uid(keyword: str, text: str) -> DataElement:
    return DataElement(keyword, "UI", text, validation_mode=config.IGNORE)  # what it sends may be none
