from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.selection import Candidate, SelectionRules, select

names = st.sampled_from("abcd")
made_candidates = st.builds(
    Candidate,
    subject_key=names,
    study_key=names,
    instance_key=names,
    frame_index=st.integers(0, 20),
    view_confidence=st.floats(0, 1),
    fov_area_ratio=st.floats(0, 1),
    pixel_digest=st.integers(0, 30).map(str),
    source=names,
)
archives = st.lists(made_candidates, unique_by=lambda c: c.frame_key, max_size=60)
rule_sets = st.builds(
    SelectionRules,
    min_view_confidence=st.floats(0, 1),
    min_fov_area_ratio=st.floats(0, 1),
    max_frames_per_study=st.integers(1, 8),
    max_frames_per_subject=st.integers(1, 8),
)
SOME_IN_RESULTS = frozenset(f"{name}/{index:06d}" for name in "abc" for index in range(18))


@given(archives, rule_sets, st.randoms(use_true_random=False))
def test_order_does_not_matter(archive: list[Candidate], rules: SelectionRules, random: Random) -> None:
    shuffled = random.sample(archive, len(archive))
    assert select(shuffled, SOME_IN_RESULTS, rules) == select(archive, SOME_IN_RESULTS, rules)


@given(archives, rule_sets)
def test_every_rule_holds_for_what_is_kept(archive: list[Candidate], rules: SelectionRules) -> None:
    kept = select(archive, SOME_IN_RESULTS, rules).kept
    assert set(kept) <= set(archive)
    assert all(c.view_confidence >= rules.min_view_confidence for c in kept)
    assert all(c.fov_area_ratio >= rules.min_fov_area_ratio for c in kept)
    assert {c.frame_key for c in kept} <= SOME_IN_RESULTS
    assert len({c.pixel_digest for c in kept}) == len(kept)
    assert max(Counter(c.study_key for c in kept).values(), default=0) <= rules.max_frames_per_study
    assert max(Counter(c.subject_key for c in kept).values(), default=0) <= rules.max_frames_per_subject


@given(archives, rule_sets)
def test_every_candidate_is_kept_or_counted_once(archive: list[Candidate], rules: SelectionRules) -> None:
    selection = select(archive, SOME_IN_RESULTS, rules)
    assert len(selection.kept) + sum(selection.dropped.values()) == len(archive)


@given(archives, rule_sets)
def test_selecting_again_changes_nothing(archive: list[Candidate], rules: SelectionRules) -> None:
    kept = select(archive, SOME_IN_RESULTS, rules).kept
    again = select(kept, SOME_IN_RESULTS, rules)
    assert (again.kept, again.dropped) == (kept, {})


@given(archives, rule_sets)
def test_a_frame_that_breaks_no_rule_is_dropped_only_for_a_better_one(
    archive: list[Candidate], rules: SelectionRules
) -> None:
    """Without caps and duplicates, the rules look at one frame at a time."""
    wide = SelectionRules(rules.min_view_confidence, rules.min_fov_area_ratio, 1000, 1000)
    kept = set(select(archive, SOME_IN_RESULTS, wide).kept)
    for candidate in archive:
        alone = select([candidate], SOME_IN_RESULTS, wide).kept
        rivals = [c for c in kept if c.pixel_digest == candidate.pixel_digest]
        assert (candidate in kept) == (bool(alone) and rivals == [candidate])
