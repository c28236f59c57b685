"""Send files over real associations with a client that is not ours.

DCMTK's `storescu` where it is installed, pynetdicom's own storescu application otherwise. Each
association proposes one transfer syntax, that of its files, so nothing is decoded on the way.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from beam_jobs.demo_clips import Clip
from beam_jobs.errors import BeamJobsError

CALLING_AE_TITLE: Final = "ECHODEMO"

_DCMTK_PROPOSES: Final = {
    ImplicitVRLittleEndian: "--propose-implicit",
    ExplicitVRLittleEndian: "--propose-little",
    ExplicitVRBigEndian: "--propose-big",
    JPEGBaseline8Bit: "--propose-jpeg8",
    JPEGLosslessSV1: "--propose-lossless",
    JPEG2000Lossless: "--propose-j2k-lossless",
    RLELossless: "--propose-rle",
}


class SendError(BeamJobsError):
    """The client could not send: its exit code and its last words."""


@dataclass(frozen=True)
class Sender:
    """Where to send, and with what.

    Attributes:
        storescu: DCMTK's program, or None for pynetdicom's.
    """

    host: str
    port: int
    ae_title: str
    storescu: Path | None

    @property
    def client(self) -> str:
        """The client's name, for people."""
        return "pynetdicom's storescu" if self.storescu is None else f"DCMTK's {self.storescu}"

    def send(self, clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
        """Send the clips, one association for each transfer syntax; yield each group once sent.

        Raises:
            SendError: if the client ends with an error.
        """
        for syntax, group in by_transfer_syntax(clips):
            command = self._command(syntax, [clip.path for clip in group])
            done = subprocess.run(  # noqa: S603 - a fixed program and paths of our own making
                command, capture_output=True, text=True, check=False, errors="replace"
            )
            if done.returncode != 0:
                words = (done.stderr or done.stdout).strip().splitlines() or ["(it said nothing)"]
                raise SendError(f"{self.client} ended with code {done.returncode}: {words[-1]}")
            yield group

    def _command(self, syntax: UID, paths: Sequence[Path]) -> list[str]:
        files = [os.fspath(path) for path in paths]
        if self.storescu is not None and syntax in _DCMTK_PROPOSES:
            return [
                os.fspath(self.storescu),
                "--required",
                _DCMTK_PROPOSES[syntax],
                *("--aetitle", CALLING_AE_TITLE, "--call", self.ae_title),
                *(self.host, str(self.port)),
                *files,
            ]
        return [
            *(sys.executable, "-m", "pynetdicom", "storescu", "--required-contexts"),
            *("--calling-aet", CALLING_AE_TITLE, "--called-aet", self.ae_title),
            *(self.host, str(self.port)),
            *files,
        ]


def by_transfer_syntax(clips: Iterable[Clip]) -> Iterator[tuple[UID, list[Clip]]]:
    """Group clips by the encoding of their pixels, in a fixed order."""
    ordered = sorted(clips, key=lambda clip: (clip.transfer_syntax, clip.sop_instance_uid))
    for syntax, group in groupby(ordered, key=lambda clip: clip.transfer_syntax):
        yield UID(syntax), list(group)
