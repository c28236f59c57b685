from collections import Counter
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.pooling.references import References
from beam_jobs.pooling.rules import PoolRules, cap, count_ranges, keep_within, ranges_by_machine, set_limits
from tests.pool_archive import StoredFrame
from tests.unit.beam_jobs.test_pool_references import references_of

UNHURRIED = settings(deadline=None)

names = st.sampled_from("abcd")
made_frames = st.builds(
    StoredFrame,
    subject=names,
    study=names,
    instance=names,
    index=st.integers(0, 40),
    texture=st.integers(0, 30),
    manufacturer=st.sampled_from(["Philips", "GE", None]),
)
archives = st.lists(
    made_frames, unique_by=lambda frame: (frame.study, frame.instance, frame.index), max_size=80
)
caps = st.integers(1, 40)
rule_sets = st.builds(
    PoolRules,
    max_frames_per_study=caps,
    max_frames_per_subject=caps,
    max_frames_per_machine=st.none() | caps,
    max_frames=st.none() | caps,
)


def chosen(references: References, rules: PoolRules) -> tuple[References, int]:
    """Apply everything that looks at many frames at once; say how many each of it dropped."""
    distinct = references.take(references.lowest("pixel_digest", 1))
    capped, by_caps = cap(distinct, rules)
    counts = {machine: count_ranges([ranges]) for machine, ranges in ranges_by_machine(capped).items()}
    kept, by_machine = keep_within(capped, set_limits(counts, rules))
    dropped = len(references) - len(distinct) + sum(by_caps.values()) + sum(by_machine.values())
    return kept, dropped


@UNHURRIED
@given(archives, rule_sets, st.randoms(use_true_random=False))
def test_order_does_not_matter(archive: list[StoredFrame], rules: PoolRules, random: Random) -> None:
    kept, _ = chosen(references_of(*archive), rules)
    shuffled, _ = chosen(references_of(*random.sample(archive, len(archive))), rules)
    assert sorted(shuffled.rows.tolist()) == sorted(kept.rows.tolist())


@UNHURRIED
@given(archives, rule_sets)
def test_every_cap_holds_and_every_frame_is_kept_or_counted_once(
    archive: list[StoredFrame], rules: PoolRules
) -> None:
    kept, dropped = chosen(references_of(*archive), rules)
    assert len(kept) + dropped == len(archive)
    assert len(np.unique(kept.rows["pixel_digest"])) == len(kept)
    for column, limit in (
        ("study_key", rules.max_frames_per_study),
        ("subject_key", rules.max_frames_per_subject),
        ("machine", rules.max_frames_per_machine),
    ):
        most = max(Counter(kept.rows[column].tolist()).values(), default=0)
        assert limit is None or most <= limit
    assert rules.max_frames is None or len(kept) <= rules.max_frames


@UNHURRIED
@given(archives)
def test_without_caps_only_duplicates_go(archive: list[StoredFrame]) -> None:
    kept, _ = chosen(references_of(*archive), PoolRules(max_frames=None))
    assert len(kept) == len({frame.texture for frame in archive})


@UNHURRIED
@given(archives)
def test_bytes_give_back_the_same_frames(archive: list[StoredFrame]) -> None:
    block = references_of(*archive)
    assert sorted(References.from_bytes(block.to_bytes()).rows.tolist()) == sorted(block.rows.tolist())
