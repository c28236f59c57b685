"""A small HTTP server for the machines that watch: `/metrics`, `/healthz`, `/readyz`."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from dicom_listener.errors import PortInUseError

_PLAIN_TEXT: Final = "text/plain; charset=utf-8"
_SOCKET_TIMEOUT_S: Final = 10.0


class HealthServer:
    """The running server. Close it, or use it as a context manager.

    Attributes:
        port: the port it listens on.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_http(host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]) -> HealthServer:
    """Serve metrics and health until closed.

    `/healthz` answers 200 while the process runs; `/readyz` 200 if `ready()`, else 503.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        registry: what `/metrics` shows.
        ready: asked on every `/readyz`; one that raises is not ready.

    Raises:
        PortInUseError: if the port cannot be bound.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _SOCKET_TIMEOUT_S

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
                case "/healthz":
                    self._answer(HTTPStatus.OK, b"ok\n", _PLAIN_TEXT)
                case "/readyz":
                    if _is_ready(ready):
                        self._answer(HTTPStatus.OK, b"ready\n", _PLAIN_TEXT)
                    else:
                        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n", _PLAIN_TEXT)
                case _:
                    self._answer(HTTPStatus.NOT_FOUND, b"try /metrics, /healthz or /readyz\n", _PLAIN_TEXT)

        def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing: a scrape every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise PortInUseError(
            f"HTTP cannot listen on {host}:{port} ({error.strerror}): stop what is there or set http_port"
        ) from error
    return HealthServer(server)


def _is_ready(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except Exception:  # noqa: BLE001 - whatever went wrong, the answer to "ready?" is no
        return False
