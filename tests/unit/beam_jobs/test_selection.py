from collections.abc import Callable

import pytest

from beam_jobs.selection import Candidate, Fingerprint, Rule, SelectionRules, pixel_digest, select
from tests.pool_archive import StoredFrame

RULES = SelectionRules(
    min_view_confidence=0.6, min_fov_area_ratio=0.1, max_frames_per_study=3, max_frames_per_subject=5
)


def candidates(*frames: StoredFrame) -> list[Candidate]:
    return [frame.candidate() for frame in frames]


def keys(found: list[Candidate]) -> frozenset[str]:
    return frozenset(candidate.frame_key for candidate in found)


def cine(study: str, length: int, *, subject: str = "s", first_texture: int = 0) -> list[StoredFrame]:
    return [StoredFrame(subject, study, f"{study}-cine", i, first_texture + i) for i in range(length)]


def test_each_rule_drops_what_breaks_it_and_says_so() -> None:
    good = StoredFrame("s", "t", "i", 0, 1)
    unsure = StoredFrame("s", "t", "i", 1, 2, confidence=0.59)
    narrow = StoredFrame("s", "t", "i", 2, 3, fov_area_ratio=0.09)
    gone = StoredFrame("s", "t", "i", 3, 4)
    found = candidates(good, unsure, narrow, gone)
    selection = select(found, keys(candidates(good, unsure, narrow)), RULES)
    assert selection.kept == (good.candidate(),)
    assert selection.dropped == {
        Rule.LOW_CONFIDENCE: 1,
        Rule.SMALL_FIELD_OF_VIEW: 1,
        Rule.NOT_IN_RESULTS: 1,
    }


def test_a_frame_on_the_threshold_is_kept() -> None:
    rules = SelectionRules(min_view_confidence=0.5, min_fov_area_ratio=0.25)
    found = candidates(StoredFrame("s", "t", "i", 0, 1, confidence=0.5, fov_area_ratio=0.25))
    assert select(found, keys(found), rules).kept == tuple(found)


def test_of_equal_pixels_one_stays_even_across_subjects() -> None:
    found = candidates(StoredFrame("s", "t", "i", 0, 7), StoredFrame("u", "v", "j", 3, 7))
    selection = select(found, keys(found), RULES)
    assert selection.kept == (min(found, key=lambda c: c.rank),)
    assert selection.dropped == {Rule.DUPLICATE: 1}


def test_a_duplicate_that_breaks_another_rule_does_not_drive_out_the_good_one() -> None:
    good = StoredFrame("s", "t", "i", 0, 7)
    for index in range(1, 20):  # some of these rank lower than the good one
        found = candidates(good, StoredFrame("s", "t", "i", index, 7, confidence=0.1))
        assert select(found, keys(found), RULES).kept == (good.candidate(),)


def test_caps_hold_per_study_and_then_per_subject() -> None:
    found = candidates(*cine("t", 10), *cine("v", 10, first_texture=50))
    selection = select(found, keys(found), RULES)
    assert len(selection.kept) == 5
    assert selection.dropped == {Rule.OVER_STUDY_CAP: 14, Rule.OVER_SUBJECT_CAP: 1}
    assert max(sum(c.study_key == kept.study_key for c in selection.kept) for kept in selection.kept) == 3


def test_a_cap_spreads_over_the_cine() -> None:
    found = candidates(*cine("t", 300))
    kept = select(found, keys(found), SelectionRules(max_frames_per_study=60)).kept
    assert sum(candidate.frame_index < 150 for candidate in kept) == pytest.approx(30, abs=12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelectionRules(min_view_confidence=1.5), "min_view_confidence must be from 0 to 1"),
        (lambda: SelectionRules(min_fov_area_ratio=-0.1), "min_fov_area_ratio must be from 0 to 1"),
        (lambda: SelectionRules(max_frames_per_study=0), "max_frames_per_study must be at least 1"),
        (lambda: SelectionRules(max_frames_per_subject=0), "max_frames_per_subject must be at least 1"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(make: Callable[[], SelectionRules], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="19200 bytes"):
        pixel_digest(b"short")


def test_the_fingerprint_is_of_the_set_and_of_its_pixels() -> None:
    one, two = candidates(StoredFrame("s", "t", "i", 0, 1), StoredFrame("s", "t", "i", 1, 2))
    other_pixels = StoredFrame("s", "t", "i", 1, 3).candidate()

    def of(*members: Candidate) -> str:
        fingerprint = Fingerprint()
        for member in members:
            fingerprint.add(member)
        return fingerprint.hexdigest()

    joined = Fingerprint(of(one))
    joined.join(of(two))
    assert of(one, two) == of(two, one) == joined.hexdigest()
    assert len({of(), of(one), of(two), of(one, two), of(one, other_pixels)}) == 5
