import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_listener.errors import SpoolLockedError, SpoolUnavailableError
from dicom_listener.spool.writing import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    Spool,
    SpooledFile,
    SpoolWriter,
    encode_file_header,
)
from tests.unit.dicom_listener.instances import encode, make_dataset


def keep(spool: Spool, dataset: bytes, transfer_syntax: str = ExplicitVRLittleEndian) -> SpooledFile:
    return spool.keep(
        dataset, sop_class_uid="1.2.3", sop_instance_uid="1.2.3.4", transfer_syntax_uid=transfer_syntax
    )


def test_a_kept_file_holds_the_bytes_as_sent_behind_a_header(tmp_path: Path) -> None:
    dataset = encode(make_dataset()).getvalue()
    file = keep(Spool(tmp_path), dataset)
    content = (tmp_path / file.path).read_bytes()
    assert content.startswith(bytes(128) + b"DICM")
    assert content.endswith(dataset)
    assert len(content) == file.size_bytes
    assert hashlib.sha256(content).hexdigest() == file.sha256
    assert dcmread(tmp_path / file.path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_the_path_is_made_of_the_digest_and_of_no_uid(tmp_path: Path) -> None:
    file = keep(Spool(tmp_path), b"x")
    assert file.path == f"{file.sha256[:2]}/{file.sha256}.dcm"


def test_the_same_dataset_is_the_same_file_and_another_syntax_another(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = keep(spool, b"x")
    again = keep(Spool(tmp_path), b"x")
    other = keep(spool, b"x", ImplicitVRLittleEndian)
    assert (first.path, first.is_new, again.path, again.is_new) == (first.path, True, first.path, False)
    assert other.path != first.path
    assert spool.size_bytes() == first.size_bytes + other.size_bytes


def test_a_file_is_on_disk_before_its_name_is_and_the_name_before_keep_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("fsync folder" if is_folder else "fsync file")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    keep(Spool(tmp_path), b"x")
    assert done[-3:] == ["fsync file", "rename", "fsync folder"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    keep(spool, b"x")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolUnavailableError, match="No space left"):
        keep(spool, b"y")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(list(tmp_path.glob("*/*.dcm"))) == 1


def test_what_a_crash_left_unfinished_is_swept_when_receiving_starts(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = keep(spool, b"x")
    (tmp_path / "tmp" / "left").write_bytes(b"half")
    with spool.receiving():
        assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / kept.path).exists()


def test_only_one_listener_receives_into_a_spool(tmp_path: Path) -> None:
    with Spool(tmp_path).receiving(), pytest.raises(SpoolLockedError), Spool(tmp_path).receiving():
        pass
    with Spool(tmp_path).receiving():
        pass  # free again


def test_a_new_owner_does_not_sweep_under_receivers_of_one_that_was_killed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.receiving():
        pass
    with spool.joined():
        with spool.begin(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.4") as writer:
            with pytest.raises(SpoolLockedError, match="drained"), Spool(tmp_path).receiving():
                pass
            file = writer.finish()
        assert (tmp_path / file.path).exists()
    with Spool(tmp_path).receiving():
        pass  # they have ended


def test_a_new_owner_waits_for_receivers_that_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Spool(tmp_path).receiving():
        pass
    draining = Spool(tmp_path).joined()
    draining.__enter__()
    monkeypatch.setattr(
        "dicom_listener.spool.writing.time.sleep", lambda _: draining.__exit__(None, None, None)
    )
    with Spool(tmp_path).receiving(patience_s=60):
        pass


def test_a_spool_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnavailableError, match="cannot be made"), Spool(tmp_path / "file").receiving():
        pass


def test_a_spool_whose_folder_went_away_is_not_writable(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.receiving():
        spool.check_writable()
        (tmp_path / "spool" / "tmp").rmdir()
        with pytest.raises(SpoolUnavailableError):
            spool.check_writable()


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.receiving():
        file = tmp_path / "spool" / keep(spool, b"x").path
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent, file.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]


def begin(spool: Spool) -> SpoolWriter:
    return spool.begin(
        sop_class_uid="1.2.3", sop_instance_uid="1.2.3.4", transfer_syntax_uid=ExplicitVRLittleEndian
    )


def test_fragments_are_on_disk_as_they_come_and_make_the_same_file_as_the_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with begin(spool) as writer:
        writer.write(b"ab")
        [unfinished] = (tmp_path / "tmp").iterdir()
        assert unfinished.read_bytes().endswith(b"ab")
        writer.write(memoryview(b"cd"))
        assert writer.dataset_bytes == 4
        in_pieces = writer.finish()
    whole = keep(spool, b"abcd")
    assert (whole.path, whole.sha256, whole.size_bytes) == (
        in_pieces.path,
        in_pieces.sha256,
        in_pieces.size_bytes,
    )
    assert not whole.is_new


def test_what_is_not_finished_is_gone(tmp_path: Path) -> None:
    with begin(Spool(tmp_path)) as writer:
        writer.write(b"half")
    writer.discard()  # again
    assert list(tmp_path.glob("*/*")) == []


def test_a_disk_that_fills_while_fragments_come_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(tmp_path)
    with begin(spool) as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(SpoolUnavailableError, match="No space left"):
            writer.write(b"y")
    monkeypatch.undo()
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1])
def test_header_and_dataset_are_whole_whatever_the_size(tmp_path: Path, size: int) -> None:
    dataset = os.urandom(size)
    file = keep(Spool(tmp_path), dataset)
    content = (tmp_path / file.path).read_bytes()
    assert content == encode_file_header("1.2.3", "1.2.3.4", ExplicitVRLittleEndian) + dataset
    assert hashlib.sha256(content).hexdigest() == file.sha256


def test_the_header_is_what_pydicom_would_write() -> None:
    for uid in ("1.2.3", "1.2.34"):  # odd and even
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(uid)
        meta.MediaStorageSOPInstanceUID = UID(f"{uid}.4")
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        expected = DicomBytesIO()
        write_file_meta_info(expected, meta, enforce_standard=True)
        header = encode_file_header(uid, f"{uid}.4", ImplicitVRLittleEndian)
        assert header == bytes(128) + b"DICM" + expected.getvalue()
