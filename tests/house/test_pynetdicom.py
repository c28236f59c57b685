"""What the guarded server relies on inside pynetdicom, beyond its documented interface."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pynetdicom import fsm
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

REPLACED: dict[Callable[..., Any], tuple[str, str]] = {
    Association._run_reactor: ("GuardedAssociation._run_reactor", "f28838c5559e462a"),
    Association.kill: ("GuardedAssociation.kill", "8f9713666a7f4cff"),
    DULServiceProvider.run_reactor: ("GuardedDul.run_reactor and _turn", "e3a10eb3a0931e48"),
    DULServiceProvider._is_transport_event: ("GuardedDul._receive and _close", "8725ed03bb8fbdef"),
    DULServiceProvider._read_pdu_data: ("GuardedDul._take_pdu and _decode", "19f2d4e38c13c835"),
    DULServiceProvider.kill_dul: ("GuardedDul.kill_dul", "5ceccf8dd01c2072"),
    AssociationSocket.send: ("GuardedSocket.send", "1ea8158c0b51faca"),
    AssociationSocket._shutdown_socket: ("GuardedSocket._shutdown_socket", "e2b2628faa81a578"),
    RequestHandler._create_association: ("GuardedServer._make_association", "05c8d12b79863cdb"),
    AssociationServer.server_bind: ("GuardedServer.server_bind", "cf69278a05a5c777"),
    AssociationServer.get_request: ("GuardedServer.get_request", "925a4f3a3042f6e4"),
    DIMSEServiceProvider.receive_primitive: ("Messages._hand_on", "5f99c86b14a15cef"),
    ApplicationEntity.start_server: ("start_server", "d3868a2df83d3cc0"),
}
"""What is replaced, or used from outside: by what of ours, and the digest of its source."""


@pytest.mark.parametrize("function", REPLACED, ids=lambda function: function.__qualname__)
def test_what_the_server_replaces_is_as_it_was(function: Callable[..., Any]) -> None:
    ours, known = REPLACED[function]
    digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    assert digest == known, (
        f"pynetdicom's {function.__qualname__} has changed: compare it with {ours} in dicom_listener, take "
        f"over what matters, and enter its new digest {digest} here"
    )


def test_the_state_machine_knows_the_states_and_events_that_are_named() -> None:
    from dicom_listener.association import guarded  # noqa: PLC0415 - named here, beside what it is compared with

    named = {name: value for name, value in vars(guarded).items() if str(value) in fsm.STATES}
    assert named == {
        "_AWAITING_REQUEST": "Sta2",
        "_ESTABLISHED": "Sta6",
        "_RELEASING": "Sta7",
        "_CLOSING": "Sta13",
    }
    for event, state in (("Evt6", "Sta2"), ("Evt17", "Sta6"), ("Evt18", "Sta13"), ("Evt19", "Sta6")):
        assert (event, state) in fsm.TRANSITION_TABLE


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            Association,
            ("_server", "_accepted_cx", "_kill", "_is_paused", "_reactor_checkpoint", "_dul_ready"),
        ),
        (
            DULServiceProvider,
            ("_recv_pdu", "_kill_thread", "to_provider_queue", "to_user_queue", "event_queue"),
        ),
        (DIMSEServiceProvider, ("msg_queue",)),
        (AssociationServer, ("_handlers", "ae_title", "contexts")),
        (ApplicationEntity, ("_servers",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_attributes_that_the_server_uses_are_there(kind: type, names: tuple[str, ...]) -> None:
    source = inspect.getsource(kind)
    for name in names:
        assert f"self.{name}" in source, f"pynetdicom's {kind.__name__} has no attribute {name} any more"
