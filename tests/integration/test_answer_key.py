"""A short run of the answer key: one made-up patient, two studies. `benchmarks.deid_answer_key` is long."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from beam_jobs.deid import Pseudonymizer
from tests.answer_key import Ink, PlantedInstance, Rule, planted_studies, write
from tests.answer_key_score import KEY, Planted, Score, run, score


@pytest.fixture(scope="module")
def sent() -> list[Planted]:
    return list(planted_studies(("made", "apical"), subjects=1, most_frames=4, seed=3))


@pytest.fixture(scope="module")
def result(sent: Sequence[Planted], tmp_path_factory: pytest.TempPathFactory) -> Score:
    root = tmp_path_factory.mktemp("key")
    studies, counts = run(sent, root)
    assert counts == {"done": 2}
    return score(studies, root / "deid_archive")


def test_everything_that_was_planted_has_become_what_it_must(result: Score) -> None:
    # Text over the image is the reader's business, which may not be installed: see the next test.
    assert [miss for miss in result.misses if not miss.place.startswith("inside")] == []
    assert sum(result.asked.values()) > 400
    assert set(result.asked) == set(Rule)


def test_text_beside_the_image_is_hidden_and_the_image_stays(result: Score) -> None:
    for (where, is_hidden), count in result.by_where.items():
        assert is_hidden or where.startswith("inside"), (where, count)
    assert result.passed[Rule.PIXELS_RETAINED] == result.asked[Rule.PIXELS_RETAINED]


def test_the_scorer_sees_every_leak_in_a_file_that_nobody_cleaned(
    sent: Sequence[Planted], tmp_path: Path
) -> None:
    keys = Pseudonymizer(KEY)
    for _, instances in sent:
        for planted in instances:
            write(planted, tmp_path / f"{keys.instance_key(str(planted.ds.SOPInstanceUID))}.dcm")
    result = score(sent, tmp_path)
    for rule in (Rule.TEXT_REMOVED, Rule.UID_CHANGED, Rule.DATE_SHIFTED, Rule.PIXELS_HIDDEN):
        assert result.passed[rule] == 0, rule
    assert result.passed[Rule.TAG_RETAINED] == result.asked[Rule.TAG_RETAINED] > 0
    assert result.passed[Rule.PIXELS_RETAINED] == result.asked[Rule.PIXELS_RETAINED] > 0


def test_what_is_not_in_the_archive_counts_as_missed(sent: Sequence[Planted], tmp_path: Path) -> None:
    result = score(sent, tmp_path)
    assert result.ratio == 0
    assert {miss.why for miss in result.misses} == {"no file"}


def test_letters_are_planted_where_the_key_says(sent: Sequence[Planted]) -> None:
    instances: list[PlantedInstance] = [planted for _, found in sent for planted in found]
    inks = [answer.value for p in instances for answer in p.answers if isinstance(answer.value, Ink)]
    assert {ink.where for ink in inks} == {"above", "beside", "inside"}
    assert all(ink.mask.any() for ink in inks)
