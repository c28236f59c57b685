"""The demo's clients against a real listener."""

from pathlib import Path

import pytest

from beam_jobs.dcmtk import find_dcmtk_storescu
from beam_jobs.demo_clips import Clip, public_clips
from beam_jobs.demo_sender import Sender
from dicom_listener.ledger import Ledger
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings

DCMTK = find_dcmtk_storescu()
SMALL_BYTES = 300_000


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    pytest.importorskip("data_store", reason="the extra `demo` is not installed")
    found, _ = public_clips(tmp_path_factory.mktemp("unpacked"))
    return [clip for clip in found if clip.path.stat().st_size < SMALL_BYTES]


@pytest.mark.parametrize(
    "storescu",
    [
        pytest.param(None, id="pynetdicom"),
        pytest.param(
            DCMTK, id="dcmtk", marks=pytest.mark.skipif(DCMTK is None, reason="DCMTK is not installed")
        ),
    ],
)
def test_every_transfer_syntax_arrives_as_it_was_sent(
    tmp_path: Path, clips: list[Clip], storescu: Path | None
) -> None:
    settings = ListenerSettings(root=tmp_path, port=0, http_port=0)
    assert len({clip.transfer_syntax for clip in clips}) >= 3
    with Listener(settings) as listener:
        sender = Sender("127.0.0.1", listener.dicom_port, settings.ae_title, storescu)
        assert sum(len(group) for group in sender.send(clips)) == len(clips)
        ledger = Ledger(settings.ledger_url)
        try:
            records = {clip.sop_instance_uid: ledger.show_study(clip.study_instance_uid) for clip in clips}
        finally:
            ledger.close()
    known = {record.study_instance_uid: record.instances for record in records.values()}
    assert sum(known.values()) == len(clips)
