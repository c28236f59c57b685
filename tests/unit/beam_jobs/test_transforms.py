import itertools
import random

import pytest

from beam_jobs.records import PredictedChunk, Rejection
from beam_jobs.transforms import StudyProgress, collect
from tests.unit.beam_jobs.predictions import chunk, rejection

RECORDS: list[PredictedChunk | Rejection] = [
    chunk("a", ("plax",) * 3, parts=0, instances=3),
    chunk("a", ("plax",) * 2, first=3, parts=2, instances=3),
    chunk("b", ("a4c",), instances=3),
    rejection("c", instances=3),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_study_is_complete_with_its_last_record_in_whatever_order(order: tuple[int, ...]) -> None:
    progress = StudyProgress()
    complete = []
    for index in order:
        assert progress.note(RECORDS[index])
        complete.append(progress.is_complete(3))
    assert complete == [False, False, False, True]


def test_a_record_that_comes_twice_counts_once() -> None:
    progress = StudyProgress()
    assert progress.note(RECORDS[1])
    assert not progress.note(RECORDS[1])
    for record in (RECORDS[2], RECORDS[3]):
        progress.note(record)
    assert not progress.is_complete(3)  # the first part of "a" is still to come


def test_a_rejection_closes_an_instance_whose_beginning_was_kept() -> None:
    progress = StudyProgress()
    progress.note(rejection("a", parts=2, kept=3))
    assert not progress.is_complete(1)
    progress.note(chunk("a", ("plax",) * 3, parts=0))
    assert progress.is_complete(1)


def test_a_collected_study_does_not_show_the_order_of_arrival() -> None:
    wanted = collect(RECORDS)
    assert [(c.placement.instance_key, c.first_frame_index) for c in wanted.chunks] == [
        ("a", 0),
        ("a", 3),
        ("b", 0),
    ]
    for seed in range(5):
        shuffled = random.Random(seed).sample(RECORDS, len(RECORDS))
        found = collect(shuffled)
        assert (found.chunks, found.rejections) == (wanted.chunks, wanted.rejections)
