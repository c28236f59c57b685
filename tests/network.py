"""A network namespace of its own, as another host: it shares nothing with this one but the file system.

Needs the right to make one (root); `ip` is of the Debian package iproute2.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_FORWARDER: Final = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    there = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[2]))
    print("forwarding", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
"""Prism tells worker processes that it is at localhost; Flink's task managers are at their pool's side."""


@dataclass(frozen=True, slots=True)
class OtherHost:
    """A namespace that is joined to this one by a cable.

    Attributes:
        enter: the command before another that runs it there.
        here: this side's address.
        there: its own.
    """

    enter: tuple[str, ...]
    here: str
    there: str

    @contextmanager
    def forwarding(self, port: int) -> Iterator[None]:
        """Let a port at its localhost be the same port at this side."""
        command = [*self.enter, sys.executable, "-c", _FORWARDER, self.here, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "forwarding\n"
            try:
                yield
            finally:
                process.kill()


def may_make_hosts() -> bool:
    """Say whether this user may make network namespaces."""
    program = shutil.which("unshare")
    if os.geteuid() != 0 or program is None or shutil.which("ip") is None:
        return False
    return subprocess.run([program, "--net", "true"], check=False).returncode == 0


@contextmanager
def other_host() -> Iterator[OtherHost]:
    """Make a namespace for the block."""
    number = os.getpid() % 60_000
    name, cable = f"echobeam-{number}", f"eb{number}"
    network = f"10.211.{number // 250}.{number % 250 // 4 * 4}"
    here, there = (f"{network.rpartition('.')[0]}.{int(network.rpartition('.')[2]) + n}" for n in (1, 2))
    ip("netns", "add", name)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "uplink", "netns", name)
        ip("address", "add", f"{here}/30", "dev", cable)
        ip("link", "set", cable, "up")
        ip("-n", name, "address", "add", f"{there}/30", "dev", "uplink")
        for device in ("lo", "uplink"):
            ip("-n", name, "link", "set", device, "up")
        yield OtherHost(("ip", "netns", "exec", name), here, there)
    finally:
        ip("netns", "delete", name)


def ip(*words: str) -> None:
    """Run the program of this name."""
    subprocess.run(["ip", *words], check=True)
