"""Object stores to test on: one in memory for unit tests, and a real S3 server as a program.

The program is Versity's S3 gateway, looked for on PATH. Go builds it:
`go install github.com/versity/versitygw/cmd/versitygw@v1.8.0`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Final, Self

import pytest
from obstore.store import MemoryStore

from dicom_listener import object_store
from dicom_listener.errors import StoreError
from dicom_listener.object_store import StoreUrl, list_folders
from tests.programs import DEADLINE_S, wait_for

MODULE: Final = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
BUCKET: Final = "echobeam"
_CHUNK_BYTES: Final = 1 << 16
_LISTENING: Final = "0A"
"""State of a socket in /proc/net/tcp."""


@pytest.fixture
def memory_url(monkeypatch: pytest.MonkeyPatch) -> StoreUrl:
    """Give the URL of an empty store in the memory of this process."""
    store = MemoryStore()
    monkeypatch.setattr(object_store, "_client", lambda _: store)
    return StoreUrl("memory")


@pytest.fixture(scope="session")
def gateway_program() -> str:
    """Give the path of the gateway; skip the test where there is none."""
    found = shutil.which("versitygw")
    if found is None:
        pytest.skip(f"no S3 server is installed (go install {MODULE})")
    return found


@dataclass(frozen=True, slots=True)
class Server:
    """An S3 server that runs, with one bucket.

    Attributes:
        environment: what a process needs to reach it.
        url: of the bucket.
    """

    environment: dict[str, str]
    port: int
    url: StoreUrl = field(default=StoreUrl(BUCKET))

    def through(self, relay: "Relay") -> dict[str, str]:
        """Give the environment of a process that reaches it through a relay."""
        return {**self.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"}


@contextlib.contextmanager
def _serving(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run the gateway over a folder for the block, reached by the environment of this process."""
    buckets = folder / "buckets"
    buckets.joinpath(BUCKET).mkdir(parents=True)
    _need_attributes(buckets)
    access, secret = token_hex(8), token_hex(16)
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [program, "--port=127.0.0.1:0", "--quiet", "posix", buckets],
            env={"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret},
            stdout=log,
            stderr=log,
        )
        try:
            port = wait_for("the gateway", lambda: _port_of(process))
            environment = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": access,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_REGION": "us-east-1",
            }
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            object_store._client.cache_clear()
            server = Server(environment, port)
            wait_for("the gateway", lambda: _answers(server.url))
            yield server
        finally:
            process.kill()
            process.wait(DEADLINE_S)
            object_store._client.cache_clear()


@pytest.fixture(name="server")
def s3_server(gateway_program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run the gateway for one test."""
    with _serving(gateway_program, tmp_path / "store", monkeypatch) as server:
        yield server


def _answers(url: StoreUrl) -> bool:
    try:
        list_folders(url)
    except StoreError:
        return False
    return True


def _need_attributes(folder: Path) -> None:
    """Skip the test where the gateway cannot keep what belongs to an object with it."""
    try:
        os.setxattr(folder, "user.echobeam", b"")
    except OSError:
        pytest.skip("this file system has no extended attributes")


def _port_of(process: "subprocess.Popen[bytes]") -> int | None:
    """Find the port that a process listens on, as it does not say which it was given."""
    if process.poll() is not None:
        pytest.fail("the gateway ended")
    opened = Path(f"/proc/{process.pid}/fd").iterdir()
    sockets = {str(file.readlink()) for file in opened if file.is_symlink()}
    for line in Path(f"/proc/{process.pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].partition(":")[2], 16)
    return None


class Relay:
    """Passes on what goes to a server, until a request comes that it holds in the middle of its body.

    Args:
        port: of the server.
        holds: whether to hold a request, by its first line.

    Attributes:
        port: where it is reached.
        held: set once a request is held: its head and half of its body have been passed on.
    """

    def __init__(self, port: int, holds: Callable[[str], bool]) -> None:
        self._server_port = port
        self._holds = holds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self.port = int(self._listener.getsockname()[1])
        self.held = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            threading.Thread(target=self._pass_requests, args=(client, server), daemon=True).start()
            threading.Thread(target=_pass_all, args=(server, client), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError):
            while data := client.recv(_CHUNK_BYTES):
                head, _, body = data.partition(b"\r\n\r\n")
                if self._holds(head.partition(b"\r\n")[0].decode("latin-1")):
                    while len(body) < 2:
                        body += client.recv(_CHUNK_BYTES)
                    server.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
                    self.held.set()
                    self._ended.wait(DEADLINE_S)
                    return
                server.sendall(data)


def _pass_all(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)


class FirstUpload:
    """Names the first upload of a table, and no later one."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._is_seen = False

    def __call__(self, request: str) -> bool:
        if self._is_seen or not request.startswith("PUT ") or f"/{self._table}/" not in request:
            return False
        self._is_seen = True
        return True
