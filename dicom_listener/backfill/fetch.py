"""Fetching one study from an archive: C-GET, or C-MOVE to ourselves (PS3.4 C.4.2, C.4.3).

By C-GET the instances come over the association that asked for them, and go the way of all received
instances: unfinished file, digest, rename, ledger row, and only then Success. By C-MOVE the archive
sends them to the running listener, as it sends anything.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt, sop_class
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_listener.association.scp import on_c_store
from dicom_listener.errors import PeerRefusedError
from dicom_listener.peers.outgoing import Caller
from dicom_listener.reception import contexts
from dicom_listener.reception.incoming import HOLD_S, Reception, Tally
from dicom_listener.settings import Peer

ANSWER_S: Final = 600.0
"""How long an archive may say nothing while it fetches a study from wherever it has it."""

_SUCCESS: Final = 0x0000
_PENDING: Final = 0xFF00
_FAILURES_EXIST: Final = 0xB000  # complete, one or more sub-operations failed
_NATIVE: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
_COUNTS: Final = (
    "NumberOfCompletedSuboperations",
    "NumberOfWarningSuboperations",
    "NumberOfFailedSuboperations",
)
_MAXIMUM_CONTEXTS: Final = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255
_OTHER_PICTURES: Final = (
    contexts.UltrasoundMultiFrameImageStorageRetired,
    contexts.UltrasoundImageStorageRetired,
    sop_class.EnhancedUSVolumeStorage,
    sop_class.SecondaryCaptureImageStorage,
    sop_class.MultiFrameTrueColorSecondaryCaptureImageStorage,
    sop_class.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
)
_COMMON_SYNTAXES: Final = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one study.

    Attributes:
        completed: sub-operations that succeeded.
        failed: sub-operations that did not.
    """

    completed: int
    failed: int


class Fetcher(Protocol):
    """A way to fetch a study."""

    def fetch(self, study_instance_uid: str, *, attempt: int) -> Fetched:
        """Fetch a study; return when the archive says that all of it was sent.

        Args:
            study_instance_uid: which.
            attempt: 0 for the first; a later one may do it in another way.

        Raises:
            PeerError: if the archive cannot be reached, refuses, or breaks off.
        """


@dataclass(frozen=True, slots=True)
class GetFetcher:
    """Fetches by C-GET."""

    caller: Caller
    peer: Peer
    reception: Reception
    clock: Callable[[], float] = time.time

    def fetch(self, study_instance_uid: str, *, attempt: int = 0) -> Fetched:
        """Fetch a study and keep it; it is held, so not called complete, while it comes."""
        tally = Tally(opened_at=self.clock(), peer=self.peer.name)
        proposed = get_contexts() if attempt % 2 == 0 else get_contexts_in_one()
        roles = [
            build_role(one.abstract_syntax, scu_role=False, scp_role=True)
            for one in proposed
            if one.abstract_syntax in contexts.STORAGE_CLASSES
        ]
        open_associations = self.reception.open_associations
        try:
            with self.caller.associated(
                self.peer,
                proposed,
                roles=list({role.sop_class_uid: role for role in roles}.values()),
                handlers=[(evt.EVT_C_STORE, on_c_store, [self.reception])],
                answer_timeout_s=ANSWER_S,
            ) as assoc:
                open_associations.open(assoc, tally)
                try:
                    answers = assoc.send_c_get(
                        _identifier(study_instance_uid), StudyRootQueryRetrieveInformationModelGet
                    )
                    return _last_answer(self._held(answers, tally), "C-GET")
                except (RuntimeError, ValueError) as error:
                    raise _not_begun("C-GET", error) from error
                finally:
                    open_associations.close(assoc)
        finally:
            self.reception.ledger.release_holds(tally.association)

    def _held(self, answers: Iterable[Any], tally: Tally) -> Iterable[Any]:
        extended_at = self.clock()
        for answer in answers:
            now = self.clock()
            if now - extended_at > HOLD_S / 3:
                self.reception.ledger.extend_holds(tally.association, until=now + HOLD_S)
                extended_at = now
            yield answer


@dataclass(frozen=True, slots=True)
class MoveFetcher:
    """Fetches by C-MOVE to ourselves: the listener must run, and the archive must know where."""

    caller: Caller
    peer: Peer

    def fetch(self, study_instance_uid: str, *, attempt: int = 0) -> Fetched:
        """Have a study sent to the running listener."""
        with self.caller.associated(self.peer, move_contexts(), answer_timeout_s=ANSWER_S) as assoc:
            try:
                answers = assoc.send_c_move(
                    _identifier(study_instance_uid),
                    self.caller.ae_title,
                    StudyRootQueryRetrieveInformationModelMove,
                )
                return _last_answer(answers, "C-MOVE")
            except (RuntimeError, ValueError) as error:
                raise _not_begun("C-MOVE", error) from error


def get_contexts() -> list[PresentationContext]:
    """Build what a C-GET proposes: the question, and how each storage class may come.

    An archive chooses one transfer syntax for each context, and can send what it has in no other (or
    transcodes it). So each syntax that ultrasound comes in has a context of its own, as far as the 128
    contexts of an association go.
    """
    contexts.supported_contexts()  # registers the retired classes
    ultrasound = (sop_class.UltrasoundMultiFrameImageStorage, sop_class.UltrasoundImageStorage)
    compressed = [syntax for syntax in contexts.TRANSFER_SYNTAXES if syntax not in _NATIVE]
    common = [syntax for syntax in compressed if syntax in _COMMON_SYNTAXES]
    proposed = [
        build_context(StudyRootQueryRetrieveInformationModelGet, list(_NATIVE[:2])),
        *(build_context(storage_class, list(_NATIVE)) for storage_class in contexts.STORAGE_CLASSES),
        *(build_context(storage_class, syntax) for storage_class in ultrasound for syntax in compressed),
        *(build_context(storage_class, syntax) for storage_class in _OTHER_PICTURES for syntax in common),
    ]
    return proposed[:_MAXIMUM_CONTEXTS]


def get_contexts_in_one() -> list[PresentationContext]:
    """Build the other proposal of a C-GET: one context for each class, with every transfer syntax in it.

    There are archives that send by the first context of a class that they accepted, whatever the
    instance is encoded in. Here they may choose the syntax that they prefer.
    """
    get, *_ = get_contexts()
    syntaxes = list(contexts.TRANSFER_SYNTAXES)
    return [get, *(build_context(storage_class, syntaxes) for storage_class in contexts.STORAGE_CLASSES)]


def move_contexts() -> list[PresentationContext]:
    """Build the presentation context of C-MOVE."""
    return [build_context(StudyRootQueryRetrieveInformationModelMove, list(_NATIVE[:2]))]


def _identifier(study_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = UID(study_instance_uid)
    return identifier


def _last_answer(answers: Iterable[Any], service: str) -> Fetched:
    for status, _ in answers:
        if "Status" not in status:
            raise PeerRefusedError(f"the archive broke off the {service}, or said nothing for too long")
        if status.Status == _PENDING:
            continue
        done, warned, failed = (int(status.get(keyword, 0) or 0) for keyword in _COUNTS)
        if status.Status not in (_SUCCESS, _FAILURES_EXIST):
            raise PeerRefusedError(
                f"the archive answered the {service} with status 0x{status.Status:04X}; "
                f"{failed} of {done + warned + failed} sub-operations failed"
            )
        return Fetched(done + warned, failed)
    raise PeerRefusedError(f"the archive ended the {service} without a final answer")


def _not_begun(service: str, error: Exception) -> PeerRefusedError:
    """Say why pynetdicom did not send the request: no association any more, or no context for it."""
    if isinstance(error, RuntimeError):
        return PeerRefusedError(f"the association ended before the {service}")
    return PeerRefusedError(
        f"the archive takes no {service} of the Study Root model from us: allow it for our AE title there, "
        "or fetch the other way (--method)"
    )
