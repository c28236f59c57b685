"""The DIMSE messages of one association, fragment by fragment.

C-STORE requests are received here, in constant memory, and answered. All others are collected by
pynetdicom, as far as they are not too long, and served by its service classes.
"""

import time
from typing import Any, Final

import structlog
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from dicom_listener.association.commands import Command, CommandField, encode_store_response, parse_command
from dicom_listener.association.guard import (
    MAXIMUM_COMMAND_BYTES,
    MAXIMUM_IDENTIFIER_BYTES,
    BreachError,
)
from dicom_listener.association.wire import IS_COMMAND, IS_LAST, split_pdvs
from dicom_listener.log import describe_error
from dicom_listener.reception.breaches import Breach
from dicom_listener.reception.contexts import STORAGE_CLASSES
from dicom_listener.reception.incoming import IncomingInstance, Reception
from dicom_listener.reception.statuses import StoreAnswer, StoreStatus

_MESSAGES_AHEAD: Final = 8
"""How many messages may wait for pynetdicom until no more are read."""

_PDV_OVERHEAD_BYTES: Final = 6

_log = structlog.get_logger(__name__)


class Messages:
    """What arrives over one association. Only the thread at its socket takes.

    Attributes:
        began_at: when the message that is under way began, on the monotonic clock; None between two.
        is_being_served: whether pynetdicom is at a message, so that the peer may wait in silence.
    """

    def __init__(self, assoc: Association, reception: Reception, maximum_object_bytes: int) -> None:
        self.began_at: float | None = None
        self.is_being_served = False
        self._assoc = assoc
        self._reception = reception
        self._maximum_object_bytes = maximum_object_bytes
        self._context_id = 0
        self._encoded = bytearray()
        self._command: Command | None = None  # once it is whole, until its dataset is
        self._instance: IncomingInstance | None = None
        self._identifier_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether so many messages wait for pynetdicom that no more are to be read."""
        return bool(self._assoc.dimse.msg_queue.qsize() >= _MESSAGES_AHEAD)

    def take(self, body: memoryview) -> None:
        """Take the presentation data values of one PDU.

        Raises:
            BreachError: if they are no messages, or too long ones.
        """
        for context_id, control, fragment in split_pdvs(body):
            if control & IS_COMMAND:
                self._take_command(context_id, fragment, is_last=bool(control & IS_LAST))
            else:
                self._take_dataset(context_id, control, fragment)

    def report(self, breach: Breach) -> None:
        """Count and tell that the guard ends the association."""
        self._reception.metrics.breaches.labels(breach.value).inc()
        _log.warning(
            "connection_ended",
            peer=str(self._assoc.requestor.address),
            calling_ae_title=str(self._assoc.requestor.ae_title).strip(),
            reason=breach.value,
            advice=breach.advice,
        )

    def discard(self) -> None:
        """Leave nothing of an instance that was not finished."""
        if self._instance is not None:
            _log.warning(
                "instance_broken_off",
                peer=str(self._assoc.requestor.address),
                calling_ae_title=str(self._assoc.requestor.ae_title).strip(),
                advice="the sender was not told Success and sends it again; if not, check the network",
            )
            self._instance.discard()
            self._instance = None

    def _take_command(self, context_id: int, fragment: memoryview, *, is_last: bool) -> None:
        if self._command is not None:
            raise BreachError(Breach.UNEXPECTED_MESSAGE)
        if self.began_at is None:
            self.began_at = time.monotonic()
            self._context_id = context_id
        if len(self._encoded) + len(fragment) > MAXIMUM_COMMAND_BYTES:
            raise BreachError(Breach.OVERSIZED_MESSAGE)
        if context_id != self._context_id:
            raise BreachError(Breach.UNEXPECTED_MESSAGE)
        self._encoded += fragment
        if is_last:
            self._begin(parse_command(self._encoded))

    def _begin(self, command: Command) -> None:
        if command.field == CommandField.C_STORE_RQ:
            self._instance = self._begin_instance(command)
        elif command.field == CommandField.N_EVENT_REPORT_RQ:
            raise BreachError(Breach.UNEXPECTED_MESSAGE)  # pynetdicom starts a thread for each
        else:
            self._hand_on(IS_COMMAND | IS_LAST, self._encoded)
        self._command = command
        if not command.has_dataset:
            self._end(command)

    def _begin_instance(self, command: Command) -> IncomingInstance:
        context = self._assoc._accepted_cx.get(self._context_id)  # noqa: SLF001 - the public list is unordered
        if context is None or context.abstract_syntax not in STORAGE_CLASSES:
            raise BreachError(Breach.UNEXPECTED_MESSAGE)
        return IncomingInstance(
            self._reception,
            self._reception.open_associations.tally(self._assoc),
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax=context.transfer_syntax[0],
            maximum_bytes=self._maximum_object_bytes,
        )

    def _take_dataset(self, context_id: int, control: int, fragment: memoryview) -> None:
        command = self._command
        if command is None or context_id != self._context_id:
            raise BreachError(Breach.UNEXPECTED_MESSAGE)
        if self._instance is not None:
            self._instance.write(fragment)
        else:
            self._identifier_bytes += len(fragment)
            if self._identifier_bytes > MAXIMUM_IDENTIFIER_BYTES:
                raise BreachError(Breach.OVERSIZED_MESSAGE)
            self._hand_on(control & IS_LAST, fragment)
        if control & IS_LAST:
            self._end(command)

    def _end(self, command: Command) -> None:
        instance, self._instance = self._instance, None
        self.began_at = None
        self._command = None
        self._encoded.clear()
        self._identifier_bytes = 0
        if instance is not None:
            self._answer(command, self._finish(instance))

    def _finish(self, instance: IncomingInstance) -> StoreAnswer:
        with instance:
            try:
                return instance.finish()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end in Success, nor in silence
                _log.error("instance_failed", error=describe_error(error), advice="please report this")
                return StoreAnswer(StoreStatus.OUT_OF_RESOURCES, "cannot be kept now, send it again later")

    def _answer(self, request: Command, answer: StoreAnswer) -> None:
        encoded = encode_store_response(request, answer.status, answer.comment)
        maximum = self._assoc.requestor.maximum_length or len(encoded) + _PDV_OVERHEAD_BYTES
        step = max(1, maximum - _PDV_OVERHEAD_BYTES)
        for place in range(0, len(encoded), step):
            is_last = place + step >= len(encoded)
            self._assoc.dul.send_pdu(
                _data(
                    self._context_id, IS_COMMAND | (IS_LAST if is_last else 0), encoded[place : place + step]
                )
            )

    def _hand_on(self, control: int, fragment: bytes | bytearray | memoryview) -> None:
        try:
            self._assoc.dimse.receive_primitive(_data(self._context_id, control, fragment))
        except Exception as error:  # a decoder fed by the wire may raise anything
            raise BreachError(Breach.UNREADABLE_PDU) from error


def _data(context_id: int, control: int, fragment: bytes | bytearray | memoryview) -> Any:
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((context_id, bytes((control,)) + bytes(fragment)))
    return primitive
