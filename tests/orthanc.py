"""A real Orthanc beside a test: an archive that nobody here wrote."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from dicom_listener.settings import Peer
from tests.programs import DEADLINE_S, need, running

AE_TITLE = "ORTHANC"

# Sends what is stored with this station name on to the modality "router", as sites do.
ROUTING = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  if tags["StationName"] == "ROUTE" then
    SendToModality(instanceId, "router")
  end
end
"""


@dataclass(frozen=True)
class Orthanc:
    """The running archive."""

    http_port: int
    dicom_port: int

    @property
    def peer(self) -> Peer:
        """How the listener is to know it."""
        return Peer(name="orthanc", ae_title=AE_TITLE, host="127.0.0.1", port=self.dicom_port)

    def call(self, method: str, path: str, body: bytes | Mapping[str, Any] | None = None) -> Any:
        """Call its REST API."""
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        request = Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - a server that this test started
            text = answer.read()
            return json.loads(text) if text else None

    def upload(self, *files: bytes) -> list[str]:
        """Store Part 10 files; give Orthanc's ids of the instances."""
        return [str(self.call("POST", "/instances", content)["ID"]) for content in files]

    def know(self, name: str, port: int, ae_title: str = "ECHOBEAM") -> None:
        """Enter a modality, with every right."""
        rights = {f"Allow{what}": True for what in ("Echo", "Find", "Get", "Move", "Store")}
        self.call(
            "PUT",
            f"/modalities/{name}",
            {
                "AET": ae_title,
                "Host": "127.0.0.1",
                "Port": port,
                "AllowStorageCommitment": True,
                "AllowTranscoding": False,
                **rights,
            },
        )

    def study_of(self, study_instance_uid: str) -> str:
        """Give Orthanc's id of a study."""
        [found] = self.call(
            "POST", "/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        )
        return str(found)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run an empty Orthanc on free ports for the block, or skip the test."""
    program = need("Orthanc", "orthanc")
    orthanc = Orthanc(*_free_ports(2))
    script = folder / "route.lua"
    script.write_text(ROUTING)
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "Name": "test",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpPort": orthanc.http_port,
                "DicomPort": orthanc.dicom_port,
                "DicomAet": AE_TITLE,
                "DicomCheckCalledAet": True,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAlwaysAllowGet": True,
                "DicomAlwaysAllowFind": True,
                "OverwriteInstances": True,
                "TranscodeDicomProtocol": False,
                "LuaScripts": [str(script)],
                "Plugins": [],
                "DicomAssociationCloseDelay": 0,
                "StableAge": 1,
                "StorageAccessOnFind": "Never",
                "SyncStorageArea": False,
                "MetricsEnabled": False,
            }
        )
    )
    with running(program, str(configuration), says="Orthanc has started"):
        yield orthanc


def _free_ports(number: int) -> list[int]:
    """Find ports that nobody has now; Orthanc cannot choose its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
