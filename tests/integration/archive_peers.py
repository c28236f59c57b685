"""An archive, made of pynetdicom, that answers as badly as a test wants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    UltrasoundMultiFrameImageStorage,
)

from dicom_listener.settings import Peer
from tests.integration.serving import serving
from tests.unit.dicom_listener.instances import make_dataset

Answers = Callable[[Dataset], Iterator[tuple[int, Dataset | None]]]


@dataclass
class Archive:
    """The running archive.

    Attributes:
        counts: Number of Study Related Instances by study; None leaves the attribute out.
        answers: replaces its answers to a C-FIND.
        sends: what it sends for a C-GET, by study.
        questions: what it was asked.
    """

    port: int = 0
    counts: dict[str, int | None] = field(default_factory=dict)
    answers: Answers | None = None
    sends: dict[str, list[Dataset]] = field(default_factory=dict)
    questions: list[Dataset] = field(default_factory=list)

    @property
    def peer(self) -> Peer:
        """How the listener is to know it."""
        return Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=self.port)

    def on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a C-FIND of the study level."""
        self.questions.append(event.identifier)
        if self.answers is not None:
            yield from self.answers(event.identifier)
            return
        wanted = event.identifier.get("StudyInstanceUID", "")
        for uid, count in self.counts.items():
            if wanted in ("", None, uid):
                yield 0xFF00, study_answer(uid, count)

    def on_get(self, event: Event) -> Iterator[Any]:
        """Answer a C-GET of the study level."""
        instances = self.sends.get(str(event.identifier.StudyInstanceUID), [])
        yield len(instances)
        for ds in instances:
            yield 0xFF00, ds


def study_answer(uid: str, count: int | None, **values: Any) -> Dataset:
    """Make an answer to a C-FIND."""
    answer = Dataset()
    answer.QueryRetrieveLevel = "STUDY"
    answer.StudyInstanceUID = uid
    if count is not None:
        answer.NumberOfStudyRelatedInstances = count
    for keyword, value in values.items():
        setattr(answer, keyword, value)
    return answer


def instance(study: str, number: int, **values: Any) -> Dataset:
    """Make an instance that the archive can send."""
    ds = make_dataset(study=study, instance=f"{study}.1.{number}")
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


@contextmanager
def archive(*, finds: bool = True, port: int = 0) -> Iterator[Archive]:
    """Run an archive; one that does not find takes no C-FIND."""
    running = Archive()
    ae = AE(ae_title="ARCHIVE")
    ae.require_called_aet = True
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_supported_context(UltrasoundMultiFrameImageStorage, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_C_FIND, running.on_find), (evt.EVT_C_GET, running.on_get)]
    with serving(ae, handlers, port=port) as running.port:
        yield running
