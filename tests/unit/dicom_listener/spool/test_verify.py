import os

from dicom_listener.ledger import FileState, Ledger, StudyState
from dicom_listener.spool.verify import VerifyReport, contents_of_spool, verify
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import finish_studies, receive_instance


def look(spool: Spool, ledger: Ledger) -> VerifyReport:
    return verify(spool.root, ledger, contents_of_spool(ledger), now=lambda: 100)


def test_files_that_are_as_received_are_fine_and_every_byte_is_told(spool: Spool, ledger: Ledger) -> None:
    sizes = [receive_instance(spool, ledger, number=number).spooled.size_bytes for number in range(1, 6)]
    steps: list[int] = []
    report = verify(spool.root, ledger, contents_of_spool(ledger), now=lambda: 0, told=steps.append)
    assert report == VerifyReport(files=5, size_bytes=sum(sizes))
    assert sum(steps) == sum(sizes)


def test_missing_and_altered_files_are_found_written_down_and_found_again(
    spool: Spool, ledger: Ledger
) -> None:
    altered, missing, cut = (receive_instance(spool, ledger, number=number) for number in (1, 2, 3))
    file = spool.root / altered.spooled.path
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    (spool.root / missing.spooled.path).unlink()
    os.truncate(spool.root / cut.spooled.path, 10)
    expected = {
        altered.spooled.path: FileState.DAMAGED,
        missing.spooled.path: FileState.MISSING,
        cut.spooled.path: FileState.DAMAGED,
    }
    for _ in range(2):
        report = look(spool, ledger)
        assert {finding.content.path: finding.state for finding in report.findings} == expected
    assert {content.path: content.file_state for content in ledger.list_contents("1.2.3")} == expected
    assert ledger.counts_by_file_state() == {"missing": 1, "damaged": 2}


def test_a_file_that_cannot_be_read_is_damaged(spool: Spool, ledger: Ledger) -> None:
    received = receive_instance(spool, ledger)
    file = spool.root / received.spooled.path
    file.unlink()
    file.mkdir()
    assert [finding.state for finding in look(spool, ledger).findings] == [FileState.DAMAGED]


def test_a_file_that_is_right_again_is_restored_and_its_study_goes_round_again(
    spool: Spool, ledger: Ledger
) -> None:
    received = receive_instance(spool, ledger)
    finish_studies(ledger, now=5)
    file = spool.root / received.spooled.path
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\xff")
    assert len(look(spool, ledger).findings) == 1
    file.write_bytes(content)
    report = look(spool, ledger)
    assert (report.restored, report.findings) == (1, [])
    study = ledger.show_study("1.2.3")
    assert (study.lost_files, study.state) == (0, StudyState.RECEIVING)


def test_what_was_replaced_is_looked_at_too(spool: Spool, ledger: Ledger) -> None:
    replaced = receive_instance(spool, ledger, content=0)
    receive_instance(spool, ledger, content=1)
    (spool.root / replaced.spooled.path).unlink()
    [finding] = look(spool, ledger).findings
    assert not finding.content.is_at_work


def test_what_was_pruned_is_not_missed(spool: Spool, ledger: Ledger) -> None:
    received = receive_instance(spool, ledger)
    listed = ledger.list_contents("1.2.3")
    ledger.note_lost_files(listed, FileState.PRUNED, now=1)
    (spool.root / received.spooled.path).unlink()
    assert look(spool, ledger) == VerifyReport()
    # Pruned after it was listed: the ledger knows better than the list.
    assert verify(spool.root, ledger, listed, now=lambda: 2).findings == []
    assert ledger.counts_by_file_state() == {"missing": 0, "damaged": 0}
