"""A pynetdicom server for a block, which stops without the half second that pynetdicom's own takes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

_POLL_S = 0.01


@contextmanager
def serving(ae: AE, handlers: Sequence[evt.EventHandlerType] = (), *, port: int = 0) -> Iterator[int]:
    """Serve on 127.0.0.1; give the port."""
    server = ae.make_server(
        ("127.0.0.1", port), evt_handlers=list(handlers), server_class=ThreadedAssociationServer
    )
    ae._servers.append(server)  # which its shutdown takes out again
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
